//! The member list in etcd.
#![forbid(unsafe_code)]
