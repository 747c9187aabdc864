//! A transport that counts what the one inside carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use direct_puppet_transport::{Request, Response, Transport, TransportError};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::outcome::WireCounters;

/// Counts calls and bytes of bodies.
#[derive(Debug, Clone)]
pub(crate) struct Counted<T> {
    inner: T,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl<T> Counted<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Returns the counts so far; contents are counted by who fetches them.
    pub(crate) fn counters(&self) -> WireCounters {
        WireCounters {
            requests: self.counts.requests.load(Ordering::Relaxed),
            bytes_sent: self.counts.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.counts.bytes_received.load(Ordering::Relaxed),
            ..WireCounters::default()
        }
    }
}

#[async_trait]
impl<T: Transport> Transport for Counted<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes_sent.fetch_add(request.body.len() as u64, Ordering::Relaxed);
        let mut response = self.inner.call(request).await?;
        let counts = Arc::clone(&self.counts);
        response.body = response
            .body
            .inspect_ok(move |chunk| {
                counts.bytes_received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            })
            .boxed();
        Ok(response)
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
