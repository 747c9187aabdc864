//! The authority's own key and certificate, and what is signed with them.

use std::path::Path;

use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::Certname;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::request::{AlternativeName, Wishes};
use super::{CaError, date};

/// How far certificates reach back, so that clocks that are slow still find them valid; as Puppet.
pub(super) const BACKDATED: Duration = Duration::days(1);

/// How long the certificate of an authority made here is valid; as Puppet.
const AUTHORITY_TTL: Duration = Duration::days(15 * 365);

/// The authority's own key and certificate.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The certificate of the key.
    pub(super) certificate: CertificateDer<'static>,
    /// Its subject, in DER.
    pub(super) subject: Vec<u8>,
    /// Its key identifier.
    pub(super) key_identifier: Option<Vec<u8>>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Returns the names and dates of a certificate, or why it cannot be read.
pub(super) fn parse<'a>(der: &'a [u8], path: &Path) -> Result<X509Certificate<'a>, CaError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(CaError::damaged(path, "something follows a certificate")),
        Err(error) => Err(CaError::damaged(path, format!("a certificate cannot be read: {error}"))),
    }
}

/// Reads a private key in PEM: PKCS#8, PKCS#1 or SEC1.
pub(super) fn key_from(path: &Path) -> Result<KeyPair, CaError> {
    let key = pem::private_key(path).map_err(|error| CaError::damaged(path, crate::error::chain(&error)))?;
    let unknown = || CaError::damaged(path, "it holds no RSA key of 2048 to 4096 bits, and none on P-256, P-384 or Ed25519");
    let key = pem::pkcs8(&key).ok_or_else(unknown)?;
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(key)).map_err(|_| unknown())
}

impl Signer {
    /// Reads the authority: of the certificates, that of the key is the signing one.
    pub(super) fn load(certificates: &Path, key: &Path) -> Result<Self, CaError> {
        Self::of(key_from(key)?, certificates, key)
    }

    /// As [`Signer::load`], with the key at hand that is, or will be, in the file `key`.
    pub(super) fn of(pair: KeyPair, certificates: &Path, key: &Path) -> Result<Self, CaError> {
        let all = pem::certificates(certificates).map_err(|error| CaError::damaged(certificates, crate::error::chain(&error)))?;
        for der in all {
            let certificate = parse(&der, certificates)?;
            if *certificate.public_key().subject_public_key.data != *pair.der_bytes() {
                continue;
            }
            if !certificate.is_ca() {
                return Err(CaError::damaged(certificates, "the certificate of the key may issue no others"));
            }
            let mut key_identifier = None;
            for extension in certificate.extensions() {
                if let x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                    key_identifier = Some(id.0.to_vec());
                }
            }
            let subject = certificate.subject().as_raw().to_vec();
            let validity = certificate.validity();
            let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
            let der = der.clone();
            let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(CaError::make("signatures with this authority"))?;
            return Ok(Self { issuer, certificate: der, subject, key_identifier, not_before, not_after });
        }
        Err(CaError::damaged(certificates, format!("it has no certificate of the key in {}", key.display())))
    }

    /// Makes a new authority: the certificate, and its key in PEM.
    pub(super) fn create(name: &str, now: OffsetDateTime) -> Result<(Certificate, KeyPair), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(CaError::make("a key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(1_u64));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (now - BACKDATED, now + AUTHORITY_TTL);
        let certificate = params.self_signed(&key).map_err(CaError::make("the authority's certificate"))?;
        Ok((certificate, key))
    }

    /// Refuses to sign while the authority itself is not valid.
    pub(super) fn check_clock(&self, now: OffsetDateTime) -> Result<(), CaError> {
        if self.not_before <= now && now < self.not_after {
            return Ok(());
        }
        Err(CaError::Clock { from: date::text(self.not_before), to: date::text(self.not_after), now: date::text(now) })
    }

    /// Signs a certificate.
    pub(super) fn sign(&self, wishes: &Wishes, serial: u64, now: OffsetDateTime, ttl: Duration) -> Result<Certificate, CaError> {
        self.check_clock(now)?;
        let refused = |reason: String| CaError::refused(&wishes.name, reason);
        let key = SubjectPublicKeyInfo::from_der(&wishes.key).map_err(|error| refused(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, wishes.name.as_str());
        params.serial_number = Some(SerialNumber::from(serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATED).max(self.not_before);
        params.not_after = now.checked_add(ttl).map_or(self.not_after, |after| after.min(self.not_after));
        params.custom_extensions = wishes.extensions.iter().map(super::request::Extension::custom).collect();
        let own = AlternativeName::Dns(wishes.name.to_string());
        let names = std::iter::once(&own).chain(wishes.alternative_names.iter().filter(|name| **name != own));
        params.subject_alt_names =
            names.map(general_name).collect::<Result<_, _>>().map_err(CaError::make("alternative names"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CaError::make("a certificate"))?;
        // What checks certificates compares these names byte for byte.
        match X509Certificate::from_der(certificate.der()) {
            Ok((_, made)) if made.issuer().as_raw() == self.subject => Ok(certificate),
            _ => Err(refused("the authority's own name cannot be written as it stands in its certificate".to_owned())),
        }
    }

    /// Whether a certificate was signed with this key.
    pub(super) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let own = X509Certificate::from_der(&self.certificate);
        own.is_ok_and(|(_, own)| {
            certificate.issuer() == own.subject() && certificate.verify_signature(Some(own.public_key())).is_ok()
        })
    }
}

fn general_name(name: &AlternativeName) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        AlternativeName::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        AlternativeName::Address(address) => SanType::IpAddress(*address),
    })
}

/// Returns what a certificate is made from whose key is made here.
pub(super) fn own_wishes(
    name: Certname,
    key: &KeyPair,
    alternative_names: Vec<AlternativeName>,
    is_administrator: bool,
) -> Wishes {
    let administrator = super::request::Extension {
        oid: super::oid::CLI_AUTH.to_vec(),
        value: super::oid::utf8_string("true").unwrap_or_default(),
    };
    let extensions = if is_administrator { vec![administrator] } else { Vec::new() };
    Wishes { name, key: key.subject_public_key_info(), alternative_names, extensions }
}
