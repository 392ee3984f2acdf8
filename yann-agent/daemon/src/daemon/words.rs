//! What the host says of itself: to the kernel half, to the trackers, to whoever asks.

use jlb_role::Role as _;
use jlb_wire::RejectReason;
use jlb_yann_core::AgentEvent;
use tracing::warn;

use super::{Yann, now};
use crate::config;

impl Yann {
    /// Says to the kernel half, and to the trackers, which services this host wants new flows of.
    pub(super) fn say_words(&mut self) {
        let Self { checks, load, maps, cluster, me, .. } = self;
        let over = load.is_over();
        let said = config::say(maps, *me, cluster, |service| checks.refusal(service, over));
        // It is tried again every second.
        self.unsaid = said.is_err();
        if let Err(e) = said {
            warn!("cannot note what this host refuses: {e}");
        }
        self.tell_words();
    }

    /// The services of this host, and why it wants no new flows of them, if it wants none.
    pub(super) fn words(&self) -> impl Iterator<Item = (&str, Option<RejectReason>)> {
        let ours = self.cluster.services().iter().filter(|s| s.backend(self.me).is_some());
        let over = self.load.is_over();
        ours.map(move |s| (s.name.as_str(), self.checks.refusal(&s.name, over)))
    }

    pub(super) fn tell_words(&mut self) {
        for (number, service) in (0..).zip(self.cluster.services()) {
            if service.backend(self.me).is_some() {
                let word = self.checks.refusal(&service.name, self.load.is_over());
                let share = self.checks.share(&service.name);
                let event = AgentEvent::Word { service: number, word, share };
                self.agent.event(now(), event, &mut self.out);
            }
        }
    }
}
