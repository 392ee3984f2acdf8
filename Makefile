# `make` lists what there is. Nothing here needs more than Debian 12 and Rust.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin

# CI holds Cargo.lock to what is committed; at a desk cargo may complete it.
LOCKED := $(if $(CI),--locked)

# True where the tests of the lab can run: as root, or with a sudo that answers.
CAN_ROOT := [ "$$(id -u)" = 0 ] || { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }

# The lab only; cargo never runs as root in a user's tree.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: ## install the Debian packages that the build, the lab and the tests need (root or sudo)
	deploy/setup

.PHONY: undo-setup
undo-setup: ## remove exactly what setup installed
	deploy/undo-setup

.PHONY: build
build: ## build all daemons and tools
	cargo build --workspace --bins $(LOCKED)

.PHONY: demo
demo: ## from a fresh machine to curl through the whole chain (root or sudo)
	@deploy/demo

.PHONY: lab
lab: ## raise a lab and leave it up for playing (root or sudo); jlb-lab down ends it
	deploy/setup demo
	cargo build --workspace --bins --quiet $(LOCKED)
	@jlb_lab=$$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)/debug/jlb-lab; \
		$(AS_ROOT) $$jlb_lab up && $(AS_ROOT) $$jlb_lab status && \
		echo "Try: $(AS_ROOT) $$jlb_lab exec client curl -s http://203.0.113.10/    Down: $(AS_ROOT) $$jlb_lab down"

# What a release after this one is like to its neighbours; its own folder, so that neither build has to be made again.
NEXT := target/next

.PHONY: rolling
rolling: ## a rolling restart of all daemons to a build of the next protocol version and back, with live connections (root)
	cargo build --workspace --bins --quiet $(LOCKED)
	cargo test -p jlb-wire -p jlb-peers -p jlb-map --features jlb-wire/next-version --target-dir $(NEXT) --quiet $(LOCKED)
	cargo build --workspace --bins --features jlb-wire/next-version --target-dir $(NEXT) --quiet $(LOCKED)
	$(AS_ROOT) target/debug/jlb-bench disrupt --fault rolling --next-build $(NEXT)/debug --connections 200

.PHONY: test-nic
test-nic: ## the ingress on emulated cards (e1000e, vmxnet3, virtio) behind vfio-pci, in QEMU (root or sudo)
	deploy/setup
	FEATURES=jlb-lab/nic-tests .ci/root-tests an_ingress_on

.PHONY: instructions
instructions: ## instructions for each packet under callgrind; fails when a piece takes over 3 % more than stored
	deploy/setup
	bench/speed/count

.PHONY: check
check: ## formatting, lints, rules of the tree; unit, property and simulation tests (no root)
	deploy/setup --check demo
	cargo fmt --all --check
	.ci/tidy
	cargo clippy --workspace --all-targets --all-features --quiet $(LOCKED) -- -D warnings
	cargo test --workspace --quiet $(LOCKED)

.PHONY: soak
soak: ## simulate clusters in trouble, with checkers that watch, until interrupted
	cargo run --release --quiet -p jlb-bench $(LOCKED) -- sim --soak

.PHONY: fuzz
fuzz: ## fuzz every parser and state machine, FUZZ_SECONDS (60) each (needs cargo-fuzz)
	@bench/fuzz/run

.PHONY: sanitize
sanitize: ## tests of the crates with unsafe code, under AddressSanitizer (root or sudo)
	@deploy/setup demo
	@.ci/sanitize

.PHONY: test
test: ## setup if needed, check, and the end-to-end tests in the lab (root or sudo)
	@if ! { $(CAN_ROOT); }; then \
		$(MAKE) --no-print-directory check; \
		echo "make test: no root and no sudo: the end-to-end tests did not run (.ci/root-tests: DPDK ports, eBPF, lab)" >&2; \
		exit 1; \
	fi
	deploy/setup
	$(MAKE) --no-print-directory check
	.ci/root-tests
