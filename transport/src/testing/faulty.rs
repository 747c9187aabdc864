//! A wrapper that breaks calls as a test has written it down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};

use crate::error::{TransportError, TransportErrorKind};
use crate::transport::{BodyStream, Request, Response, Transport};

/// What goes wrong in one call. Byte counts are of the response body, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nobody listens: [`TransportErrorKind::Connect`], nothing is sent.
    Refuse,
    /// The call starts only after this long; then it goes well.
    Delay(Duration),
    /// The server acts, but its answer never begins.
    Hang,
    /// The server acts, but the connection is gone before its answer begins: [`TransportErrorKind::Closed`].
    Drop,
    /// The body breaks off as [`TransportErrorKind::Closed`] after this many bytes.
    Truncate {
        /// How many bytes arrive.
        after: u64,
    },
    /// The body stops after this many bytes and nothing ever follows, not even an error.
    Stall {
        /// How many bytes arrive.
        after: u64,
    },
    /// The body ends as if it were complete after this many bytes: a proxy that hides a broken connection.
    EndEarly {
        /// How many bytes arrive.
        after: u64,
    },
    /// One byte of the body arrives with all its bits turned.
    Corrupt {
        /// Which byte.
        at: u64,
    },
}

/// Breaks calls of `inner` by their number, from 1. Clones share the count.
///
/// A fault counts as fired only when it has changed what the caller sees: a truncation behind the end of a body does
/// not. Tests assert on [`Faulty::fired`], so that a fault that never happened is no proof.
#[derive(Debug, Clone)]
pub struct Faulty<T> {
    inner: T,
    script: BTreeMap<u32, Fault>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: AtomicU32,
    fired: Mutex<Vec<(u32, Fault)>>,
}

impl Shared {
    fn fire(&self, number: u32, fault: &Fault) {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).push((number, fault.clone()));
    }
}

impl<T: Transport> Faulty<T> {
    /// Returns `inner` without any fault.
    pub fn new(inner: T) -> Self {
        Self { inner, script: BTreeMap::new(), shared: Arc::default() }
    }

    /// Adds a fault for call number `call`, from 1; replaces one that was there.
    #[must_use]
    pub fn on(mut self, call: u32, fault: Fault) -> Self {
        self.script.insert(call, fault);
        self
    }

