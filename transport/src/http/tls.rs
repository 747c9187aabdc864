//! Who a client is, and whom it trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{ClientConfig, RootCertStore};

use super::HttpVersion;
use super::pem::{self, PemError};
use super::sessions::Sessions;
use crate::protocol::Certname;

/// The PEM files of one end of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities whose certificates are trusted; no others are.
    pub ca: PathBuf,
    /// The own certificate, followed by the intermediate ones, if any.
    pub certificate: PathBuf,
    /// The private key of `certificate`, unencrypted.
    pub key: PathBuf,
    /// Revocation lists. With them, a peer whose certificate or issuer is on no list is refused just as a revoked one;
    /// a list past its next update still counts, so that a forgotten renewal does not stop every node.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// Returns the files of `certname` where Puppet keeps them below its `ssldir`; `crl.pem` only if it is there.
    #[must_use]
    pub fn from_ssldir(ssldir: &Path, certname: &Certname) -> Self {
        let file = format!("{certname}.pem");
        let crl = ssldir.join("crl.pem");
        // A list that is there but cannot be read must not count as "no list": only a file known to be absent does.
        let crl = (!matches!(crl.try_exists(), Ok(false))).then_some(crl);
        Self {
            ca: ssldir.join("certs/ca.pem"),
            certificate: ssldir.join("certs").join(&file),
            key: ssldir.join("private_keys").join(&file),
            crl,
        }
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The revocation lists make no sense.
    #[error("cannot check revocation with {}", path.display())]
    Revocation {
        /// The file with the lists.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::client::VerifierBuilderError,
    },
    /// Certificate and key do not go together.
    #[error("cannot use certificate {} with key {}", certificate.display(), key.display())]
    Identity {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The cryptography in this program offers no protocol version.
    #[error("no TLS version can be used")]
    Versions(#[source] rustls::Error),
}

/// Returns the configuration of a client that shows its certificate and trusts only the named authorities.
pub(super) fn client_config(files: &TlsFiles, version: HttpVersion) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(pem::authorities(&files.ca)?);
    let lists = files.crl.as_deref().map(pem::revocation_lists).transpose()?.unwrap_or_default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .with_crls(lists)
        .build()
        .map_err(|source| TlsError::Revocation { path: files.crl.clone().unwrap_or_else(|| files.ca.clone()), source })?;
    let (chain, key) = (pem::certificates(&files.certificate)?, pem::private_key(&files.key)?);
    let sessions = Arc::new(Sessions::new(verifier));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&sessions) as _)
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Identity { certificate: files.certificate.clone(), key: files.key.clone(), source })?;
    config.resumption = Resumption::store(sessions);
    config.alpn_protocols = version.alpn();
    Ok(config)
}

/// Returns a configuration that trusts nobody, for clients that only speak plain HTTP: without it the HTTP client would
/// look for a process-wide provider, which this crate never installs.
pub(super) fn no_tls() -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puppets_layout_is_found_and_a_revocation_list_counts_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let certname: Certname = "node1.example.com".parse().unwrap();
        let files = TlsFiles::from_ssldir(directory.path(), &certname);
        assert_eq!(files.ca, directory.path().join("certs/ca.pem"));
        assert_eq!(files.certificate, directory.path().join("certs/node1.example.com.pem"));
        assert_eq!(files.key, directory.path().join("private_keys/node1.example.com.pem"));
        assert_eq!(files.crl, None);
        std::fs::write(directory.path().join("crl.pem"), "").unwrap();
        assert!(TlsFiles::from_ssldir(directory.path(), &certname).crl.is_some());
    }
}
