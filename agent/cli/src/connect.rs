//! From options to a transport.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use async_trait::async_trait;
use direct_puppet_transport::http::TlsFiles;
use direct_puppet_transport::{
    ConnectOptions, Request, Response, Retry, RetryPolicy, Timeout, Timeouts, Transport, TransportError, TransportErrorKind,
    connect,
};

use crate::options::Common;

/// How long an answer may take to begin: a compile may be going on.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(420);

/// How long a stream may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the URL of the server that the options name.
pub(crate) fn url(common: &Common) -> anyhow::Result<String> {
    let url = common.server.clone();
    url.ok_or_else(|| anyhow::anyhow!("no server: give its URL with --server, as https://puppet.example.com:8140"))
}

/// Returns the transport to the server that the options name, with retries and deadlines.
pub(crate) fn server(common: &Common) -> anyhow::Result<Arc<dyn Transport>> {
    let Some(url) = &common.server else {
        bail!("no server: give its URL with --server, as https://puppet.example.com:8140 or unix:/run/direct-puppet/agent.sock");
    };
    let certname = common.certname()?;
    let tls = common.ssldir.as_ref().map(|dir| TlsFiles::from_ssldir(dir, &certname));
    let options = ConnectOptions { tls, ..ConnectOptions::default() };
    let timeouts = Timeouts { response: RESPONSE_TIMEOUT, stall: STALL_TIMEOUT };
    Ok(Arc::new(Retry::new(Timeout::new(connect(url, &options)?, timeouts), RetryPolicy::default())))
}

/// Returns a transport for verbs that ask nobody.
pub(crate) fn nowhere() -> Arc<dyn Transport> {
    Arc::new(Nowhere)
}

/// Reaches no server.
#[derive(Debug, Clone, Copy)]
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn call(&self, _request: Request) -> Result<Response, TransportError> {
        Err(TransportError::new(TransportErrorKind::Config, self.endpoint()).with_detail("this verb asks no server"))
    }

    fn endpoint(&self) -> &str {
        "nowhere:"
    }
}
