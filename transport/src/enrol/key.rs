//! Keys and requests.

use rcgen::{
    Attribute as DerAttribute, CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PublicKeyData as _,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use crate::http::pem;
use crate::protocol::Certname;

/// Why a key or a request could not be made, or a certificate not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no private key of a kind that is known.
    #[error("it is no unencrypted private key: RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519")]
    Key,
    /// The text is no certificate or request.
    #[error("it is no certificate or certificate request in PEM")]
    Pem,
    /// No certificate has the fingerprint that was given.
    #[error("authority has the fingerprint {found}, not the one that was given: nothing was trusted")]
    Fingerprint {
        /// Those that there are.
        found: String,
    },
    /// The certificate with the fingerprint is no root.
    #[error(
        "fingerprint is of a certificate that is no root, or of no authority: give the fingerprint of the root, whose certificate is signed with its own key"
    )]
    NoRoot,
    /// Revocation lists cannot be used.
    #[error("revocation lists are not used: {reason}")]
    Lists {
        /// Why.
        reason: &'static str,
    },
    /// An identifier or a value cannot be part of a request.
    #[error("{what} cannot be part of a certificate request: {reason}")]
    Attribute {
        /// The identifier or the name.
        what: String,
        /// Why.
        reason: &'static str,
    },
    /// The key does not sign, or none could be made.
    #[error("cannot make a key or sign with it")]
    Make(#[source] rcgen::Error),
}

/// Something that a request says: an identifier in dotted form, and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// As `1.3.6.1.4.1.34380.1.1.13`.
    pub oid: String,
    /// The text.
    pub value: String,
}

/// What a request says beside the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Other DNS names.
    pub dns_alt_names: Vec<String>,
    /// Extensions that the certificate is to have: Puppet's `extension_requests`.
    pub extensions: Vec<Attribute>,
    /// What is told to whoever signs, and is in no certificate: Puppet's `custom_attributes`.
    pub custom_attributes: Vec<Attribute>,
}

/// Makes a key on P-256, as PEM. Keep it where only its owner reads it.
///
/// # Errors
///
/// When the system has no random numbers.
pub fn make_key() -> Result<String, KeyError> {
    Ok(KeyPair::generate().map_err(KeyError::Make)?.serialize_pem())
}

fn read_key(text: &str) -> Result<KeyPair, KeyError> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Key)?;
    let key = pem::pkcs8(&key).ok_or(KeyError::Key)?;
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(key)).map_err(|_| KeyError::Key)
}

/// Returns the public half of a private key in PEM, as PEM.
///
/// # Errors
///
/// When it is no key of a kind that is known.
pub fn public_key_pem(key: &str) -> Result<String, KeyError> {
    Ok(read_key(key)?.public_key_pem())
}

/// Makes a request for a certificate of that name for a private key, all in PEM.
///
/// # Errors
///
/// When the key is of no kind that is known, or something of `options` cannot be part of a request.
pub fn request(name: &Certname, key: &str, options: &RequestOptions) -> Result<String, KeyError> {
    let key = read_key(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    if !options.dns_alt_names.is_empty() {
        let names = std::iter::once(name.as_str()).chain(options.dns_alt_names.iter().map(String::as_str));
        let name = |name: &str| {
            let bad = |_| KeyError::Attribute { what: name.to_owned(), reason: "it is no DNS name" };
            Ok(SanType::DnsName(name.try_into().map_err(bad)?))
        };
        params.subject_alt_names = names.map(name).collect::<Result<_, _>>()?;
    }
    for extension in &options.extensions {
        let oid = oid(&extension.oid)?;
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, utf8_string(&extension.value)));
    }
    let attributes = options.custom_attributes.iter().map(|attribute| {
        let mut values = vec![0x31];
        let text = utf8_string(&attribute.value);
        values.extend(length(text.len()));
        values.extend(text);
        // An identifier in an attribute lives as long as the program; a node makes one request in its life.
        Ok(DerAttribute { oid: oid(&attribute.oid)?.leak(), values })
    });
    let attributes = attributes.collect::<Result<Vec<_>, KeyError>>()?;
    let made = params.serialize_request_with_attributes(&key, attributes).map_err(KeyError::Make)?;
    made.pem().map_err(KeyError::Make)
}

