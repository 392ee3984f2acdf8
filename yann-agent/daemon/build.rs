//! Compiles the eBPF programs of `yann-agent/bpf`; the daemon carries them inside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let source = Path::new("../bpf");
    for file in fs::read_dir(source)? {
        println!("cargo::rerun-if-changed={}", file?.path().display());
    }
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    // One list of reasons for drops, in Rust and in C.
    fs::write(out.join("reasons.h"), reasons())?;

    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    // Debian keeps <asm/types.h> in a folder of the architecture, which `-target bpf` does not know.
    let multiarch = format!("/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    let done = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(&out)
        .arg(format!("-I{multiarch}"))
        .arg("-c")
        .arg(source.join("yann.bpf.c"))
        .arg("-o")
        .arg(out.join("yann.bpf.o"))
        .status()
        .map_err(|e| format!("cannot run {}: {e}", clang.display()))?;
    if done.success() { Ok(()) } else { Err("clang could not compile the eBPF programs".into()) }
}

fn reasons() -> String {
    let names = jlb_role::Reason::ALL.iter();
    let names: String = names.map(|r| format!("\tDROP_{},\n", r.label().to_uppercase())).collect();
    format!("enum drop_reason {{\n{names}\tDROP_REASONS,\n}};\n")
}
