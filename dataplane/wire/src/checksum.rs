//! The Internet checksum (RFC 1071).

/// Sums 16-bit words; an odd last byte counts as its high half.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    // The sum may be taken in wider words and in any byte order, and swapped at the end (RFC 1071, section 2).
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|w| u64::from(u32::from_le_bytes(*w))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    u32::from(fold64(total + u64::from(u32::from_le_bytes(last))).swap_bytes())
}

/// Folds partial sums into the checksum field's value.
#[must_use]
#[inline]
pub const fn finish(sum: u32) -> u16 {
    !fold64(sum as u64)
}

/// Sum of the pseudo header of RFC 793 (IPv4) or RFC 8200 (IPv6): both addresses, the upper-layer length, protocol.
#[must_use]
pub fn pseudo_header(addresses: &[u8], length: usize, protocol: u8) -> u32 {
    let length = length as u32;
    sum(addresses) + (length >> 16) + (length & 0xffff) + u32::from(protocol)
}

/// Without a loop: how often it would turn depends on the packet, and cannot be guessed.
#[inline]
const fn fold64(total: u64) -> u16 {
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_are_those_of_the_plain_loop_over_words(bytes in prop::collection::vec(any::<u8>(), 0..70), high: bool) {
            let bytes: Vec<u8> = bytes.iter().map(|b| if high { b | 0xf0 } else { *b }).collect();
            let mut plain = 0u64;
            for word in bytes.chunks(2) {
                plain += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
            }
            while plain > 0xffff {
                plain = (plain >> 16) + (plain & 0xffff);
            }
            prop_assert_eq!(u64::from(sum(&bytes)), plain);
        }

        #[test]
        fn everything_folds_into_sixteen_bits(total: u64) {
            let mut plain = total;
            while plain > 0xffff {
                plain = (plain >> 16) + (plain & 0xffff);
            }
            prop_assert_eq!(u64::from(fold64(total)), plain);
        }
    }
}
