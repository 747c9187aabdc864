//! HTTP/1.1 and HTTP/2, over TLS with client certificates or plain.
//!
//! One call is `POST <base>/direct/v1/<operation>`; see [`wire`] for what both ends agree on. HTTP/2 is negotiated within
//! TLS. There are no redirects, no proxies from the environment and no cookies: a call goes where the URL says or fails.

pub(crate) mod failure;
mod json;
mod packed;
pub mod pem;
mod plain;
mod sessions;
mod source;
mod tls;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{StatusCode, Url};

pub use self::json::JsonMethod;
pub use self::plain::{PlainMethod, PlainRequest, PlainResponse};
pub use self::source::HttpSourceClient;
pub use self::tls::{TlsError, TlsFiles};
use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::Operation;
use crate::transport::{Request, Response, Status, Transport};

/// Which version of HTTP to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HttpVersion {
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    #[default]
    Negotiated,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; without TLS by prior knowledge.
    Http2,
}

impl HttpVersion {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Negotiated => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
        }
    }
}

/// How to reach a server over HTTP.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Certificate, key and authorities; needed for `https`, unused for `http`.
    pub tls: Option<TlsFiles>,
    /// How long DNS, TCP and TLS together may take.
    pub connect_timeout: Duration,
    /// Which version of HTTP to speak.
    pub version: HttpVersion,
    /// Whether facts and reports that are long travel compressed where the server takes that. `None`: unless it is on this machine.
    pub compress_requests: Option<bool>,
}

impl Default for HttpOptions {
    /// Ten seconds to connect: one lost SYN (retransmitted after 1, 3 and 7 s) must not fail a call.
    fn default() -> Self {
        Self { tls: None, connect_timeout: Duration::from_secs(10), version: HttpVersion::Negotiated, compress_requests: None }
    }
}

/// Calls a server over HTTP; connections are kept and shared by all clones.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    base: String,
    is_local: bool,
    connect_timeout: Duration,
    compresses_requests: bool,
    /// Whether the server has said in its last answer that it takes compressed requests.
    takes_packed: Arc<AtomicBool>,
}

/// Shorter than any server's own limit, so that a call seldom meets a connection that the server is just closing.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// What one call may have under way before its caller takes it; the back-pressure of HTTP/2.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Of all calls on a connection together: large, so that calls whose callers are slow do not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// How often a quiet HTTP/2 connection is asked whether it still lives while calls are open, and how long it may think.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

impl HttpTransport {
    /// Returns a transport to the server at `url`: `http://` or `https://`, a host, a port (8140 if none), and a path in
    /// front of the protocol's own if a proxy wants one. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Config`] when the URL or a PEM file is unusable; the message names it.
    pub fn new(url: &str, options: &HttpOptions) -> Result<Self, TransportError> {
        let url = base_url(url)?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        let is_local = is_loopback(&url);
        let config = |detail: String| TransportError::new(TransportErrorKind::Config, base.as_str()).with_detail(detail);
        let tls = match (url.scheme(), &options.tls) {
            ("https", Some(files)) => tls::client_config(files, options.version),
            ("https", None) => return Err(config("https needs a certificate, its key and an authority to trust".to_owned())),
            _ => tls::no_tls(),
        };
        let tls = tls.map_err(|error| config(error.to_string()).with_source(error))?;
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("direct-puppet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE);
        let builder = match options.version {
            HttpVersion::Negotiated => builder,
            HttpVersion::Http1 => builder.http1_only(),
            HttpVersion::Http2 => builder.http2_prior_knowledge(),
        };
        let client = builder.build().map_err(|error| config("the HTTP client cannot start".to_owned()).with_source(error))?;
        let compresses_requests = options.compress_requests.unwrap_or(!is_local);
        let (connect_timeout, takes_packed) = (options.connect_timeout, Arc::default());
        Ok(Self { client, base, is_local, connect_timeout, compresses_requests, takes_packed })
    }

    fn error(&self, kind: TransportErrorKind, detail: impl Into<String>) -> TransportError {
        TransportError::new(kind, self.base.as_str()).with_detail(detail)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        if let Some(packed) = self.pack(&request).await {
            let answer = self.send(request.operation, packed, true).await?;
            if !packed::is_misunderstood(answer.status()) {
                return self.response(answer);
            }
            self.takes_packed.store(false, Ordering::Relaxed);
        }
        let answer = self.send(request.operation, request.body, false).await?;
        self.takes_packed.store(packed::is_taken(answer.headers()), Ordering::Relaxed);
        self.response(answer)
    }

    fn endpoint(&self) -> &str {
        &self.base
    }

    fn is_local(&self) -> bool {
        self.is_local
    }
}

impl HttpTransport {
    async fn send(&self, operation: Operation, body: Bytes, is_packed: bool) -> Result<reqwest::Response, TransportError> {
        let url = format!("{}{}", self.base, wire::path_of(operation));
        let mut request = self.client.post(url).header(CONTENT_TYPE, wire::CONTENT_TYPE);
        if is_packed {
            request = request.header(CONTENT_ENCODING, wire::REQUEST_CODING);
        }
        request.body(body).send().await.map_err(|error| failure::of_call(error, &self.base, self.connect_timeout))
    }

