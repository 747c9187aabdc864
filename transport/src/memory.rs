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

#[async_trait]
impl Transport for MemoryTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        Ok(dispatch(&*self.handler, &self.peer, request).await)
    }

    fn endpoint(&self) -> &str {
        "memory:"
    }
}
