//! From options to a transport.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use direct_puppet_agent::Compression;
use direct_puppet_transport::http::TlsFiles;
use direct_puppet_transport::protocol::Certname;
use direct_puppet_transport::{
    ConnectOptions, HttpVersion, Request, Response, Retry, RetryPolicy, Timeout, Timeouts, Transport, TransportError,
    TransportErrorKind, connect,
};
use direct_puppet_transport_puppet::{PuppetOptions, PuppetTransport};

use crate::options::Common;

/// How long an answer may take to begin, as a compile may be going on, and how long a stream may stand still.
const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_secs(420), stall: Duration::from_secs(60) };

/// Returns the URL at which the authority of the server that the options name is asked for certificates.
pub(crate) fn url(common: &Common) -> anyhow::Result<String> {
    let Some(url) = &common.server else {
        bail!("no server: give its URL with --server, as https://puppet.example.com:8140");
    };
    Ok(url.strip_prefix(PUPPET_SCHEME).map_or_else(|| url.clone(), |rest| format!("https:{rest}")))
}

/// What the URL of a Puppet Server begins with.
const PUPPET_SCHEME: &str = "puppet:";

/// Where packages of Puppet keep the certificates of a node: Puppet's own, and Debian's.
const PUPPET_SSLDIRS: [&str; 3] = ["/etc/puppetlabs/puppet/ssl", "/var/lib/puppet/ssl", "/etc/puppet/ssl"];

/// Whether a server may be asked while a transport to it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// It may.
    Now,
    /// The cached catalog is to be applied, whatever the server would say.
    Nobody,
}

/// Returns the transport to the server that the options name, with retries and deadlines; and the options with the environment that the
/// server wants this node in, if it is a Puppet Server: which is asked for that unless the run is to ask nobody.
pub(crate) async fn server(common: &Common, asking: Asking) -> anyhow::Result<(Arc<dyn Transport>, Common)> {
    let Some(url) = &common.server else {
        bail!(
            "no server: give its URL with --server, as https://puppet.example.com:8140, unix:/run/direct-puppet/agent.sock, \
             or puppet://puppet.example.com:8140 for a Puppet Server"
        );
    };
    let certname = common.certname()?;
    if is_puppet(common) {
        let server = puppet(common, url, &certname)?;
        let requested = common.environment.clone().unwrap_or_default();
        let environment = match asking {
            Asking::Now => server.environment(&certname, &requested).await,
            Asking::Nobody => server.last_environment(&requested),
        };
        if environment != requested {
            tracing::info!(%requested, %environment, "the server wants this node in another environment");
        }
        let common = Common { environment: Some(environment), ..common.clone() };
        // It has its own deadlines: see `PuppetOptions::timeouts`.
        return Ok((Arc::new(Retry::new(server, RetryPolicy::default())), common));
    }
    let tls = common.ssldir.as_ref().map(|dir| TlsFiles::from_ssldir(dir, &certname));
    if let Some(files) = &tls
        && url.starts_with("https:")
        && matches!(files.certificate.try_exists(), Ok(false))
    {
        bail!(
            "{certname} has no certificate, as {} is not there: get one with \"direct-puppet ssl bootstrap\", or give --waitforcert; if \
             its name is another, give that with --node",
            files.certificate.display()
        );
    }
    // A node asks one thing at a time, and waits for news on a connection that takes less of the server than one of HTTP/2.
    let compress_requests = match common.compression.unwrap_or_default() {
        Compression::Always => Some(true),
        Compression::Never => Some(false),
        _ => None,
    };
    let options = ConnectOptions { tls, version: HttpVersion::Http1, compress_requests, ..ConnectOptions::default() };
    Ok((bounded(connect(url, &options)?), common.clone()))
}

/// Returns whether the server is a Puppet Server.
pub(crate) fn is_puppet(common: &Common) -> bool {
    common.server.as_ref().is_some_and(|url| url.starts_with(PUPPET_SCHEME))
}

fn bounded(transport: impl Transport) -> Arc<dyn Transport> {
    Arc::new(Retry::new(Timeout::new(transport, TIMEOUTS), RetryPolicy::default()))
}

/// Returns the transport to a Puppet Server, with the certificate that the node has from it.
fn puppet(common: &Common, url: &str, certname: &Certname) -> anyhow::Result<PuppetTransport> {
    if !url.starts_with("puppet://") {
        bail!("{url} is no URL of a Puppet Server: write it as puppet://puppet.example.com:8140");
    }
    let found = || PUPPET_SSLDIRS.iter().map(PathBuf::from).find(|dir| dir.join("certs").is_dir());
    let Some(ssldir) = common.ssldir.clone().or_else(found) else {
        bail!(
            "no certificates: name the ssldir of this node's Puppet agent with --ssldir (\"puppet config print ssldir\" tells it)"
        );
    };
    let tls = Some(TlsFiles::from_ssldir(&ssldir, certname));
    let state_dir = Some(common.state_dir()?);
    let options = PuppetOptions { tls, state_dir, timeouts: TIMEOUTS, ..PuppetOptions::default() };
    PuppetTransport::connect(url, &options).with_context(|| {
        format!(
            "could not use the certificates in {} for node {certname}: if it has none yet, get it signed first, as with \
             \"puppet ssl bootstrap\"; if its name is another, give that with --node",
            ssldir.display()
        )
    })
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
