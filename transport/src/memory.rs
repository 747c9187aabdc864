//! The in-memory transport: straight to a [`Handler`] in the same process.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::TransportError;
use crate::handler::{Handler, Peer, dispatch};
use crate::transport::{Request, Response, Transport};

/// Calls a handler directly. The reference for what every other transport does.
#[derive(Debug, Clone)]
pub struct MemoryTransport {
    handler: Arc<dyn Handler>,
    peer: Peer,
}

impl MemoryTransport {
    /// Returns a transport whose calls reach `handler` as [`Peer::InProcess`].
    pub fn new(handler: Arc<dyn Handler>) -> Self {
        Self::as_peer(handler, Peer::InProcess)
    }

    /// Returns a transport whose calls reach `handler` as `peer`.
    pub fn as_peer(handler: Arc<dyn Handler>, peer: Peer) -> Self {
        Self { handler, peer }
    }
}

/// Bytes that may be under way in each direction of a framed call.
#[cfg(feature = "unix")]
const FRAMED_BUFFER_BYTES: usize = 256 * 1024;

/// The in-memory form that goes through the real frames, byte for byte: what it carries, a socket carries.
#[cfg(feature = "unix")]
#[derive(Debug, Clone)]
pub struct FramedMemoryTransport {
    handler: Arc<dyn Handler>,
    peer: Peer,
}

#[cfg(feature = "unix")]
impl MemoryTransport {
    /// Returns the form of this transport that goes through the real frames. It needs a tokio runtime.
    #[must_use]
    pub fn framed(handler: Arc<dyn Handler>) -> FramedMemoryTransport {
        FramedMemoryTransport { handler, peer: Peer::InProcess }
    }
}

#[cfg(feature = "unix")]
#[async_trait]
impl Transport for FramedMemoryTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let (near, far) = tokio::io::duplex(FRAMED_BUFFER_BYTES);
        let (handler, peer) = (Arc::clone(&self.handler), self.peer.clone());
        // Ends by itself when the near end is dropped.
        tokio::spawn(async move {
            let limits = crate::unix::ConnectionLimits::default();
            let shutdown = tokio_util::sync::CancellationToken::new();
            crate::unix::serve_connection(far, &peer, &*handler, limits, &shutdown).await
        });
        crate::unix::call_over(near, &request, self.endpoint()).await
    }

    fn endpoint(&self) -> &str {
        "memory:framed"
    }

    fn is_local(&self) -> bool {
        true
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        Ok(dispatch(&*self.handler, &self.peer, request).await)
    }

    fn endpoint(&self) -> &str {
        "memory:"
    }

    fn is_local(&self) -> bool {
        true
    }
}
