//! The Internet checksum (RFC 1071).

/// Sums 16-bit words; an odd last byte counts as its high half.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = words.by_ref().map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    u32::from(fold64(total))
}

/// Folds partial sums into the checksum field's value.
#[must_use]
pub fn finish(sum: u32) -> u16 {
    !fold64(u64::from(sum))
}

/// Sum of the pseudo header of RFC 793 (IPv4) or RFC 8200 (IPv6): both addresses, the upper-layer length, protocol.
#[must_use]
pub fn pseudo_header(addresses: &[u8], length: usize, protocol: u8) -> u32 {
    let length = length as u32;
    sum(addresses) + (length >> 16) + (length & 0xffff) + u32::from(protocol)
}

fn fold64(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}
