//! The allocator at work, as this test's own.

use std::fs;

use jlb_hugepages::HugePages;

#[global_allocator]
static MEMORY: HugePages = HugePages;

const MIB: usize = 1 << 20;

#[test]
fn large_vectors_keep_their_content_whatever_their_size() {
    let mut v: Vec<u8> = Vec::new();
    // By way of realloc: small, over the boundary, larger, and back.
    for n in 0..5 * MIB {
        v.push((n % 251) as u8);
    }
    assert!(v.iter().enumerate().all(|(n, &b)| b == (n % 251) as u8));
    v.truncate(MIB);
    v.shrink_to_fit();
    assert!(v.iter().enumerate().all(|(n, &b)| b == (n % 251) as u8));
    assert!(vec![0u8; 3 * MIB].iter().all(|&b| b == 0));
}

#[test]
fn a_large_table_is_advised_to_be_on_huge_pages() {
    let table = vec![1u8; 16 * MIB];
    let place = table.as_ptr() as usize;
    assert_eq!(place % (2 * MIB), 0);
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = maps.lines().skip_while(|line| {
        let range = line.split_whitespace().next().and_then(|r| r.split_once('-'));
        let ends = range.and_then(|(a, b)| {
            Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?))
        });
        !ends.is_some_and(|(from, to)| (from..to).contains(&(place + MIB)))
    });
    let flags = ours.find(|line| line.starts_with("VmFlags:")).unwrap();
    let never = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    // "hg": the advice was taken. A kernel without huge pages takes none.
    assert!(never.is_err() || flags.split_whitespace().any(|f| f == "hg"), "{flags}");
    assert!(table.iter().all(|&b| b == 1));
}
