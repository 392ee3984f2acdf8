//! Debian's own kernel boots in QEMU and has what the agent's eBPF programs need there.

use std::path::Path;
use std::time::Duration;

use jlb_lab::vm::Vm;

/// Ten times what it takes alone on a core.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn debians_kernel_takes_clsact_on_a_veth_and_describes_its_types() {
    let mut vm = Vm::new().unwrap();
    for module in ["veth", "sch_ingress", "cls_bpf"] {
        vm.module(module).unwrap();
    }
    vm.program(Path::new("/usr/sbin/tc")).unwrap();
    let script = "set -eu
uname -r
test -s /sys/kernel/btf/vmlinux
ip link add eth0 type veth peer name eth1
/bin/tc qdisc add dev eth0 clsact
/bin/tc qdisc show dev eth0
exit 7
";
    let outcome = vm.run(script, PATIENCE).unwrap();
    assert_eq!(outcome.status, 7, "{}", outcome.output);
    assert!(outcome.output.starts_with("6.1."), "{}", outcome.output);
    assert!(outcome.output.contains("qdisc clsact"), "{}", outcome.output);
}
