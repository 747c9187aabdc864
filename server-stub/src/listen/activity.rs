//! What goes on on one connection, so that it can be closed when nothing does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use direct_puppet_transport::{BodyStream, TransportError};
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;

use super::Limits;

/// Counts requests and bodies of one connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests so far.
    requests: u64,
    /// Requests that are being answered.
    handlers: usize,
    /// Answers whose body is not yet out.
    bodies: usize,
    /// Of these, how many wait for the server itself, not for the peer.
    producing: usize,
    /// The last request has come in whole.
    is_in: bool,
    /// When something last happened.
    last: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            requests: 0,
            handlers: 0,
            bodies: 0,
            producing: 0,
            is_in: false,
            last: Instant::now(),
        })))
    }

    /// Counts a request until the guard is dropped; says whether it has come in whole.
    pub(super) fn request(&self, is_in: bool) -> Working {
        let mut state = self.lock();
        state.requests += 1;
        state.handlers += 1;
        state.is_in = is_in;
        state.last = Instant::now();
        Working(self.clone())
    }

    /// Counts `body` until it is dropped.
    pub(super) fn body(&self, body: BodyStream) -> Watched {
        self.lock().bodies += 1;
        Watched { body, activity: self.clone(), producing: false, error: None }
    }

    /// Returns when the connection will have been quiet for too long; `None` while the server itself is at work.
    pub(super) fn quiet_until(&self, limits: &Limits) -> Option<Instant> {
        let state = self.lock();
        let patience = match (state.bodies, state.requests) {
            _ if state.handlers > 0 || state.producing > 0 => return None,
            (0, 0) => limits.header_read_timeout,
            (0, _) => limits.idle_timeout,
            _ => limits.stall_timeout,
        };
        Some(state.last + patience)
    }

    /// Says that the last request has come in whole.
    pub(super) fn is_in(&self) {
        let mut state = self.lock();
        // The clock is not asked twice for a request without a body.
        if !state.is_in {
            state.is_in = true;
            state.last = Instant::now();
        }
    }

    /// Says that something came.
    pub(super) fn has_come(&self) {
        self.lock().last = Instant::now();
    }

    /// Returns since when nothing has happened on an HTTP/1.1 connection; `None` before the first request, while a part of one or of an answer
    /// is to come, and where a part of a request never came.
    pub(super) fn nothing_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.bodies == 0 && state.is_in).then_some(state.last)
    }

    /// Returns how many requests there were.
    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Returns whether an answer is under way.
    pub(super) fn is_answering(&self) -> bool {
        let state = self.lock();
        state.handlers > 0 || state.bodies > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counters are right after every statement, so a panic elsewhere cannot have left them wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Working(Activity);

impl Drop for Working {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.handlers -= 1;
        state.last = Instant::now();
    }
}

/// A body that is counted.
pub(super) struct Watched {
    body: BodyStream,
    activity: Activity,
    producing: bool,
    /// An error that is told with the next poll.
    error: Option<TransportError>,
}

impl Stream for Watched {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut polled = self.body.poll_next_unpin(context);
        if let Poll::Ready(Some(Err(error))) = polled {
            // HTTP/1.1 throws away what it has buffered once the body fails; a pause before lets it send that.
            self.error = Some(error);
            context.waker().wake_by_ref();
            polled = Poll::Pending;
        }
        let producing = polled.is_pending();
        let before = std::mem::replace(&mut self.producing, producing);
        let mut state = self.activity.lock();
        state.producing = state.producing - usize::from(before) + usize::from(producing);
        state.last = Instant::now();
        drop(state);
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.bodies -= 1;
        state.producing -= usize::from(self.producing);
        state.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_is_measured_only_while_the_peer_is_awaited() {
        let (limits, start) = (Limits::default(), Instant::now());
        let activity = Activity::new();
        assert_eq!(activity.quiet_until(&limits), Some(start + limits.header_read_timeout));
        let working = activity.request(true);
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(activity.quiet_until(&limits), None);
        let body = stream::iter([Ok(Bytes::new())]).chain(stream::pending()).boxed();
        let mut body = activity.body(body);
        drop(working);
        assert_eq!(activity.quiet_until(&limits), Some(Instant::now() + limits.stall_timeout));
        assert!(body.next().await.is_some());
        assert!(activity.quiet_until(&limits).is_some());
        assert!(futures::poll!(body.next()).is_pending());
        assert_eq!(activity.quiet_until(&limits), None, "the server is at work");
        drop(body);
        assert_eq!(activity.quiet_until(&limits), Some(Instant::now() + limits.idle_timeout));
        assert!(!activity.is_answering());
    }
}
