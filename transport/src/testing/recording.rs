//! A wrapper that keeps what passes.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;

use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::Operation;
use crate::transport::{Request, Response, Status, Transport};

/// One call as it passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What was asked.
    pub operation: Operation,
    /// The encoded request.
    pub request: Bytes,
    /// Whether it was done; `None` while no response has begun, and when none came.
    pub status: Option<Status>,
    /// The bytes of the response body that the caller has taken.
    pub response: Vec<u8>,
    /// Whether the caller saw the clean end of the body.
    pub complete: bool,
    /// How the call or its body failed, if it did.
    pub error: Option<TransportErrorKind>,
}

/// Keeps each call of `inner` with the bytes of its request and response. Clones share one record.
#[derive(Debug, Clone)]
pub struct Recording<T> {
    inner: T,
    log: Log,
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Recorded>>>);

impl Log {
    fn with<R>(&self, f: impl FnOnce(&mut Vec<Recorded>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Transport> Recording<T> {
    /// Returns `inner` with an empty record.
    pub fn new(inner: T) -> Self {
        Self { inner, log: Log::default() }
    }

    /// Returns the calls so far, in the order in which they were begun.
    #[must_use]
    pub fn calls(&self) -> Vec<Recorded> {
        self.log.with(|calls| calls.clone())
    }
}

#[async_trait]
impl<T: Transport> Transport for Recording<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let log = self.log.clone();
        let index = log.with(|calls| {
            calls.push(Recorded {
                operation: request.operation,
                request: request.body.clone(),
                status: None,
                response: Vec::new(),
                complete: false,
                error: None,
            });
            calls.len() - 1
        });
        let answer = self.inner.call(request).await;
        log.with(|calls| match &answer {
            Ok(response) => calls[index].status = Some(response.status),
            Err(error) => calls[index].error = Some(error.kind()),
        });
        let Response { status, retry_after, length, body } = answer?;
        let end = log.clone();
        let body = body
            .inspect(move |chunk| {
                log.with(|calls| match chunk {
                    Ok(chunk) => calls[index].response.extend_from_slice(chunk),
                    Err(error) => calls[index].error = Some(error.kind()),
                });
            })
            .chain(futures::stream::poll_fn(move |_| {
                end.with(|calls| calls[index].complete = calls[index].error.is_none());
                std::task::Poll::Ready(None)
            }));
        Ok(Response { status, retry_after, length, body: body.boxed() })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fault, Faulty, MockTransport};

    #[tokio::test]
    async fn both_ways_are_kept_and_only_a_clean_end_is_complete() {
        let mut mock = MockTransport::new();
        mock.expect_endpoint().return_const("mock:".to_owned());
        mock.expect_call().returning(|_| Ok(Response::whole(Status::Accepted, Bytes::from_static(b"answer"))));
        let recording = Recording::new(Faulty::new(mock).on(2, Fault::Truncate { after: 3 }));
        for _ in 0..2 {
            let request = Request { operation: Operation::CheckIn, body: Bytes::from_static(b"question") };
            drop(recording.call(request).await.unwrap().into_bytes(100, "mock:").await);
        }
        let calls = recording.calls();
        assert_eq!(calls[0].operation, Operation::CheckIn);
        assert_eq!((&calls[0].request[..], &calls[0].response[..], calls[0].complete), (&b"question"[..], &b"answer"[..], true));
        assert_eq!((&calls[1].response[..], calls[1].complete), (&b"ans"[..], false));
        assert_eq!(calls[1].error, Some(TransportErrorKind::Closed));
    }
}
