//! Generates the bindings and compiles the shim, both with exactly the flags that the installed DPDK asks for.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// Functions, each used by `jlb-dpdk`. An allowlist: without one, bindgen drags in half of libc.
const FUNCTIONS: &[&str] = &[
    "jlb_.*",
    "rte_dev_probe",
    "rte_eal_alarm_set",
    "rte_eal_cleanup",
    "rte_eal_init",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
];
const TYPES: &[&str] = &[
    "rte_mbuf",
    "rte_eth_conf",
    "rte_eth_dev_info",
    "rte_eth_link",
    "rte_eth_stats",
    "rte_ether_addr",
];
const VARIABLES: &[&str] = &[
    "JLB_NO_LCORE",
    "RTE_ETHER_ADDR_LEN",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_MAX_ETHPORTS",
    "RTE_MAX_LCORE",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
];
/// All that is linked; drivers are plugins.
const LIBRARIES: &[&str] = &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["build.rs", "src/shim.h", "src/shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");

    let version = pkg_config("--modversion")?;
    if !version.starts_with("22.11.") {
        return Err(format!(
            "found DPDK {version}, but these bindings are for 22.11: run `deploy/setup`"
        )
        .into());
    }
    // All flags, not only the -I that the pkg-config crate would pass on: `-include rte_config.h` and `-march` decide
    // on the layout of structures.
    let flags = pkg_config("--cflags")?;
    let flags: Vec<&str> = flags.split_whitespace().collect();

    let mut shim = cc::Build::new();
    shim.file("src/shim.c").flag("-std=gnu11").warnings(true).extra_warnings(true);
    for flag in &flags {
        // Warnings inside DPDK's own headers are not ours to mend.
        shim.flag(flag.replacen("-I", "-isystem", 1));
    }
    shim.try_compile("jlb_dpdk_shim").map_err(|e| {
        format!(
            "cannot compile the shim: {e}\n`deploy/setup` installs the compiler and DPDK's headers"
        )
    })?;

    let mut bindings = bindgen::builder()
        .header("src/shim.h")
        .clang_args(&flags)
        .layout_tests(true)
        .generate_comments(false)
        .derive_default(true)
        .prepend_enum_name(false)
        .rust_edition(bindgen::RustEdition::Edition2024);
    bindings = FUNCTIONS.iter().fold(bindings, bindgen::Builder::allowlist_function);
    bindings = TYPES.iter().fold(bindings, bindgen::Builder::allowlist_type);
    bindings = VARIABLES.iter().fold(bindings, bindgen::Builder::allowlist_var);
    let bindings = bindings.generate().map_err(|e| {
        format!("cannot generate the bindings: {e}\n`deploy/setup` installs clang and libclang")
    })?;
    bindings.write_to_file(PathBuf::from(std::env::var("OUT_DIR")?).join("bindings.rs"))?;

    for flag in pkg_config("--libs-only-L")?.split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={folder}");
        }
    }
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    Ok(())
}

fn pkg_config(what: &str) -> Result<String, Box<dyn Error>> {
    let output = Command::new("pkg-config")
        .args([what, "libdpdk"])
        .output()
        .map_err(|e| format!("cannot run pkg-config ({e}): `deploy/setup` installs it"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "DPDK's development files (libdpdk-dev) are missing: `deploy/setup` installs them\n{complaint}"
        )
        .into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
