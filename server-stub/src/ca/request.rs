//! What a node asks to have signed, and what it may not ask for.

use std::net::IpAddr;

use direct_puppet_transport::protocol::Certname;
use rcgen::{CustomExtension, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::oid::{ALTERNATIVE_NAMES, AUTHORIZATION, CLI_AUTH, PRIVATE, REGISTERED, is_below};
use super::{CaError, CaOptions};

/// Longest request that is read, in bytes: one with a key of 4,096 bits and a page of extensions has 4,000.
pub(super) const MAX_REQUEST_BYTES: u64 = 64 * 1024;

/// Shortest RSA key that a certificate is given for, in bits.
const MIN_RSA_BITS: usize = 2048;

/// Signatures that no longer prove anything: RSA with MD5 and SHA-1 (RFC 8017, RFC 3279), DSA and ECDSA with SHA-1.
const WEAK_SIGNATURES: [&str; 4] = ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10040.4.3", "1.2.840.10045.4.1"];

/// Most extensions of a request, and most alternative names.
const MAX_PARTS: usize = 128;

/// An alternative name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AlternativeName {
    Dns(String),
    Address(IpAddr),
}

impl std::fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Address(address) => write!(f, "IP:{address}"),
        }
    }
}

impl std::str::FromStr for AlternativeName {
    type Err = String;

    /// Reads a name as `puppet`, `DNS:puppet` or `IP:10.0.0.1`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("IP:") {
            return address.parse().map(Self::Address).map_err(|error| format!("{address:?} is no IP address: {error}"));
        }
        let name = text.strip_prefix("DNS:").unwrap_or(text);
        let is_name = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        is_name
            .then(|| Self::Dns(name.to_owned()))
            .ok_or_else(|| format!("{name:?} is no DNS name, or has a wildcard, which is not allowed"))
    }
}

/// A Puppet extension, as it stands in a request or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extension {
    pub(super) oid: Vec<u64>,
    /// The DER value.
    pub(super) value: Vec<u8>,
}

impl Extension {
    pub(super) fn custom(&self) -> CustomExtension {
        CustomExtension::from_oid_content(&self.oid, self.value.clone())
    }
}

/// What is the same in a request and in the certificate that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) name: Certname,
    pub(super) key: Vec<u8>,
    pub(super) alternative_names: Vec<AlternativeName>,
    pub(super) extensions: Vec<Extension>,
}

/// A request whose signature is right.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) der: Vec<u8>,
    pub(super) wishes: Wishes,
}