/// Reads a dotted identifier.
fn oid(text: &str) -> Result<Vec<u64>, KeyError> {
    let bad = || KeyError::Attribute {
        what: text.chars().take(80).collect(),
        reason: "it is no identifier as 1.3.6.1.4.1.34380.1.1.13",
    };
    let parts: Vec<u64> = text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
    // X.660: the second number is below 40 beneath 0 and 1.
    let is_valid = matches!(parts.as_slice(), [0 | 1, 0..40, ..] | [2, 0..1000, ..]) && parts.len() > 2;
    if is_valid { Ok(parts) } else { Err(bad()) }
}

/// Returns a text as a DER `UTF8String`.
fn utf8_string(text: &str) -> Vec<u8> {
    let mut out = vec![0x0c];
    out.extend(length(text.len()));
    out.extend(text.as_bytes());
    out
}

/// Returns a DER length.
fn length(length: usize) -> Vec<u8> {
    let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|&byte| byte == 0).collect();
    match (length, u8::try_from(bytes.len())) {
        (0, _) => vec![0],
        (1..128, _) => bytes,
        (_, Ok(count)) => [&[0x80 | count], &bytes[..]].concat(),
        (_, Err(_)) => Vec::new(),
    }
}

/// Returns the SHA-256 of the first certificate or request in PEM, as Puppet writes fingerprints: `AB:CD:…`.
///
/// # Errors
///
/// When there is none.
pub fn fingerprint(text: &str) -> Result<String, KeyError> {
    let bytes = text.as_bytes();
    let der = CertificateSigningRequestDer::from_pem_slice(bytes).map(|der| der.to_vec());
    let der = der.or_else(|_| CertificateDer::from_pem_slice(bytes).map(|der| der.to_vec())).map_err(|_| KeyError::Pem)?;
    Ok(colons(&Sha256::digest(&der)))
}

pub(super) fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Returns whether a certificate in PEM is of a private key in PEM and has that name.
///
/// # Errors
///
/// When one of them cannot be read.
pub fn is_of_key(certificate: &str, key: &str, name: &Certname) -> Result<bool, KeyError> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| KeyError::Pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| KeyError::Pem)?;
    let names: Vec<_> = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    Ok(names == [name.as_str()] && *certificate.public_key().subject_public_key.data == *read_key(key)?.der_bytes())
}

/// Returns from when to when a certificate in PEM is valid, in seconds since 1970 UTC.
///
/// # Errors
///
/// When it cannot be read.
pub fn certificate_ends(certificate: &str) -> Result<(i64, i64), KeyError> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| KeyError::Pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| KeyError::Pem)?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_name_and_what_it_says() {
        let (name, key) = ("n1.example.com".parse().unwrap(), make_key().unwrap());
        let text = |oid: &str, value: &str| Attribute { oid: oid.to_owned(), value: value.to_owned() };
        let options = RequestOptions {
            dns_alt_names: vec!["www".to_owned()],
            extensions: vec![text("1.3.6.1.4.1.34380.1.1.13", &"web".repeat(100))],
            custom_attributes: vec![text("1.2.840.113549.1.9.7", "secret")],
        };
        let made = request(&name, &key, &options).unwrap();
        assert!(made.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{made}");
        assert_eq!(fingerprint(&made).unwrap().len(), 95);
        for bad in ["", "1", "1.2", "a.b.c", "3.1.1", "1.40.1", "1.2.-3", "1..2"] {
            let options = RequestOptions { extensions: vec![text(bad, "x")], ..RequestOptions::default() };
            assert!(matches!(request(&name, &key, &options), Err(KeyError::Attribute { .. })), "{bad}");
        }
        assert!(matches!(request(&name, "no key", &RequestOptions::default()), Err(KeyError::Key)));
        assert!(public_key_pem(&key).unwrap().contains("PUBLIC KEY"));
    }

    #[test]
    fn identifiers_and_lengths_are_written_as_der_has_them() {
        assert_eq!((length(0), length(127), length(128), length(300)), (vec![0], vec![127], vec![0x81, 128], vec![0x82, 1, 44]));
        assert_eq!(utf8_string("true"), b"\x0c\x04true");
    }
}
