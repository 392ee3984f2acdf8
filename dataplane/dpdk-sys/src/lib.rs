//! Raw bindings to the part of DPDK 22.11 that JLB uses, made by bindgen from the installed headers, and a small C
//! shim (`shim.c`) for what DPDK offers only as static inline functions. Nothing here is safe or pleasant: `jlb-dpdk`
//! is the layer to use.
//!
//! DPDK is linked as shared libraries: the drivers are plugins then, which EAL loads by itself.
//!
//! The shim is called once per *burst*; what is done per packet (looking at an mbuf, moving its edges) is written in
//! Rust on the fields of [`rte_mbuf`], since three calls per packet were measured to cost 8.5 ns.
#![allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from DPDK's headers, and named as there"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
