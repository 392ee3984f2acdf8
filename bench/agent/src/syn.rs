//! What the programs take for each new connection, in the kernel's own measure.
//!
//! Each Open is a run of its own, of another flow: the programs drop what they have heard before, and change the packet in
//! place, so the kernel's `repeat` would measure something else. What such a run itself takes is measured with a packet
//! that the programs leave alone after two looks, and taken off.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use jlb_map::Admission;
use jlb_wire::{
    Control, Encapsulation, FiveTuple, Flags, HOP_BUDGET, Incarnation, Kind, Load,
    MAX_FLOW_HEADERS, Payload, RejectReason, Tried, Version, flow_headers,
};
use jlb_yann::maps::{Maps, MapsError};
use jlb_yann::programs::{Capacities, Programs};
use serde::Serialize;

use crate::host::{Host, output};
use crate::list::{self, BACKEND, CAPACITY, HEAD, INGRESS, SECOND, Served};
use crate::{Error, go_on, median};

/// Rounds that [`crate::run`] makes: with their flows they fit the programs' maps.
pub const ROUNDS: u32 = 40;
/// Opens of each kind in a round.
const OPENS: u32 = 1000;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// A server listens there.
const TAKEN: u16 = 80;
/// The host wants none there.
const REFUSED: u16 = 81;
const UNDERLAY_PORT: u16 = 6081;

/// Where things are in a frame: behind Ethernet and IPv4; behind UDP, Geneve, the option's own header and 80 bytes of it.
const ETHERNET: usize = 14;
const UDP_PORT: usize = ETHERNET + 20 + 2;
const MAC: usize = ETHERNET + 20 + 8 + 8 + 4 + 80;

/// What a TC program says: `TC_ACT_UNSPEC` (the stack goes on with it), `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
const GO_ON: u32 = u32::MAX;
const DROP: u32 = 2;
const SENT: u32 = 7;

/// Nanoseconds for each packet: of the best round, and the median of rounds. What a run itself takes is off.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// An Open that is admitted, MAC included: until the SYN goes to the stack.
    pub ns_per_syn: f64,
    /// The same, median.
    pub median_ns_per_syn: f64,
    /// Of it, the MAC.
    pub ns_mac: f64,
    /// Of it, all but the MAC: headers, sender, votes, the decision and its record, decapsulation.
    pub ns_beside_mac: f64,
    /// Of it, what comes after the MAC: the decision, its record, decapsulation.
    pub ns_decision: f64,
    /// An Open that is refused: both MACs, and the answer.
    pub ns_per_refusal: f64,
    /// What was taken off.
    pub ns_of_a_run: f64,
    /// Opens that were admitted.
    pub syns: u32,
}

/// What is run, and how it must end.
#[derive(Clone, Copy, Debug)]
enum Run {
    /// No Geneve: for what a run takes.
    Foreign,
    /// Dropped just before its MAC is looked at: it is longer than its inner packet.
    TooLong,
    /// Dropped for its MAC.
    Forged,
    Refused,
    Admitted,
}

impl Run {
    const ALL: [Self; 5] =
        [Self::Foreign, Self::TooLong, Self::Forged, Self::Refused, Self::Admitted];

    const fn ends(self) -> u32 {
        match self {
            Self::Foreign | Self::Admitted => GO_ON,
            Self::TooLong | Self::Forged => DROP,
            Self::Refused => SENT,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Foreign => "a packet that is left alone",
            Self::TooLong => "a drop before the MAC",
            Self::Forged => "a drop for the MAC",
            Self::Refused => "a refusal",
            Self::Admitted => "an admission",
        }
    }
}

/// Measures it, on a host of its own.
///
/// # Errors
/// [`Error`].
pub fn measure(rounds: u32, interrupted: &AtomicBool) -> Result<Figures, Error> {
    Host::new()?.within(|| measure_here(rounds, interrupted))
}

fn measure_here(rounds: u32, interrupted: &AtomicBool) -> Result<Figures, Error> {
    output(Command::new("ip").args(["addr", "add", &format!("{VIP}/32"), "dev", "lo"]))?;
    let listener = std::net::TcpListener::bind((VIP, TAKEN)).map_err(Error::System)?;
    let capacities = Capacities { flows: CAPACITY, answers: CAPACITY };
    let (mut programs, mut maps) = Programs::load(None, capacities)?;
    let served =
        Served { vip: VIP, ports: vec![(TAKEN, Admission::Accept), (REFUSED, Admission::Refuse)] };
    let list = list::snapshot((list::address(BACKEND), list::address(INGRESS)), &served)?;
    list::configure(&mut maps, &list)?;

    let mut opens = Opens { number: 0 };
    let mut of_rounds: [Vec<f64>; Run::ALL.len()] = Default::default();
    for _ in 0..rounds {
        go_on(interrupted)?;
        for (run, of_rounds) in Run::ALL.into_iter().zip(&mut of_rounds) {
            // Made before, so that nothing of ours comes between two runs.
            let frames: Vec<_> = (0..OPENS).map(|_| opens.next(run)).collect::<Result<_, _>>()?;
            let mut sum = 0.0;
            for frame in &frames {
                let (said, took) = programs.time("jlb_ingress", frame)?;
                if said != run.ends() {
                    return Err(Error::Unexpected { what: run.what(), said });
                }
                sum += took.as_nanos() as f64;
            }
            of_rounds.push(sum / f64::from(OPENS));
        }
        // As flows come and go, what one leaves is used by the next.
        forget(&mut maps)?;
    }
    drop(listener);
    Ok(Figures::of(&of_rounds, rounds * OPENS))
}

