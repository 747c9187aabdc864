//! Asks web servers for files.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, LAST_MODIFIED, RANGE};
use reqwest::{Client, Method, Response};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use super::tls::TlsError;
use super::{HttpOptions, HttpVersion, failure, pem};
use crate::error::{TransportError, TransportErrorKind};
use crate::http_source::{HttpAnswer, HttpMetadata, HttpSource, shown_url};
use crate::transport::BodyStream;

/// How many redirects are followed: Puppet's `http_redirect_limit`.
const REDIRECTS: usize = 10;

/// How long an answer, or the next piece of it, may take.
const STALL: Duration = Duration::from_secs(60);

/// How many hexadecimal digits SHA-256, SHA-1 and MD5 have.
const DIGITS: [usize; 3] = [64, 40, 32];

/// Asks web servers: over TLS those that the machine's trusted authorities vouch for, and those of further ones. Redirects are followed; the
/// proxy that the environment names is used (`http_proxy`, `https_proxy`, `no_proxy`); a user and a password in the URL are shown to the server.
#[derive(Debug, Default)]
pub struct HttpSourceClient {
    /// PEM files of authorities that are trusted too.
    authorities: Vec<std::path::PathBuf>,
    client: OnceCell<Client>,
}

impl HttpSourceClient {
    /// Returns a client that trusts the machine's authorities. Nothing is read or sent before it is used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in a PEM file too, if it is there: as Puppet does with its own.
    #[must_use]
    pub fn trusting(mut self, file: impl Into<std::path::PathBuf>) -> Self {
        self.authorities.push(file.into());
        self
    }

    async fn client(&self, shown: &str) -> Result<&Client, TransportError> {
        let authorities = &self.authorities;
        self.client
            .get_or_try_init(|| async move {
                let authorities = authorities.clone();
                let config = tokio::task::spawn_blocking(move || config(&authorities)).await;
                let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
                    TransportError::new(TransportErrorKind::Config, shown).with_source(error)
                };
                let config = config.map_err(|error| fail(error.into()))?.map_err(|error| fail(error.into()))?;
                Client::builder()
                    .tls_backend_preconfigured(config)
                    .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
                    .referer(false)
                    .user_agent(concat!("direct-puppet/", env!("CARGO_PKG_VERSION")))
                    .connect_timeout(HttpOptions::default().connect_timeout)
                    .read_timeout(STALL)
                    .build()
                    .map_err(|error| fail(error.into()))
            })
            .await
    }

    async fn ask(&self, method: Method, url: &str, range: Option<&str>) -> Result<Response, TransportError> {
        let shown = shown_url(url);
        // What its checksum is of, and its length.
        let mut request = self.client(&shown).await?.request(method, url).header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        request.send().await.map_err(|error| failure::of_call(error, &shown, HttpOptions::default().connect_timeout))
    }
}

#[async_trait]
impl HttpSource for HttpSourceClient {
    async fn metadata(&self, url: &str) -> Result<HttpAnswer<HttpMetadata>, TransportError> {
        let mut answer = self.ask(Method::HEAD, url, None).await?;
        // Some say this to HEAD alone, as to URLs that are signed for GET: Puppet then asks for the first byte.
        if matches!(answer.status().as_u16(), 403 | 405) {
            answer = self.ask(Method::GET, url, Some("bytes=0-0")).await?;
        }
        Ok(match answer.status() {
            status if status.is_success() => HttpAnswer::Found(metadata(answer.headers())),
            status => HttpAnswer::Refused(status.as_u16()),
        })
    }

    async fn content(&self, url: &str) -> Result<HttpAnswer<(HttpMetadata, BodyStream)>, TransportError> {
        let answer = self.ask(Method::GET, url, None).await?;
        if !answer.status().is_success() {
            return Ok(HttpAnswer::Refused(answer.status().as_u16()));
        }
        let (metadata, shown) = (metadata(answer.headers()), shown_url(url));
        let encoding = answer.headers().get(CONTENT_ENCODING).filter(|encoding| !encoding.is_empty() && *encoding != "identity");
        if let Some(encoding) = encoding {
            let detail = format!(
                "its server sends it encoded ({}), though it was asked for it as it is: have it served without Content-Encoding",
                encoding.to_str().unwrap_or("in an unknown way")
            );
            return Err(TransportError::new(TransportErrorKind::Unavailable, shown).with_detail(detail));
        }
        let body = answer.bytes_stream().map(move |chunk| chunk.map_err(|error| failure::of_body(error, &shown)));
        Ok(HttpAnswer::Found((metadata, body.boxed())))
    }
}

/// Reads what headers say; what makes no sense is not there.
fn metadata(headers: &HeaderMap) -> HttpMetadata {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let [sha256, sha1, md5] = DIGITS.map(|digits| {
        move |value: &str| {
            let is_hex = value.len() == digits && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| value.to_ascii_lowercase())
        }
    });
    let of_base64 = |value: &str| {
        let bytes = STANDARD.decode(value).ok().filter(|bytes| bytes.len() == 16)?;
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    HttpMetadata {
        sha256: text("x-checksum-sha256").and_then(sha256),
        sha1: text("x-checksum-sha1").and_then(sha1),
        md5: text("x-checksum-md5").and_then(md5).or_else(|| text("content-md5").and_then(of_base64)),
        last_modified: text(LAST_MODIFIED.as_str()).and_then(|value| httpdate::parse_http_date(value).ok()).filter(is_sane),
    }
}

/// A time before 1970 is none that a file has.
fn is_sane(time: &SystemTime) -> bool {
    *time >= SystemTime::UNIX_EPOCH
}

/// Returns the configuration of a client without a certificate. Reads the machine's authorities: blocking.
fn config(further: &[std::path::PathBuf]) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read vouches for nobody: the others still do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in further.iter().filter(|file| file.exists()) {
        roots.roots.extend(pem::authorities(file)?.roots);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = HttpVersion::Negotiated.alpn();
    Ok(config)
}

#[cfg(test)]
mod tests;
