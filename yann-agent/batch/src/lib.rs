//! Reads an eBPF hash map in batches (`BPF_MAP_LOOKUP_BATCH`, bpf(2), from Linux 5.6), which aya does not have.
//!
//! One by one, each entry costs two system calls and a search, and whoever walks begins again when the entry at hand is taken
//! away. In batches the kernel goes from bucket to bucket, each under its lock: what is there all the time is given once.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Commands of bpf(2), and a type of map: linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Entries in a call at first; more when a bucket has more.
const BATCH: usize = 4096;

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Default)]
struct Info {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// `struct { … } info` of `union bpf_attr`.
#[repr(C)]
#[derive(Debug)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}
/// `struct { … } batch` of `union bpf_attr`, linux/bpf.h.
#[repr(C)]
#[derive(Debug, Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Gives each entry of a hash map with keys of `K` bytes and values of `V`. What comes or goes meanwhile may be among them.
///
/// # Errors
/// The kernel's, and [`io::ErrorKind::InvalidInput`] when it is no such map. Then not all entries were given.
pub fn each<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8; K], &[u8; V]),
) -> io::Result<()> {
    let info = info(map)?;
    // The kernel writes as much as the map's own sizes say.
    if (info.kind, info.key_size, info.value_size) != (BPF_MAP_TYPE_HASH, K as u32, V as u32) {
        let other = "no hash map with keys and values of these sizes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, other));
    }
    let mut keys = vec![[0; K]; BATCH];
    let mut values = vec![[0; V]; BATCH];
    // Where the kernel goes on: the number of a bucket.
    let mut place: Option<u32> = None;
    loop {
        let mut next = 0_u32;
        let mut attr = Attr {
            in_batch: place.as_ref().map_or(0, |place| core::ptr::from_ref(place) as u64),
            out_batch: core::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Attr::default()
        };
        // SAFETY: all that the attributes point to outlives the call. `place` and `next` are 4 bytes, as it is for hash maps;
        // keys and values have room for `count` of the map's own sizes.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let error = result.err();
        match error.as_ref().and_then(io::Error::raw_os_error) {
            // More than a bucket's entries must fit.
            Some(libc::ENOSPC) if keys.len() < info.max_entries as usize => {
                keys.resize(keys.len() * 2, [0; K]);
                values.resize(values.len() * 2, [0; V]);
                continue;
            }
            Some(libc::EINTR) => continue,
            // The end; the last ones may come with it.
            None | Some(libc::ENOENT) => {}
            Some(other) => return Err(io::Error::from_raw_os_error(other)),
        }
        let count = (attr.count as usize).min(keys.len());
        keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
        if error.is_some() {
            return Ok(());
        }
        place = Some(next);
    }
}

fn info(map: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = Info::default();
    let at = core::ptr::from_mut(&mut info) as u64;
    let mut attr = InfoAttr { fd: map.as_raw_fd() as u32, len: size_of::<Info>() as u32, info: at };
    // SAFETY: `info` outlives the call, and has room for `len` bytes.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// bpf(2).
///
/// # Safety
/// `attr` is what the command takes; what it points to is there until the call ends, with room for what the kernel writes.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<()> {
    // SAFETY: as above; the attributes are as long as is said.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_map_cannot_be_read() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(each::<4, 8>(file.as_fd(), |_, _| panic!("no entry")).is_err());
    }
}