    fn response(&self, answer: reqwest::Response) -> Result<Response, TransportError> {
        let retry_after = plain::retry_after(answer.headers());
        let status = match answer.headers().get(wire::STATUS_HEADER).map(|value| value.as_bytes()) {
            Some(value) if value == wire::ACCEPTED.as_bytes() => Status::Accepted,
            Some(value) if value == wire::REFUSED.as_bytes() => Status::Refused,
            _ => return Err(self.stranger(answer.status(), retry_after)),
        };
        let length = answer.content_length();
        let base = self.base.clone();
        let body = answer.bytes_stream().map(move |chunk| chunk.map_err(|error| failure::of_body(error, &base)));
        // HTTP/2 may end a body with an empty frame, which is no chunk.
        let body = body.filter(|chunk| std::future::ready(!matches!(chunk, Ok(data) if data.is_empty())));
        // A stream of HTTP/2 that was reset says so again and again, but an error is the last thing in a body.
        let body = body.scan(false, |is_broken, chunk| {
            let item = (!*is_broken).then_some(chunk);
            *is_broken |= matches!(item, Some(Err(_)));
            std::future::ready(item)
        });
        Ok(Response { status, retry_after, length, body: body.boxed() })
    }

    /// Something in between answered, not the server.
    fn stranger(&self, status: StatusCode, retry_after: Option<Duration>) -> TransportError {
        if matches!(status.as_u16(), 429 | 502 | 503 | 504) {
            let detail = format!("something in between answered with HTTP {status}");
            return self.error(TransportErrorKind::Unavailable, detail).with_retry_after(retry_after);
        }
        let detail = format!("HTTP {status} without `{}`: is this a Direct Puppet server?", wire::STATUS_HEADER);
        self.error(TransportErrorKind::Protocol, detail)
    }
}

/// Checks a URL and gives it a port.
pub(crate) fn base_url(text: &str) -> Result<Url, TransportError> {
    // The text itself must not get into the error: it may hold a password.
    let unusable = |detail: &str| TransportError::new(TransportErrorKind::Config, "the server's URL").with_detail(detail);
    let mut url = Url::parse(text).map_err(|error| unusable("write it as https://host:8140").with_source(error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(unusable("write it as https://host:8140"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unusable("it must hold no user and no password: nodes are known by their certificates"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("it must hold no query and no fragment"));
    }
    // The parser drops a port that is the scheme's own; only the text tells that from none.
    if url.port().is_none() && !names_a_port(text) {
        url.set_port(Some(wire::DEFAULT_PORT)).map_err(|()| unusable("it cannot have a port"))?;
    }
    Ok(url)
}

/// Whether the URL says that the server is on this machine; names other than `localhost` are not looked up for that.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    address.map_or_else(|_| host == "localhost", |address| address.is_loopback())
}

fn names_a_port(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after_host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_gets_the_default_and_one_with_the_schemes_own_keeps_it() {
        let base = |text: &str| base_url(text).unwrap().to_string();
        assert_eq!(base("https://puppet.example.com"), "https://puppet.example.com:8140/");
        assert_eq!(base("https://puppet.example.com:443/"), "https://puppet.example.com/");
        assert_eq!(base("https://puppet.example.com:9000/x"), "https://puppet.example.com:9000/x");
        assert_eq!(base("http://[::1]/"), "http://[::1]:8140/");
        assert_eq!(base("http://[::1]:80/"), "http://[::1]/");
    }

    #[test]
    fn an_unusable_url_is_a_config_error_that_does_not_repeat_a_password() {
        for text in [
            "",
            "puppet",
            "ftp://host",
            "https://",
            "https://host/?a",
            "https://host/#a",
            "https://u:secret@host",
            "http://u:secret@ho st",
        ] {
            let error = HttpTransport::new(text, &HttpOptions::default()).unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Config, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn https_without_files_and_files_that_are_missing_are_config_errors() {
        let error = HttpTransport::new("https://host", &HttpOptions::default()).unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Config);
        let directory = tempfile::tempdir().unwrap();
        let tls = TlsFiles::from_ssldir(directory.path(), &"node1".parse().unwrap());
        let error = HttpTransport::new("https://host", &HttpOptions { tls: Some(tls), ..HttpOptions::default() }).unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Config);
        assert!(error.to_string().contains("certs/ca.pem"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[tokio::test]
    async fn a_closed_port_is_a_connect_error_with_its_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let transport = HttpTransport::new(&url, &HttpOptions::default()).unwrap();
        let request = Request { operation: Operation::Fetch, body: Bytes::new() };
        let error = transport.call(request).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Connect);
        assert!(std::error::Error::source(&error).is_some());
    }
}