/// All flows and answers.
fn forget(maps: &mut Maps) -> Result<(), MapsError> {
    maps.flows.replace(&[])?;
    maps.answers.replace(&[])?;
    maps.live_all.set(0, &0)?;
    Ok(())
}

impl Figures {
    fn of([foreign, no_kind, forged, refused, admitted]: &[Vec<f64>; 5], syns: u32) -> Self {
        let best = |of: &[f64]| of.iter().copied().fold(f64::INFINITY, f64::min);
        let of_a_run = best(foreign);
        let ns_mac = best(forged) - best(no_kind);
        let ns_per_syn = best(admitted) - of_a_run;
        Self {
            ns_per_syn,
            median_ns_per_syn: median(admitted) - median(foreign),
            ns_mac,
            ns_beside_mac: ns_per_syn - ns_mac,
            ns_decision: best(admitted) - best(forged),
            ns_per_refusal: best(refused) - of_a_run,
            ns_of_a_run: of_a_run,
            syns,
        }
    }
}

/// Makes frames, each of a flow that was not there yet.
struct Opens {
    number: u32,
}

impl Opens {
    fn next(&mut self, run: Run) -> Result<Vec<u8>, Error> {
        self.number += 1;
        let port = if matches!(run, Run::Refused) { REFUSED } else { TAKEN };
        // Below 198.51.100.0 + 2²⁴, whatever the number.
        let client = Ipv4Addr::from_bits(0xc633_6400_u32.wrapping_add(self.number >> 15));
        let client = SocketAddr::from((client, 1024 + (self.number & 0x7fff) as u16));
        let tuple = list::tcp(client, SocketAddr::new(VIP, port))?;
        let mut control = self.open();
        if matches!(run, Run::Foreign | Run::TooLong | Run::Forged) {
            // Neither heard nor recorded: numbers go on for those that are.
            control.sequence = 1;
        }
        // A byte behind the inner packet is found after all headers are parsed, just before the MAC is looked at.
        let mut frame = frame(&control, &tuple, usize::from(matches!(run, Run::TooLong)))?;
        match run {
            Run::Foreign => frame[UDP_PORT] ^= 0xff,
            Run::Forged => frame[MAC] ^= 1,
            Run::TooLong | Run::Refused | Run::Admitted => {}
        }
        Ok(frame)
    }

    fn open(&self) -> Control {
        Control {
            kind: Kind::Open,
            version: Version::OLDEST,
            hop_budget: HOP_BUDGET,
            reject_ttl: 3,
            epoch: jlb_wire::Epoch(1),
            incarnation: Incarnation(self.number),
            cookie: 0x0001_0002,
            ingress: Some(INGRESS),
            head: Some(HEAD),
            second: Some(SECOND),
            backend: Some(BACKEND),
            sender: SECOND,
            receiver: BACKEND,
            flags: Flags::default(),
            reason: RejectReason::None,
            load: Load::default(),
            tried: Tried::default(),
            boot: list::boot(SECOND),
            sequence: u64::from(self.number),
            word_a: list::boot(HEAD).0,
            word_b: list::boot(SECOND).0,
        }
    }
}

/// With so many bytes too many at its end.
fn frame(control: &Control, tuple: &FiveTuple, excess: usize) -> Result<Vec<u8>, Error> {
    let mut inner = [0; MAX_FLOW_HEADERS];
    let len = flow_headers(tuple, control.incarnation, &mut inner);
    let option = control.emit(tuple, &list::mac_keys());
    let outer = Encapsulation {
        src: list::address(SECOND),
        dst: list::address(BACKEND),
        source_port: 50_000,
        port: UNDERLAY_PORT,
        traffic_class: 0,
    };
    let payload = Payload::Control { option: &option, v6: false };
    let headers = outer.header_len(payload);
    let mut frame = vec![0; ETHERNET + headers];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    outer
        .emit(payload, len + excess, &mut frame[ETHERNET..])
        .map_err(|e| Error::List(e.to_string()))?;
    frame.extend_from_slice(&inner[..len]);
    frame.resize(frame.len() + excess, 0);
    Ok(frame)
}
