use std::fs::File;
use std::io::{self, Read as _};

use jlb_wire::BootId;

/// 64 bits of the kernel's randomness, for seeds.
///
/// # Errors
/// When `/dev/urandom` cannot be read.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A boot id for this process. Never 0, which stands for "none known".
///
/// # Errors
/// As [`random_u64`].
pub fn fresh_boot_id() -> io::Result<BootId> {
    random_u64().map(|n| BootId(n.max(1)))
}
