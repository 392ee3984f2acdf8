use jlb_ingress_core::{Ingress, IngressConfig, IngressEvent};
use jlb_role::{AllRules, FakeBuf, Nanos, Role as _, WorkerId};
use jlb_wire::BootId;

use crate::play::Play;
use crate::script::Script;
use crate::site::{INGRESS, id, snapshot};

const FLOWS: usize = 6;
const PENDING: usize = 3;

/// Bytes as a script for an ingress.
pub fn ingress(bytes: &[u8]) {
    let mut s = Script::new(bytes);
    let (me, now) = (id(INGRESS[0]), Nanos::from_secs(1));
    let config = IngressConfig {
        id: me,
        worker: WorkerId(0),
        workers: 1,
        boot: BootId(u64::from(me.as_u16())),
        seed: 7,
        flow_capacity: FLOWS,
        pending_capacity: PENDING,
    };
    let role: Ingress<FakeBuf> =
        Ingress::new(config, snapshot(0), AllRules, now).expect("sizes that it takes");
    let mut play = Play::new(role, me, now);
    while !s.is_over() {
        match s.below(8) {
            0..=2 => play.client_packet(&mut s),
            3 => play.raw(&mut s),
            4 => match s.below(4) {
                0 => {
                    let list = play.site.publish(play.now);
                    play.role.event(play.now, IngressEvent::Snapshot(list), &mut play.io);
                }
                1 => {
                    let leaving = IngressEvent::Leaving(s.flip());
                    play.role.event(play.now, leaving, &mut play.io);
                }
                _ => {}
            },
            _ => play.step(&mut s),
        }
        let (entries, packets) = play.role.waiting();
        let flows = play.role.flows();
        assert!(
            entries <= PENDING && packets <= entries * 9,
            "{entries} entries, {packets} packets"
        );
        assert_eq!(flows.pending, entries as u64);
        assert!(flows.pending + flows.established + flows.closing <= FLOWS as u64, "{flows:?}");
    }
    play.settle();
    assert_eq!(play.role.waiting(), (0, 0), "nothing waits for longer than a second");
}
