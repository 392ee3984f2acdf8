//! MACs of many control messages at once: one waits for each of its own rounds, eight side by side take little longer.

use jlb_siphash::{Sip24, TOGETHER};

use crate::{Control, FiveTuple, MacKey, MacKeys};

/// Words under a control message's MAC: the option but for its MAC, and the tuple.
const WORDS: usize = (Control::SIGNED + FiveTuple::LEN) / 8;
const _: () = assert!(WORDS * 8 == Control::SIGNED + FiveTuple::LEN);
const _: () = assert!(Control::LEN - Control::SIGNED == size_of::<u64>());

/// What a control message's MAC covers, in words of little-endian order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed([u64; WORDS]);

impl Signed {
    /// Of the option's body about the flow with that tuple; `None` when it is too short.
    #[must_use]
    #[inline]
    pub fn of(option: &[u8], tuple: &FiveTuple) -> Option<Self> {
        let option: &[u8; Control::SIGNED] = option.first_chunk()?;
        let mut words = [0; WORDS];
        let bytes = option.as_chunks().0.iter().chain(tuple.padded().as_chunks().0);
        for (word, bytes) in words.iter_mut().zip(bytes) {
            *word = u64::from_le_bytes(*bytes);
        }
        // The hop budget counts as 0.
        words[Control::HOP_BUDGET_AT / 8] &= !(0xff << (Control::HOP_BUDGET_AT % 8 * 8));
        Some(Self(words))
    }

    /// The MAC under a key.
    #[must_use]
    #[inline]
    pub fn mac(&self, key: &MacKey) -> u64 {
        Sip24::new(&key.0).hash(&self.0)
    }

    /// The MACs of up to [`TOGETHER`] messages under one key; those of more are left out.
    #[must_use]
    pub fn macs(messages: &[Self], key: &MacKey) -> [u64; TOGETHER] {
        let sip = Sip24::new(&key.0);
        // As long as four would take one by one.
        if messages.len() < TOGETHER / 2 {
            let mut macs = [0; TOGETHER];
            macs.iter_mut().zip(messages).for_each(|(mac, message)| *mac = sip.hash(&message.0));
            return macs;
        }
        let mut words = [[0; TOGETHER]; WORDS];
        for (n, message) in messages.iter().take(TOGETHER).enumerate() {
            words.iter_mut().zip(message.0).for_each(|(lanes, word)| lanes[n] = word);
        }
        sip.hash_all(&words)
    }
}

impl MacKeys {
    /// Which of up to [`TOGETHER`] messages have the MAC that belongs to them; those of more are left out.
    #[must_use]
    pub fn fit(&self, messages: &[Signed], macs: &[u64]) -> [bool; TOGETHER] {
        let ours = Signed::macs(messages, &self.current);
        let mut fit = [false; TOGETHER];
        for (n, (message, &mac)) in messages.iter().zip(macs).take(TOGETHER).enumerate() {
            fit[n] = ours[n] == mac || self.other.is_some_and(|key| message.mac(&key) == mac);
        }
        fit
    }
}

/// How to finish a packet with a control message that is complete but for its MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    key: MacKey,
    tuple: FiveTuple,
    /// Where the option's body begins in the packet.
    option: usize,
}

impl Seal {
    /// For an option whose body begins at `option`.
    #[must_use]
    pub const fn new(key: MacKey, tuple: FiveTuple, option: usize) -> Self {
        Self { key, tuple, option }
    }

    /// The key that it signs with.
    #[must_use]
    pub const fn key(&self) -> &MacKey {
        &self.key
    }

    /// For the same packet with so many more bytes in front of it.
    #[must_use]
    pub const fn behind(self, bytes: usize) -> Self {
        Self { option: self.option + bytes, ..self }
    }

    /// What is to be signed; `None` when there is no option.
    #[must_use]
    #[inline]
    pub fn signed(&self, packet: &[u8]) -> Option<Signed> {
        Signed::of(packet.get(self.option..)?, &self.tuple)
    }

