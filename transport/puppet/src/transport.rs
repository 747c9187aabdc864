//! The transport itself: which operation becomes what.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::handler::FetchItems;
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, CodeId, Environment, Fetch, Refusal, RefusalCode, Report, ReportAccepted, SubmitFacts,
};
use direct_puppet_transport::{
    Handler, HttpOptions, HttpTransport, HttpVersion, Peer, Request, Response, Timeouts, TlsFiles, Transport, TransportError,
    TransportErrorKind, dispatch,
};

use crate::api::{Exchange, Failure};
use crate::deadline::Deadlines;
use crate::places::Places;
use crate::{compile, fetch, report};

/// How to use a Puppet Server.
#[derive(Debug, Clone)]
pub struct PuppetOptions {
    /// Certificate, key and authorities: those that the node has from Puppet's own authority.
    pub tls: Option<TlsFiles>,
    /// Where to keep what is known of catalogs; without it another process cannot apply a cached one.
    pub state_dir: Option<PathBuf>,
    /// How long DNS, TCP and TLS together may take.
    pub connect_timeout: Duration,
    /// How long the answer to one request may take to begin, and its body to go on. They hold for each request, of which one operation takes
    /// many: no [`Timeout`](direct_puppet_transport::Timeout) is needed around this transport, and one would cut what takes long but goes on.
    pub timeouts: Timeouts,
}

impl Default for PuppetOptions {
    /// No certificates, nothing kept, ten seconds to connect; seven minutes for an answer to begin, as a compile may be going on, and one
    /// for each part of its body.
    fn default() -> Self {
        let timeouts = Timeouts { response: Duration::from_secs(420), stall: Duration::from_secs(60) };
        Self { tls: None, state_dir: None, connect_timeout: Duration::from_secs(10), timeouts }
    }
}

/// Asks an unmodified Puppet Server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PuppetTransport {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) exchange: Box<dyn Exchange>,
    pub(crate) places: Places,
    pub(crate) spool_dir: Option<PathBuf>,
}

impl PuppetTransport {
    /// Returns a transport to the server at `url`, as `puppet://host[:8140]`; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Config`] when the URL or a PEM file is unusable.
    pub fn connect(url: &str, options: &PuppetOptions) -> Result<Self, TransportError> {
        let Some(rest) = url.strip_prefix("puppet://").filter(|rest| !rest.trim_end_matches('/').contains('/')) else {
            let error = TransportError::new(TransportErrorKind::Config, "the server's URL");
            return Err(error.with_detail("write a Puppet Server as puppet://host:8140"));
        };
        let http = HttpOptions {
            tls: options.tls.clone(),
            connect_timeout: options.connect_timeout,
            version: HttpVersion::Http1,
            ..HttpOptions::default()
        };
        let http = HttpTransport::new(&format!("https://{rest}"), &http)?;
        Ok(Self::over(Deadlines::new(http, options.timeouts), options.state_dir.clone()))
    }

    /// Returns a transport over something that sends requests, which has deadlines of its own: here none is added.
    #[must_use]
    pub fn over(exchange: impl Exchange, state_dir: Option<PathBuf>) -> Self {
        let places = Places::new(state_dir.as_deref());
        Self { inner: Arc::new(Inner { exchange: Box::new(exchange), places, spool_dir: state_dir }) }
    }

    /// Returns the environment that the server wants this node in, which asks to be in `requested`. Where the server cannot be asked, or
    /// refuses, that is the one of the last time, as for Puppet's agent: what is wrong shows again when the catalog is asked for, and then there
    /// is the cached one, and a report.
    ///
    /// # Cancel safety
    ///
    /// Safe: asking again does no harm.
    pub async fn environment(&self, certname: &Certname, requested: &Environment) -> Environment {
        let inner = Arc::clone(&self.inner);
        match compile::environment(&*inner.exchange, certname, requested).await {
            Ok(environment) => {
                let (requested, placed) = (requested.clone(), environment.clone());
                let kept = tokio::task::spawn_blocking(move || inner.places.put_environment(&requested, &placed)).await;
                if let Ok(Err(error)) = kept {
                    tracing::warn!(%error, "where the server put this node is not remembered");
                }
                environment
            }
            Err(Failure::Refused(refusal)) => {
                tracing::warn!(%refusal, "the server does not say in which environment it wants this node: the run goes on in the last one");
                self.last_environment(requested)
            }
            Err(Failure::Transport(error)) => {
                tracing::debug!(%error, "server could not be asked for this node's environment");
                self.last_environment(requested)
            }
        }
    }

    /// Returns the environment that the server last wanted this node in, which asks to be in `requested`; asks nobody. Blocking, for a moment.
    #[must_use]
    pub fn last_environment(&self, requested: &Environment) -> Environment {
        self.inner.places.environment(requested).unwrap_or_else(|| requested.clone())
    }
}

#[async_trait]
impl Transport for PuppetTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let call = Translator { inner: Arc::clone(&self.inner), failed: Mutex::new(None) };
        let response = dispatch(&call, &Peer::InProcess, request).await;
        match call.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(response),
        }
    }

    fn endpoint(&self) -> &str {
        self.inner.exchange.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.exchange.is_local()
    }
}

/// One call. A handler can only refuse: that the server was not reached is said beside.
#[derive(Debug)]
struct Translator {
    inner: Arc<Inner>,
    failed: Mutex<Option<TransportError>>,
}

impl Translator {
    fn answer<R>(&self, result: Result<R, Failure>) -> Result<R, Refusal> {
        result.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Transport(error) => {
                let refusal = Refusal::new(RefusalCode::Internal, error.to_string());
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                refusal
            }
        })
    }
}

#[async_trait]
impl Handler for Translator {
    async fn check_in(&self, _: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        if request.wait_seconds == 0 {
            return Ok(CatalogReply::FactsNeeded);
        }
        // Such a server tells nobody of news.
        tokio::time::sleep(Duration::from_secs(request.wait_seconds.into())).await;
        let nothing_new = |held: direct_puppet_transport::protocol::Held| CatalogReply::Current {
            code_id: held.code_id,
            version: held.version,
            unconfirmed_seconds: None,
        };
        Ok(request.held.map_or(CatalogReply::FactsNeeded, nothing_new))
    }

    async fn submit_facts(&self, _: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        self.answer(compile::compile(&self.inner, request).await)
    }

    async fn fetch(&self, _: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        Ok(fetch::items(Arc::clone(&self.inner), request.digests))
    }

    async fn report(&self, _: &Peer, report: Report) -> Result<ReportAccepted, Refusal> {
        self.answer(report::send(&self.inner, report).await)
    }
}

/// Returns the code id that stands for the server's own: ours is the digest of a tree, which nobody here has seen.
pub(crate) fn code_id_of(theirs: &str) -> Result<CodeId, Failure> {
    let digest = direct_puppet_transport::protocol::Digest::of(format!("code of a Puppet Server: {theirs}").as_bytes());
    let refused = |error| Failure::Refused(Refusal::new(RefusalCode::Internal, format!("code id {digest}: {error}")));
    digest.to_string().parse().map_err(refused)
}
