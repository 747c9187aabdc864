//! What a host hears while a run goes on.

use direct_puppet_transport::protocol::report::{Event, Log};
use direct_puppet_transport::protocol::{CatalogId, RunStatus};
use futures::Stream;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::outcome::Answer;

/// How many events a slow listener may be behind before it loses some; it then hears [`RunEvent::Missed`].
const EVENT_BACKLOG: usize = 4096;

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Take the run lock.
    Lock,
    /// Ask the server about the catalog.
    CheckIn,
    /// Compare files with the catalog.
    Scan,
    /// Get the missing contents.
    Fetch,
    /// Change what differs.
    Apply,
    /// Write the state, send the report.
    Report,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEvent {
    /// A phase began.
    Phase(Phase),
    /// It is known which catalog is applied.
    Catalog {
        /// Its id.
        catalog_id: CatalogId,
        /// Where it came from.
        answer: Answer,
    },
    /// Files scanned so far.
    Scanned {
        /// Done.
        files: u64,
        /// Of so many.
        total: u64,
    },
    /// Contents fetched so far.
    Fetched {
        /// Contents complete and verified.
        contents: u64,
        /// Of so many.
        total: u64,
        /// Bytes received.
        bytes: u64,
        /// Of so many; 0 where that is not known, as when a server of Puppet names contents without their sizes.
        total_bytes: u64,
    },
    /// A change was made, failed, or would have been made.
    Change(Box<Event>),
    /// A command of a resource said a line.
    Said(Box<Log>),
    /// Something that the administrator should know.
    Warning(String),
    /// The run came to its end.
    Finished(RunStatus),
    /// The listener was too slow for this many events.
    Missed(u64),
}

/// Where a run puts its events; every listener gets all of them.
#[derive(Debug, Clone)]
pub(crate) struct EventSink {
    sender: broadcast::Sender<RunEvent>,
}

impl EventSink {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(EVENT_BACKLOG).0 }
    }

    pub(crate) fn send(&self, event: RunEvent) {
        // Nobody listening is fine.
        let _listeners = self.sender.send(event);
    }

    /// Sends what `event` makes, if somebody listens.
    pub(crate) fn send_with(&self, event: impl FnOnce() -> RunEvent) {
        if self.sender.receiver_count() > 0 {
            self.send(event());
        }
    }

    pub(crate) fn listen(&self) -> impl Stream<Item = RunEvent> + Send + Unpin + 'static {
        let receiver = self.sender.subscribe();
        Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(RecvError::Lagged(count)) => Some((RunEvent::Missed(count), receiver)),
                Err(RecvError::Closed) => None,
            }
        }))
    }
}