impl Request {
    /// Reads a request in PEM, checks its signature, and that it asks for nothing that no request may.
    pub(super) fn parse(pem: &[u8], options: &CaOptions) -> Result<Self, CaError> {
        let unknown = |reason: String| CaError::refused("somebody", reason);
        if pem.len() as u64 > MAX_REQUEST_BYTES {
            return Err(unknown(format!("it is longer than {MAX_REQUEST_BYTES} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|error| unknown(format!("it is no certificate request in PEM: {error:?}")))?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| unknown(format!("it cannot be read: {error}")))?;
        if !rest.is_empty() {
            return Err(unknown("something follows it".to_owned()));
        }
        let info = &request.certification_request_info;
        let name = name_of(&info.subject).map_err(unknown)?;
        let refused = |reason: String| CaError::refused(&name, reason);
        // Before its signature: one by such a key is not understood.
        if let Ok(PublicKey::RSA(key)) = info.subject_pki.parsed()
            && key.key_size() < MIN_RSA_BITS
        {
            return Err(refused(format!("its RSA key has {} bits, and must have {MIN_RSA_BITS} or more", key.key_size())));
        }
        request.verify_signature().map_err(|error| {
            refused(format!("it is not signed with its own key, or in a way that is not known here: {error}"))
        })?;
        let signed_by = request.signature_algorithm.algorithm.to_id_string();
        if WEAK_SIGNATURES.contains(&signed_by.as_str()) {
            return Err(refused("it is signed with SHA-1 or MD5, which can be forged: sign it with SHA-256".to_owned()));
        }
        let key = info.subject_pki.raw.to_vec();
        SubjectPublicKeyInfo::from_der(&key)
            .map_err(|error| refused(format!("its key is of a kind that is not known here: {error}")))?;
        let mut asked: Vec<&X509Extension<'_>> = Vec::new();
        for attribute in info.iter_attributes() {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(wanted) if asked.is_empty() => asked = wanted.extensions.iter().collect(),
                ParsedCriAttribute::ExtensionRequest(_) => return Err(refused("it asks for extensions twice".to_owned())),
                _ => {}
            }
        }
        let (alternative_names, extensions) = sorted(&asked).map_err(refused)?;
        let wishes = Wishes { name: name.clone(), key, alternative_names, extensions };
        wishes.check(options).map_err(refused)?;
        Ok(Self { der: der.to_vec(), wishes })
    }
}

impl Wishes {
    /// Returns what is in a certificate, with what Puppet has put in it.
    pub(super) fn of_certificate(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Result<Self, String> {
        let name = name_of(certificate.subject())?;
        let ours = |extension: &&X509Extension<'_>| {
            let oid: Vec<u64> = extension.oid.iter().map(Iterator::collect).unwrap_or_default();
            oid == ALTERNATIVE_NAMES || [REGISTERED, PRIVATE, AUTHORIZATION].iter().any(|parent| is_below(&oid, parent))
        };
        let (alternative_names, extensions) = sorted(&certificate.extensions().iter().filter(ours).collect::<Vec<_>>())?;
        Ok(Self { name, key: certificate.public_key().raw.to_vec(), alternative_names, extensions })
    }

    /// Refuses what needs a permission that was not given, and what is never given.
    fn check(&self, options: &CaOptions) -> Result<(), String> {
        let own = AlternativeName::Dns(self.name.to_string());
        if !options.allow_subject_alt_names
            && let Some(other) = self.alternative_names.iter().find(|name| **name != own)
        {
            return Err(format!(
                "it asks for the alternative name {other}, which is not allowed here (--allow-subject-alt-names)"
            ));
        }
        for extension in &self.extensions {
            let oid = &extension.oid;
            let name = super::oid::name(oid);
            if oid == CLI_AUTH {
                return Err(format!("it asks for {name}, which only \"ca generate --ca-client\" gives"));
            }
            if is_below(oid, AUTHORIZATION) && !options.allow_authorization_extensions {
                return Err(format!("it asks for {name}, which is not allowed here (--allow-authorization-extensions)"));
            }
            if ![REGISTERED, PRIVATE, AUTHORIZATION].iter().any(|parent| is_below(oid, parent)) {
                return Err(format!("it asks for the extension {name}, which is not permitted"));
            }
        }
        Ok(())
    }
}

/// Returns the certname in a subject, which has nothing else.
pub(super) fn name_of(subject: &X509Name<'_>) -> Result<Certname, String> {
    let mut names = subject.iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err("its subject has not exactly one common name".to_owned());
    };
    if subject.iter_attributes().count() != 1 {
        return Err("its subject has more than a common name".to_owned());
    }
    let text = name.as_str().map_err(|_| "its common name is no text".to_owned())?;
    text.parse().map_err(|error| format!("{error}"))
}

/// Sorts extensions into alternative names and others.
fn sorted(extensions: &[&X509Extension<'_>]) -> Result<(Vec<AlternativeName>, Vec<Extension>), String> {
    if extensions.len() > MAX_PARTS {
        return Err(format!("it has more than {MAX_PARTS} extensions"));
    }
    let (mut names, mut others) = (Vec::new(), Vec::<Extension>::new());
    for extension in extensions {
        let oid: Vec<u64> = extension.oid.iter().ok_or("it has an extension whose identifier cannot be read")?.collect();
        if oid == ALTERNATIVE_NAMES {
            let ParsedExtension::SubjectAlternativeName(wanted) = extension.parsed_extension() else {
                return Err("its alternative names cannot be read".to_owned());
            };
            if !names.is_empty() || wanted.general_names.len() > MAX_PARTS {
                return Err("it has alternative names twice, or too many".to_owned());
            }
            names = wanted.general_names.iter().map(alternative).collect::<Result<_, _>>()?;
            continue;
        }
        if others.iter().any(|other| other.oid == oid) {
            return Err(format!("it has the extension {} twice", super::oid::name(&oid)));
        }
        others.push(Extension { oid, value: extension.value.to_vec() });
    }
    names.sort();
    names.dedup();
    Ok((names, others))
}

fn alternative(name: &GeneralName<'_>) -> Result<AlternativeName, String> {
    match name {
        GeneralName::DNSName(name) => format!("DNS:{name}").parse(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => Ok(AlternativeName::Address(four.into())),
            (_, Ok(sixteen)) => Ok(AlternativeName::Address(sixteen.into())),
            _ => Err("it has an alternative name that is no IP address".to_owned()),
        },
        _ => Err("it has an alternative name that is neither a DNS name nor an IP address".to_owned()),
    }
}
