//! Who a server is, and whom it lets in.

use std::path::PathBuf;
use std::sync::Arc;

use direct_puppet_transport::TlsFiles;
use direct_puppet_transport::http::pem::{self, PemError};
use direct_puppet_transport::protocol::Certname;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, HandshakeKind, ServerConfig, ServerConnection, SignatureScheme,
};

use super::version::{ALPN_ONE, ALPN_TWO};

/// The PEM files of a server, and whether clients must show a certificate. The files are followed: what replaces one holds within half a
/// second, also for connections that stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The authorities whose clients are let in.
    pub ca: PathBuf,
    /// The server's certificate, followed by the intermediate ones, if any.
    pub certificate: PathBuf,
    /// The private key of `certificate`, unencrypted.
    pub key: PathBuf,
    /// Revocation lists; with them, a client that no list covers is refused as well. One that has ended is used on, and the log says so.
    pub crl: Option<PathBuf>,
    /// Whether clients without a certificate are let in, as [`Peer::Anonymous`](direct_puppet_transport::Peer::Anonymous): for an
    /// authority, at which nodes ask for their first one.
    pub admits_anonymous: bool,
}

impl From<TlsFiles> for ServerTls {
    fn from(files: TlsFiles) -> Self {
        let TlsFiles { ca, certificate, key, crl } = files;
        Self { ca, certificate, key, crl, admits_anonymous: false }
    }
}

/// Why a server's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerTlsError {
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The authorities or the revocation lists make no sense.
    #[error("cannot check clients with {}", path.display())]
    Clients {
        /// The file with the lists, or with the authorities.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
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
    /// The system gave no random bytes for the keys of session tickets.
    #[error("no key for session tickets could be made; the system's random source may be missing")]
    Tickets(#[source] rustls::Error),
}

impl ServerTls {
    /// Reads the files and returns what a TLS acceptor needs: TLS 1.2 and later, HTTP/2 and HTTP/1.1, clients only with
    /// a certificate, unless others are admitted.
    pub(super) fn door(&self) -> Result<Door, ServerTlsError> {
        let roots = Arc::new(pem::authorities(&self.ca)?);
        let lists = self.crl.as_deref().map(pem::revocation_lists).transpose()?.unwrap_or_default();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .with_crls(lists)
            .build()
            .map_err(|source| ServerTlsError::Clients { path: self.crl.clone().unwrap_or_else(|| self.ca.clone()), source })?;
        let (chain, key) = (pem::certificates(&self.certificate)?, pem::private_key(&self.key)?);
        let clients = Arc::new(NamedClients { inner: verifier, admits_anonymous: self.admits_anonymous });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ServerTlsError::Versions)?
            .with_client_cert_verifier(Arc::clone(&clients) as _)
            .with_single_cert(chain, key)
            .map_err(|source| ServerTlsError::Identity {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            })?;
        config.alpn_protocols = vec![ALPN_TWO.to_vec(), ALPN_ONE.to_vec()];
        // Sessions are resumed by tickets, which take no memory here. The certificate in a ticket is verified again ([`Door::still_counts`]);
        // a change of any file makes another configuration, with other keys: who was let in by the files of before shows it again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(ServerTlsError::Tickets)?;
        config.send_tls13_tickets = 1;
        Ok(Door { config: Arc::new(config), clients })
    }
}

/// How connections of TLS begin, as one reading of the files says.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) config: Arc<ServerConfig>,
    clients: Arc<NamedClients>,
}

impl Door {
    /// Verifies the certificate of a connection that resumes a session, for the handshake has not: of one that ended meanwhile, or whose
    /// issuer did, it would not know.
    pub(super) fn still_counts(&self, connection: &ServerConnection) -> Result<(), rustls::Error> {
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let Some((end_entity, intermediates)) = connection.peer_certificates().and_then(<[_]>::split_first) else {
            return Ok(());
        };
        self.clients.verify_client_cert(end_entity, intermediates, UnixTime::now()).map(drop)
    }
}

/// Returns the certname in a certificate: its subject's one common name.
pub(super) fn certname_of(certificate: &CertificateDer<'_>) -> Option<Certname> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.parse().ok()?;
    // With two names, one check might read the first and another the last.
    names.next().is_none().then_some(name)
}

/// Lets in whom the inner verifier does, if the certificate also holds a certname: who has none hears it in the handshake.
#[derive(Debug)]
struct NamedClients {
    inner: Arc<dyn ClientCertVerifier>,
    admits_anonymous: bool,
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.admits_anonymous
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match certname_of(end_entity) {
            Some(_) => Ok(verified),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
