use jlb_wire::MemberId;

/// Offers of ours that their backends have not answered yet, by backend. Those of all services count together: they are
/// few, and each is answered within a round trip.
#[derive(Debug)]
pub struct Offers(Box<[u32]>);

impl Default for Offers {
    fn default() -> Self {
        Self(vec![0; usize::from(MemberId::MAX) + 1].into_boxed_slice())
    }
}

impl Offers {
    /// One more is under way.
    pub fn add(&mut self, backend: MemberId) {
        self.0[backend.index()] += 1;
    }

    /// One of them was answered, or taken back.
    pub fn remove(&mut self, backend: MemberId) {
        let offers = &mut self.0[backend.index()];
        *offers = offers.saturating_sub(1);
    }

    /// How many are under way.
    #[must_use]
    pub fn of(&self, backend: MemberId) -> u32 {
        self.0[backend.index()]
    }
}
