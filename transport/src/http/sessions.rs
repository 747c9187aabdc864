//! Sessions of TLS that a client resumes: with a server whose certificate counts as it would in a whole handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, NamedGroup, SignatureScheme};

/// Servers whose sessions are kept; a client speaks to one, by few names.
const SERVERS: usize = 16;

/// A verifier that keeps what it was shown, and a store of sessions that shows it again to the verifier before one is resumed. Sessions
/// of TLS 1.2 are not kept.
#[derive(Debug)]
pub(super) struct Sessions {
    verifier: Arc<dyn ServerCertVerifier>,
    tickets: ClientSessionMemoryCache,
    shown: Mutex<HashMap<ServerName<'static>, Vec<CertificateDer<'static>>>>,
}

impl Sessions {
    pub(super) fn new(verifier: Arc<dyn ServerCertVerifier>) -> Self {
        Self { verifier, tickets: ClientSessionMemoryCache::new(SERVERS), shown: Mutex::default() }
    }

    /// Whether the certificate that a server showed last would still be taken.
    fn still_counts(&self, server: &ServerName<'_>, now: UnixTime) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).get(&server.to_owned()).cloned();
        let Some((end_entity, intermediates)) = shown.as_deref().and_then(<[_]>::split_first) else { return false };
        self.verifier.verify_server_cert(end_entity, intermediates, server, &[], now).is_ok()
    }
}

impl ServerCertVerifier for Sessions {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let chain = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned()).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() >= SERVERS {
            shown.clear();
        }
        shown.insert(server_name.to_owned(), chain);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.tickets.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.tickets.kx_hint(server_name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.tickets.take_tls13_ticket(server_name)?;
        self.still_counts(server_name, UnixTime::now()).then_some(ticket)
    }
}
