//! Collects the flows of the kernel half for trackers that pull them, on a thread of its own: a million entries take a
//! while, and heartbeats and Closes do not wait.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jlb_role::{Collect, Nanos};
use jlb_wire::{FiveTuple, RefreshRecord};
use jlb_yann_core::AgentEvent;
use jlb_yann_core::maps::{Answer, AnswerKey, Flow, Shared};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::maps::{ArrayOf, HashOf, MapsError};

/// Longer than any program runs: what it read from a map before is used by then.
const PROGRAMS_END: Duration = Duration::from_millis(10);

/// Why there is no collection. Trackers pull again.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A map.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The thread.
    #[error("the collecting thread ended: {0}")]
    Thread(#[from] JoinError),
}

/// What a daemon collects, and for whom.
#[derive(Debug)]
pub struct Collector {
    reader: Arc<Reader>,
    /// Came while another collection was under way. Bounded by the agent's sessions.
    waiting: Vec<Collect>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    orders: Vec<Collect>,
    thread: JoinHandle<Result<Collected, CollectError>>,
}

/// Handles of their own, for the other thread.
#[derive(Debug)]
struct Reader {
    word: ArrayOf<Shared, 24>,
    flows: HashOf<[u8; 40], Flow, 40, 72>,
    answers: HashOf<AnswerKey, Answer, 48, 32>,
    now: fn() -> Nanos,
}

#[derive(Debug)]
struct Collected {
    counter: u64,
    records: Arc<[RefreshRecord]>,
}

impl Collector {
    /// From the pinned maps.
    ///
    /// # Errors
    /// When one is not there.
    pub fn new(pins: &Path, now: fn() -> Nanos) -> Result<Self, MapsError> {
        let reader = Reader {
            word: ArrayOf::pinned(pins, "word")?,
            flows: HashOf::pinned(pins, "flows")?,
            answers: HashOf::pinned(pins, "answers")?,
            now,
        };
        Ok(Self { reader: Arc::new(reader), waiting: Vec::new(), under_way: None })
    }

    /// Begins a collection, or remembers to do so after that which is under way. The map of boots must hold the order's boot
    /// by now. Inside of a tokio runtime.
    pub fn order(&mut self, order: Collect) {
        // Who asks again has begun anew.
        self.waiting.retain(|o| (o.tracker, o.nonce) != (order.tracker, order.nonce));
        self.waiting.push(order);
        self.begin();
    }

    fn begin(&mut self) {
        if self.under_way.is_none() && !self.waiting.is_empty() {
            let reader = Arc::clone(&self.reader);
            let orders = core::mem::take(&mut self.waiting);
            let thread = spawn_blocking(move || reader.collect());
            self.under_way = Some(UnderWay { orders, thread });
        }
    }

    /// Waits for the end of what is under way, and gives an event for each who ordered it. Loses nothing when dropped.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn done(&mut self) -> Result<Vec<AgentEvent>, CollectError> {
        let Some(UnderWay { thread, .. }) = &mut self.under_way else { return pending().await };
        let ended = thread.await;
        let orders = self.under_way.take().map(|u| u.orders).unwrap_or_default();
        self.begin();
        let Collected { counter, records } = ended??;
        let event = |Collect { tracker, nonce, .. }: Collect| AgentEvent::Flows {
            tracker,
            nonce,
            counter,
            records: Arc::clone(&records),
        };
        Ok(orders.into_iter().map(event).collect())
    }
}

impl Reader {
    /// The steps of docs/protocol.md, section 6, from the second one on.
    fn collect(&self) -> Result<Collected, CollectError> {
        std::thread::sleep(PROGRAMS_END);
        let counter = self.word.get(0).map_err(MapsError::from)?.counter;
        std::thread::sleep(PROGRAMS_END);
        let mut records = Vec::new();
        // A flow that closes meanwhile is found in one of the two: it goes into the second before it leaves the first.
        // Half a list would be taken for the whole: an error ends it.
        let flow = |tuple, flow: Flow| {
            records.extend(FiveTuple::from_padded(tuple).map(|tuple| flow.record(tuple)));
        };
        self.flows.each(flow).map_err(MapsError::from)?;
        let now = (self.now)();
        let answer = |key, answer: Answer| records.extend(answer.record(now, &key));
        self.answers.each(answer).map_err(MapsError::from)?;
        Ok(Collected { counter, records: records.into() })
    }
}
