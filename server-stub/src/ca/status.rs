//! What is known of a certificate or a request, as Puppet's `certificate_status` tells it.

use std::collections::BTreeMap;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::request::{AlternativeName, Request, Wishes};
use super::{CaError, date, oid, signer};

/// What is known of a certificate or a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The certname.
    pub name: String,
    /// `requested`, `signed` or `revoked`.
    pub state: String,
    /// Alternative DNS names, as `DNS:puppet`.
    pub dns_alt_names: Vec<String>,
    /// All alternative names, as `DNS:puppet` and `IP:10.0.0.1`.
    pub subject_alt_names: Vec<String>,
    /// What the certificate allows, by Puppet's name or the number of the extension.
    pub authorization_extensions: BTreeMap<String, String>,
    /// SHA-256 of the DER, in capitals with colons.
    pub fingerprint: String,
    /// Other digests of it: `SHA1`, `SHA256`, `SHA512`, `default`.
    pub fingerprints: BTreeMap<String, String>,
    /// Of a certificate, its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<u64>,
    /// Of a certificate, from when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Of a certificate, until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// A certificate that was issued here.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) der: CertificateDer<'static>,
    pub(super) serial: Vec<u8>,
    pub(super) wishes: Wishes,
    pub(super) not_before: time::OffsetDateTime,
    pub(super) not_after: time::OffsetDateTime,
}

impl Issued {
    pub(super) fn parse(pem: &str, path: &Path) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|error| CaError::damaged(path, format!("it is no certificate in PEM: {error:?}")))?;
        let certificate = signer::parse(&der, path)?;
        let wishes = Wishes::of_certificate(&certificate).map_err(|reason| CaError::damaged(path, reason))?;
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Ok(Self { serial: super::crl::serial_bytes(certificate.raw_serial()), wishes, not_before, not_after, der: der.clone() })
    }

    pub(super) fn status(&self, is_revoked: bool) -> CertificateStatus {
        let serial = self.serial.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        CertificateStatus {
            serial_number: (self.serial.len() <= 8).then_some(serial),
            not_before: Some(date::text(self.not_before)),
            not_after: Some(date::text(self.not_after)),
            ..of(&self.wishes, &self.der, if is_revoked { "revoked" } else { "signed" })
        }
    }
}

/// Returns what is known of a request.
pub(super) fn of_request(request: &Request) -> CertificateStatus {
    of(&request.wishes, &request.der, "requested")
}

fn of(wishes: &Wishes, der: &[u8], state: &str) -> CertificateStatus {
    let is_dns = |name: &&AlternativeName| matches!(name, AlternativeName::Dns(_));
    let authorization = wishes.extensions.iter().filter(|extension| oid::is_below(&extension.oid, oid::AUTHORIZATION));
    let fingerprint = fingerprint(der);
    let fingerprints = [
        ("SHA1", colons(&Sha1::digest(der))),
        ("SHA256", fingerprint.clone()),
        ("SHA512", colons(&Sha512::digest(der))),
        ("default", fingerprint.clone()),
    ];
    CertificateStatus {
        name: wishes.name.to_string(),
        state: state.to_owned(),
        dns_alt_names: wishes.alternative_names.iter().filter(is_dns).map(ToString::to_string).collect(),
        subject_alt_names: wishes.alternative_names.iter().map(ToString::to_string).collect(),
        authorization_extensions: authorization.map(|found| (oid::name(&found.oid), oid::string_of(&found.value))).collect(),
        fingerprint,
        fingerprints: fingerprints.into_iter().map(|(name, digest)| (name.to_owned(), digest)).collect(),
        serial_number: None,
        not_before: None,
        not_after: None,
    }
}

/// Returns the SHA-256 of a DER as Puppet writes fingerprints: `AB:CD:…`.
pub(super) fn fingerprint(der: &[u8]) -> String {
    colons(&Sha256::digest(der))
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
