//! From options to a transport.

use std::sync::Arc;

use anyhow::bail;
use async_trait::async_trait;
use direct_puppet_transport::{Request, Response, Transport, TransportError, TransportErrorKind};

use crate::options::Common;

/// Returns the transport to the server that the options name.
pub(crate) fn server(common: &Common) -> anyhow::Result<Arc<dyn Transport>> {
    let Some(_url) = &common.server else {
        bail!("no server: give its URL with --server, as https://puppet.example.com:8140 or unix:/run/direct-puppet/agent.sock");
    };
    bail!("later")
}

/// Returns a transport for verbs that ask nobody.
pub(crate) const fn nowhere() -> Nowhere {
    Nowhere
}

/// Reaches no server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn call(&self, _request: Request) -> Result<Response, TransportError> {
        Err(TransportError::new(TransportErrorKind::Config, self.endpoint()).with_detail("this verb asks no server"))
    }

    fn endpoint(&self) -> &str {
        "nowhere:"
    }
}
