//! The calls of `puppet-ca/v1` that a node makes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::trust::{Anyone, EnrolTrust};
use crate::error::TransportError;
use crate::http::{HttpOptions, base_url, failure, pem};
use crate::protocol::Certname;

/// Longest answer that is taken, in bytes: a revocation list of 100,000 certificates has 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How long a whole call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The server could not be asked.
    #[error("certificate authority could not be asked")]
    Transport(#[from] TransportError),
    /// A certificate, key or list cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// The file, or what it is.
        what: String,
        /// Why.
        reason: String,
    },
    /// The server said no.
    #[error("certificate authority answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said, without what could steer a terminal.
        message: String,
    },
}

/// Who asks.
#[derive(Clone)]
pub enum Identity {
    /// A node with a certificate, both in PEM.
    Pem {
        /// The certificate.
        certificate: String,
        /// Its private key.
        key: String,
    },
    /// The same in files.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Asks a certificate authority.
#[derive(Debug, Clone)]
pub struct CaClient {
    client: reqwest::Client,
    base: String,
}

impl CaClient {
    /// Returns a client of the authority at `url`, as `https://puppet.example.com:8140`. Nothing is sent yet. Blocking, where files are
    /// named.
    ///
    /// # Errors
    ///
    /// When the URL or a file cannot be used.
    pub fn new(url: &str, trust: &EnrolTrust, identity: Option<&Identity>) -> Result<Self, EnrolError> {
        let url = base_url(url)?;
        if url.scheme() != "https" {
            return Err(unusable("the server's URL", "certificates are asked for over https"));
        }
        let base = url.as_str().trim_end_matches('/').to_owned();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config(trust, identity)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("direct-puppet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(HttpOptions::default().connect_timeout)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| unusable("the HTTP client", error.to_string()))?;
        Ok(Self { client, base })
    }

    /// Returns the certificates of the authority, in PEM.
    ///
    /// # Errors
    ///
    /// See [`EnrolError`].
    pub async fn authority(&self) -> Result<String, EnrolError> {
        self.must(Method::GET, "certificate/ca", String::new()).await
    }

    /// Returns the revocation lists, in PEM.
    ///
    /// # Errors
    ///
    /// See [`EnrolError`].
    pub async fn revocation_lists(&self) -> Result<String, EnrolError> {
        self.must(Method::GET, "certificate_revocation_list/ca", String::new()).await
    }

    /// Returns the certificate of a name in PEM; `None` while it is not signed.
    ///
    /// # Errors
    ///
    /// See [`EnrolError`].
    pub async fn certificate(&self, name: &Certname) -> Result<Option<String>, EnrolError> {
        match self.must(Method::GET, &format!("certificate/{name}"), String::new()).await {
            Err(EnrolError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Hands a request in, in PEM.
    ///
    /// # Errors
    ///
    /// See [`EnrolError`]; 400 when it is refused, or another has the name.
    pub async fn submit(&self, name: &Certname, request: String) -> Result<(), EnrolError> {
        self.must(Method::PUT, &format!("certificate_request/{name}"), request).await.map(drop)
    }

    /// Returns a new certificate for the one that this client shows, in PEM.
    ///
    /// # Errors
    ///
    /// See [`EnrolError`]; 404 where the authority renews none.
    pub async fn renew(&self) -> Result<String, EnrolError> {
        self.must(Method::POST, "certificate_renewal", String::new()).await
    }

    async fn must(&self, method: Method, path: &str, body: String) -> Result<String, EnrolError> {
        let url = format!("{}/puppet-ca/v1/{path}", self.base);
        let timeout = HttpOptions::default().connect_timeout;
        let call =
            self.client.request(method, url).header("Accept", "text/plain").header("Content-Type", "text/plain").body(body);
        let mut answer = call.send().await.map_err(|error| failure::of_call(error, &self.base, timeout))?;
        let status = answer.status();
        let mut whole = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| failure::of_body(error, &self.base))? {
            if whole.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(unusable("the authority's answer", format!("it is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        if status == StatusCode::OK {
            return String::from_utf8(whole).map_err(|_| unusable("the authority's answer", "it is no text"));
        }
        let message: String = String::from_utf8_lossy(&whole).chars().take(500).collect::<String>().escape_debug().to_string();
        Err(EnrolError::Refused { status: status.as_u16(), message })
    }
}

fn unusable(what: &str, reason: impl Into<String>) -> EnrolError {
    EnrolError::Unusable { what: what.to_owned(), reason: reason.into() }
}

/// Returns the configuration of TLS.
fn config(trust: &EnrolTrust, identity: Option<&Identity>) -> Result<ClientConfig, EnrolError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", error.to_string()))?;
    let verify = |roots, lists: Vec<_>| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).with_crls(lists).build()
    };
    let read = |error: pem::PemError| unusable("certificates", error.to_string());
    let builder = match trust {
        EnrolTrust::OnFirstUse => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(Arc::clone(&provider)))),
        EnrolTrust::Files { ca, crl } => {
            let lists = crl.as_deref().map(pem::revocation_lists).transpose().map_err(read)?.unwrap_or_default();
            let verifier = verify(pem::authorities(ca).map_err(read)?, lists);
            builder.with_webpki_verifier(verifier.map_err(|error| unusable("certificates", error.to_string()))?)
        }
        EnrolTrust::Pem(text) => {
            let verifier = verify(roots(text)?, Vec::new());
            builder.with_webpki_verifier(verifier.map_err(|error| unusable("certificates", error.to_string()))?)
        }
    };
    let (chain, key) = match identity {
        None => return Ok(builder.with_no_client_auth()),
        Some(Identity::Files { certificate, key }) => {
            (pem::certificates(certificate).map_err(read)?, pem::private_key(key).map_err(read)?)
        }
        Some(Identity::Pem { certificate, key }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|_| unusable("the certificate", "it is no PEM"))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| unusable("the private key", "it is no PEM"))?;
            (chain, key)
        }
    };
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable("certificate and key", error.to_string()))
}

/// Reads authorities.
fn roots(text: &str) -> Result<RootCertStore, EnrolError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|_| unusable("the authority's certificate", "it is no PEM"))?;
        store.add(certificate).map_err(|error| unusable("the authority's certificate", error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("the authority's certificate", "there is none"));
    }
    Ok(store)
}