    /// Returns how many calls have been begun.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Returns the faults that have happened, with the number of their call.
    #[must_use]
    pub fn fired(&self) -> Vec<(u32, Fault)> {
        self.shared.fired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many faults have happened.
    #[must_use]
    pub fn fired_count(&self) -> usize {
        self.shared.fired.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn error(&self, kind: TransportErrorKind, number: u32) -> TransportError {
        TransportError::new(kind, self.endpoint()).with_detail(format!("scripted fault in call {number}"))
    }
}

#[async_trait]
impl<T: Transport> Transport for Faulty<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let number = self.shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(fault) = self.script.get(&number) else { return self.inner.call(request).await };
        match fault {
            Fault::Refuse => {
                self.shared.fire(number, fault);
                return Err(self.error(TransportErrorKind::Connect, number));
            }
            Fault::Delay(delay) => {
                self.shared.fire(number, fault);
                tokio::time::sleep(*delay).await;
            }
            _ => {}
        }
        let response = self.inner.call(request).await?;
        match fault {
            Fault::Hang => {
                self.shared.fire(number, fault);
                drop(response);
                std::future::pending().await
            }
            Fault::Drop => {
                self.shared.fire(number, fault);
                Err(self.error(TransportErrorKind::Closed, number))
            }
            Fault::Refuse | Fault::Delay(_) => Ok(response),
            Fault::Truncate { .. } | Fault::Stall { .. } | Fault::EndEarly { .. } | Fault::Corrupt { .. } => {
                let breaker = Breaker {
                    fault: fault.clone(),
                    number,
                    shared: Arc::clone(&self.shared),
                    seen: 0,
                    error: Some(self.error(TransportErrorKind::Closed, number)),
                };
                // The length that was announced stays: a hidden break does not correct it either.
                Ok(Response { body: breaker.wrap(response.body), ..response })
            }
        }
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

/// Breaks one body.
struct Breaker {
    fault: Fault,
    number: u32,
    shared: Arc<Shared>,
    seen: u64,
    error: Option<TransportError>,
}

impl Breaker {
    fn wrap(self, body: BodyStream) -> BodyStream {
        stream::unfold(Some((self, body)), |state| async move {
            let (mut breaker, mut body) = state?;
            if breaker.left() == Some(0) {
                return breaker.at_cut(body).await;
            }
            match body.next().await? {
                Err(error) => Some((Err(error), None)),
                Ok(chunk) => {
                    let chunk = breaker.pass(chunk);
                    Some((Ok(chunk), Some((breaker, body))))
                }
            }
        })
        .fuse()
        .boxed()
    }

    /// Returns how many bytes may still pass before the cut.
    fn left(&self) -> Option<u64> {
        match self.fault {
            Fault::Truncate { after } | Fault::Stall { after } | Fault::EndEarly { after } => {
                Some(after.saturating_sub(self.seen))
            }
            _ => None,
        }
    }

    fn pass(&mut self, mut chunk: Bytes) -> Bytes {
        if let Some(left) = self.left() {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        if let Fault::Corrupt { at } = self.fault
            && let Some(index) = at.checked_sub(self.seen).and_then(|index| usize::try_from(index).ok())
            && index < chunk.len()
        {
            let mut bytes = BytesMut::from(&chunk[..]);
            bytes[index] = !bytes[index];
            self.shared.fire(self.number, &self.fault);
            self.seen += bytes.len() as u64;
            return bytes.freeze();
        }
        self.seen += chunk.len() as u64;
        chunk
    }

    /// What comes at the place of the cut.
    async fn at_cut(mut self, body: BodyStream) -> Option<(Result<Bytes, TransportError>, Option<(Self, BodyStream)>)> {
        self.shared.fire(self.number, &self.fault);
        drop(body);
        match self.fault {
            Fault::Stall { .. } => std::future::pending().await,
            Fault::Truncate { .. } => self.error.take().map(|error| (Err(error), None)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Operation;
    use crate::testing::MockTransport;
    use crate::transport::Status;

    /// Answers `0123456789` in chunks of four bytes.
    fn digits() -> MockTransport {
        let mut mock = MockTransport::new();
        mock.expect_endpoint().return_const("mock:".to_owned());
        mock.expect_call().returning(|_| {
            let chunks: Vec<_> = b"0123456789".chunks(4).map(|chunk| Ok(Bytes::from_static(chunk))).collect();
            Ok(Response { status: Status::Accepted, retry_after: None, length: None, body: stream::iter(chunks).boxed() })
        });
        mock
    }

    async fn call(transport: &impl Transport) -> Result<Vec<u8>, (TransportErrorKind, Vec<u8>)> {
        let request = Request { operation: Operation::Fetch, body: Bytes::new() };
        let mut response = transport.call(request).await.map_err(|error| (error.kind(), Vec::new()))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.body.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) => return Err((error.kind(), bytes)),
            }
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn each_fault_hits_its_call_only() {
        use TransportErrorKind::{Closed, Connect};
        let faulty = Faulty::new(digits())
            .on(1, Fault::Refuse)
            .on(2, Fault::Drop)
            .on(3, Fault::Truncate { after: 5 })
            .on(4, Fault::EndEarly { after: 5 })
            .on(5, Fault::Corrupt { at: 9 })
            .on(6, Fault::Truncate { after: 0 });
        assert_eq!(call(&faulty).await, Err((Connect, Vec::new())));
        assert_eq!(call(&faulty).await, Err((Closed, Vec::new())));
        assert_eq!(call(&faulty).await, Err((Closed, b"01234".to_vec())));
        assert_eq!(call(&faulty).await, Ok(b"01234".to_vec()));
        assert_eq!(call(&faulty).await, Ok(b"012345678\xc6".to_vec()));
        assert_eq!(call(&faulty).await, Err((Closed, Vec::new())));
        assert_eq!(call(&faulty).await, Ok(b"0123456789".to_vec()));
        assert_eq!((faulty.calls(), faulty.fired_count()), (7, 6));
    }

    #[tokio::test]
    async fn a_fault_that_never_happens_is_not_counted() {
        let faulty =
            Faulty::new(digits()).on(1, Fault::Truncate { after: 11 }).on(2, Fault::Corrupt { at: 10 }).on(9, Fault::Drop);
        for _ in 0..2 {
            assert_eq!(call(&faulty).await, Ok(b"0123456789".to_vec()));
        }
        assert_eq!(faulty.fired(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_pass_and_hangs_do_not() {
        let minute = Duration::from_secs(60);
        let faulty = Faulty::new(digits()).on(1, Fault::Delay(minute)).on(2, Fault::Hang).on(3, Fault::Stall { after: 4 });
        let begun = tokio::time::Instant::now();
        assert!(call(&faulty).await.is_ok());
        assert_eq!(begun.elapsed(), minute);
        assert!(tokio::time::timeout(minute, call(&faulty)).await.is_err());
        assert!(tokio::time::timeout(minute, call(&faulty)).await.is_err());
        assert_eq!(faulty.fired_count(), 3);
    }
}