    /// Writes the MAC. (Without an option it does nothing.)
    #[inline]
    pub fn put(&self, packet: &mut [u8], mac: u64) {
        let at = self.option + Control::SIGNED;
        if let Some(place) = packet.get_mut(at..at + size_of::<u64>()) {
            place.copy_from_slice(&mac.to_be_bytes());
        }
    }

    /// Signs one packet.
    pub fn write(&self, packet: &mut [u8]) {
        if let Some(signed) = self.signed(packet) {
            self.put(packet, signed.mac(&self.key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CONTROL_OPTION_LEN;

    const HEADER: usize = CONTROL_OPTION_LEN - Control::LEN;

    /// Options about different flows, signed under that key by someone else's SipHash, byte by byte.
    fn options(key: &MacKey) -> Vec<(Vec<u8>, FiveTuple)> {
        use core::hash::Hasher as _;
        let option = |n: u8| {
            let tuple = FiveTuple::v6([n; 16], [2; 16], [0, n, 0, 80], crate::Protocol::Tcp);
            let mut option = vec![n; Control::LEN];
            let mut sip = siphasher::sip::SipHasher24::new_with_key(&key.0);
            let mut signed = option[..Control::SIGNED].to_vec();
            signed[Control::HOP_BUDGET_AT] = 0;
            sip.write(&signed);
            sip.write(tuple.padded());
            option[Control::SIGNED..].copy_from_slice(&sip.finish().to_be_bytes());
            (option, tuple)
        };
        (1..=TOGETHER as u8).map(option).collect()
    }

    #[test]
    fn many_are_signed_and_verified_as_one_by_one() {
        let (key, other) = (MacKey([7; 16]), MacKey([8; 16]));
        for signer in [key, other] {
            let options = options(&signer);
            for count in 0..=TOGETHER {
                let of =
                    |(option, tuple): &(Vec<u8>, FiveTuple)| Signed::of(option, tuple).unwrap();
                let signed: Vec<_> = options[..count].iter().map(of).collect();
                let macs: Vec<_> =
                    options[..count].iter().map(|(o, _)| Control::mac_of(o).unwrap()).collect();
                assert_eq!(Signed::macs(&signed, &signer)[..count], macs);
                let both = MacKeys { current: key, other: Some(other) };
                assert_eq!(both.fit(&signed, &macs), core::array::from_fn(|n| n < count));
                let one = MacKeys::single(key);
                assert_eq!(one.fit(&signed, &macs)[..count], vec![signer == key; count]);
                for wrong in 0..count {
                    let mut macs = macs.clone();
                    macs[wrong] ^= 1;
                    let expected = core::array::from_fn(|n| n < count && n != wrong);
                    assert_eq!(both.fit(&signed, &macs), expected);
                }
            }
        }
    }

    #[test]
    fn a_seal_puts_the_mac_where_it_belongs_and_nothing_else() {
        let key = MacKey([7; 16]);
        for (option, tuple) in options(&key) {
            let mut packet = [&[0xee; HEADER][..], &option, b"inner"].concat();
            let whole = packet.clone();
            packet[HEADER + Control::SIGNED..][..8].fill(0);
            Seal::new(key, tuple, HEADER).write(&mut packet);
            assert_eq!(packet, whole);
            let mut framed = [&[0; 14][..], &packet].concat();
            framed[14 + HEADER + Control::SIGNED..][..8].fill(0);
            let seal = Seal::new(key, tuple, HEADER).behind(14);
            let mac = seal.signed(&framed).unwrap().mac(seal.key());
            seal.put(&mut framed, mac);
            assert_eq!(framed[14..], whole);
        }
        let mut short = [1; Control::LEN - 1];
        Seal::new(key, options(&key)[0].1, 0).write(&mut short);
        assert_eq!(short, [1; Control::LEN - 1]);
    }
}
