use core::fmt;

use crate::state::{Candidate, Offer, Vote};

/// One step of one part. Numbers: `tracker`, `backend`, `incarnation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Display says what each of them is")]
pub enum Action {
    Head { tracker: u8, incarnation: u8, candidate: Candidate },
    Again { tracker: u8 },
    Second { tracker: u8, vote: Vote },
    Next { tracker: u8, candidate: Candidate },
    Free { tracker: u8 },
    Expire { tracker: u8 },
    Accept { tracker: u8, backend: u8, incarnation: u8 },
    Close { tracker: u8, backend: u8, incarnation: u8 },
    Unknown { tracker: u8 },
    Proof { tracker: u8 },
    Crash { tracker: u8 },
    Receive { tracker: u8, backend: u8 },
    WriteOff { tracker: u8, backend: u8 },
    Dead { tracker: u8, backend: u8 },
    Warm { tracker: u8 },
    List { tracker: u8 },
    Fence { tracker: u8 },
    Notice { tracker: u8, backend: u8 },
    Pull { tracker: u8 },
    Sole { tracker: u8 },
    Return { tracker: u8 },
    Normal { tracker: u8 },
    Take { offer: Offer },
    Cancel { backend: u8, incarnation: u8, forced: bool },
    End { backend: u8, incarnation: u8 },
    Deny { backend: u8 },
    Marker { backend: u8, tracker: u8 },
    Boot { backend: u8, tracker: u8 },
    BackendList { backend: u8 },
    Obey { backend: u8, tracker: u8 },
    Release { backend: u8, tracker: u8 },
    Silent { backend: u8 },
}

fn flow(incarnation: usize) -> &'static str {
    ["the flow", "the second incarnation"][incarnation]
}

struct Asked(Candidate);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Candidate::Backend(b) => write!(f, "B{b}"),
            Candidate::Force(b) => write!(f, "force(B{b})"),
            Candidate::Refused => write!(f, "refusing it"),
        }
    }
}

struct Voters(Offer);

impl fmt::Display for Voters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(a, a_boot), (b, b_boot)] = self.0.voters();
        let boot = |n| if n > 0 { format!(" (boot {n})") } else { String::new() };
        if a == b {
            write!(f, "T{a}{} alone", boot(a_boot))
        } else {
            write!(f, "T{a}{} and T{b}{}", boot(a_boot), boot(b_boot))
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Head { tracker, incarnation, candidate } => {
                write!(
                    f,
                    "T{tracker} is asked for {}, and votes for {}",
                    flow(incarnation.into()),
                    Asked(candidate)
                )
            }
            Self::Again { tracker } => {
                write!(f, "T{tracker} is asked again, and heads for what it stored")
            }
            Self::Second { tracker, vote } => write!(
                f,
                "T{tracker} gets T{}'s Open of {} for {} (boot {}, epoch {})",
                vote.tracker(),
                flow(vote.incarnation()),
                Asked(vote.candidate()),
                vote.boot(),
                vote.epoch(),
            ),
            Self::Next { tracker, candidate } => {
                write!(f, "T{tracker}'s candidate has refused: it votes for {}", Asked(candidate))
            }
            Self::Free { tracker } => {
                write!(f, "T{tracker}'s candidate has refused: its vote is free")
            }
            Self::Expire { tracker } => write!(f, "T{tracker}'s pending entry expires"),
            Self::Accept { tracker, backend, incarnation } => {
                write!(f, "T{tracker} gets B{backend}'s Accept of {}", flow(incarnation.into()))
            }
            Self::Close { tracker, backend, incarnation } => {
                write!(f, "T{tracker} gets B{backend}'s Close of {}", flow(incarnation.into()))
            }
            Self::Unknown { tracker } => write!(f, "T{tracker} answers a Query: unknown"),
            Self::Proof { tracker } => write!(
                f,
                "T{tracker} is shown a NotMine of its entry's backend, and drops the entry"
            ),
            Self::Crash { tracker } => write!(f, "T{tracker} crashes, and restarts empty"),
            Self::Receive { tracker, backend } => write!(f, "T{tracker} gets B{backend}'s marker"),
            Self::WriteOff { tracker, backend } => {
                write!(f, "T{tracker} writes off B{backend}'s marker by its own timer")
            }
            Self::Dead { tracker, backend } => {
                write!(f, "T{tracker} takes B{backend} for dead, wrongly")
            }
            Self::Warm { tracker } => write!(f, "T{tracker} is warm"),
            Self::List { tracker } => write!(f, "T{tracker} takes the new list"),
            Self::Fence { tracker } => write!(
                f,
                "T{tracker} takes both others for dead, and tells the agents that it is alone"
            ),
            Self::Notice { tracker, backend } => write!(
                f,
                "T{tracker} hears from B{backend} that there is or was a sole owner, and is cold"
            ),
            Self::Pull { tracker } => write!(f, "T{tracker} goes on: it is cold, and pulls anew"),
            Self::Sole { tracker } => write!(f, "T{tracker} is sole owner"),
            Self::Return { tracker } => write!(
                f,
                "T{tracker} hears another tracker, and tells the agents that two votes are needed again"
            ),
            Self::Normal { tracker } => write!(f, "T{tracker} is one of three again"),
            Self::Take { offer } => write!(
                f,
                "B{} is offered {} by {}, and takes it",
                offer.candidate().backend().unwrap_or_default(),
                flow(offer.incarnation()),
                Voters(offer),
            ),
            Self::Cancel { backend, incarnation, forced } => write!(
                f,
                "B{backend} refuses {}{}, asked or cancelled",
                flow(incarnation.into()),
                if forced { " (forced)" } else { "" },
            ),
            Self::End { backend, incarnation } => {
                write!(f, "{} ends on B{backend}", flow(incarnation.into()))
            }
            Self::Deny { backend } => write!(f, "B{backend} gets a stray packet, and says NotMine"),
            Self::Marker { backend, tracker } => {
                write!(f, "B{backend} lists its flows for T{tracker}, and fences")
            }
            Self::Boot { backend, tracker } => write!(f, "B{backend} learns T{tracker}'s boot id"),
            Self::BackendList { backend } => write!(f, "B{backend} takes the new list"),
            Self::Obey { backend, tracker } => {
                write!(f, "B{backend} obeys T{tracker} as the sole owner")
            }
            Self::Release { backend, tracker } => {
                write!(f, "B{backend} wants two votes again, as T{tracker} says")
            }
            Self::Silent { backend } => {
                write!(f, "B{backend} does not hear the sole owner, and wants two votes again")
            }
        }
    }
}
