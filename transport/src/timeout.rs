//! A wrapper that bounds how long a call may make no progress.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use crate::error::{TransportError, TransportErrorKind};
use crate::transport::{BodyStream, Request, Response, Transport};

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of a call until the response begins.
    pub response: Duration,
    /// For each chunk of the body, counted only while the caller waits for one.
    pub stall: Duration,
}

impl Timeouts {
    /// Returns `body` ended by an error, [`TransportErrorKind::Timeout`], once a chunk takes longer than [`Timeouts::stall`]. Nothing is
    /// taken ahead of the caller, and only the time in which it waits for a chunk counts.
    #[must_use]
    pub fn bound(&self, body: BodyStream, endpoint: impl Into<String>) -> BodyStream {
        bounded(body, self.stall, endpoint.into())
    }
}

/// Ends a call as [`TransportErrorKind::Timeout`] when its response does not begin or its body stalls.
#[derive(Debug, Clone)]
pub struct Timeout<T> {
    inner: T,
    timeouts: Timeouts,
}

impl<T: Transport> Timeout<T> {
    /// Returns `inner` bounded by `timeouts`.
    pub const fn new(inner: T, timeouts: Timeouts) -> Self {
        Self { inner, timeouts }
    }
}

#[async_trait]
impl<T: Transport> Transport for Timeout<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let limit = self.timeouts.response;
        let operation = request.operation;
        let Ok(answer) = tokio::time::timeout(limit, self.inner.call(request)).await else {
            let detail = format!("no response to {operation} began within {limit:?}");
            return Err(TransportError::new(TransportErrorKind::Timeout, self.endpoint()).with_detail(detail));
        };
        let response = answer?;
        let body = self.timeouts.bound(response.body, self.endpoint());
        Ok(Response { body, ..response })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

/// Ends `body` with an error once a chunk takes longer than `stall`; nothing is taken ahead of the caller.
fn bounded(body: BodyStream, stall: Duration, endpoint: String) -> BodyStream {
    stream::unfold(Some((body, endpoint)), move |state| async move {
        let (mut body, endpoint) = state?;
        match tokio::time::timeout(stall, body.next()).await {
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(Some(chunk)) => Some((chunk, Some((body, endpoint)))),
            Err(_) => {
                let detail = format!("no part of the body came within {stall:?}");
                Some((Err(TransportError::new(TransportErrorKind::Timeout, endpoint).with_detail(detail)), None))
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::Operation;
    use crate::transport::Status;

    const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_secs(10), stall: Duration::from_secs(5) };

    /// Answers after a delay with one chunk, then never again.
    #[derive(Debug)]
    struct Slow(Duration);

    #[async_trait]
    impl Transport for Slow {
        async fn call(&self, _: Request) -> Result<Response, TransportError> {
            tokio::time::sleep(self.0).await;
            let body = stream::iter([Ok(Bytes::from_static(b"a"))]).chain(stream::pending()).boxed();
            Ok(Response { status: Status::Accepted, retry_after: None, length: None, body })
        }

        fn endpoint(&self) -> &str {
            "slow:"
        }
    }

    fn request() -> Request {
        Request { operation: Operation::Fetch, body: Bytes::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_does_not_begin_times_out() {
        let error = Timeout::new(Slow(Duration::from_secs(11)), TIMEOUTS).call(request()).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_ends_with_one_error_and_a_slow_caller_is_not_punished() {
        let mut response = Timeout::new(Slow(Duration::from_secs(9)), TIMEOUTS).call(request()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(response.body.next().await.unwrap().unwrap(), "a");
        let begun = tokio::time::Instant::now();
        assert_eq!(response.body.next().await.unwrap().unwrap_err().kind(), TransportErrorKind::Timeout);
        assert_eq!(begun.elapsed(), TIMEOUTS.stall);
        assert!(response.body.next().await.is_none());
    }
}
