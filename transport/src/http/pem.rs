//! Certificates, keys and revocation lists from PEM files.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// It cannot be read, or its PEM is damaged.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// It holds nothing of the kind.
    #[error("{} holds no {what}", path.display())]
    Empty {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It holds a certificate that cannot be an authority.
    #[error("{} holds a certificate that cannot be trusted as an authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Returns the certificates in the file at `path`, in order.
///
/// # Errors
///
/// When it cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(path, "certificate")
}

/// Returns the revocation lists in the file at `path`.
///
/// # Errors
///
/// When it cannot be read or holds none.
pub fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    all(path, "revocation list")
}

/// Returns the first private key in the file at `path`: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
///
/// When it cannot be read or holds none; an encrypted key counts as none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let what = "unencrypted private key";
    PrivateKeyDer::from_pem_file(path).map_err(|source| match source {
        pem::Error::NoItemsFound => PemError::Empty { what, path: path.to_owned() },
        source => PemError::Read { what, path: path.to_owned(), source },
    })
}

/// Returns the authorities in the file at `path`.
///
/// # Errors
///
/// When it cannot be read, holds none, or one of them makes no sense.
pub fn authorities(path: &Path) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|source| PemError::Authority { path: path.to_owned(), source })?;
    }
    Ok(store)
}

/// Returns a private key in PKCS#8: Puppet's own, which OpenSSL wrote, are in the older forms, of which not every library
/// reads both. `None` for a key on a curve that is neither P-256 nor P-384.
#[must_use]
pub fn pkcs8(key: &PrivateKeyDer<'_>) -> Option<PrivatePkcs8KeyDer<'static>> {
    /// `rsaEncryption` with its empty parameters (RFC 3279, 2.3.1).
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    /// `ecPublicKey` with the curves `secp256r1` and `secp384r1` (RFC 5480, 2.1.1).
    const P256: &[u8] =
        &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    let (algorithm, inner) = match key {
        PrivateKeyDer::Pkcs8(key) => return Some(key.clone_key()),
        PrivateKeyDer::Pkcs1(key) => (RSA, key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            // ECPrivateKey ::= SEQUENCE { version 1, privateKey OCTET STRING … } (RFC 5915, 3); the length tells the curve.
            let key = key.secret_sec1_der();
            let octets = key.windows(5).take(8).find_map(|at| (at[..4] == [0x02, 0x01, 0x01, 0x04]).then_some(at[4]))?;
            match octets {
                32 => (P256, key),
                48 => (P384, key),
                _ => return None,
            }
        }
        _ => return None,
    };
    let whole = [&[0x02, 0x01, 0x00][..], &der(0x30, algorithm), &der(0x04, inner)].concat();
    Some(PrivatePkcs8KeyDer::from(der(0x30, &whole)))
}

/// Returns a value with its tag and length.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|&byte| byte == 0).collect();
    let mut out = vec![tag];
    match (value.len(), u8::try_from(length.len())) {
        (0, _) => out.push(0),
        (1..128, _) => out.extend(length),
        (_, Ok(count)) => {
            out.push(0x80 | count);
            out.extend(length);
        }
        // No length of this machine has so many bytes.
        (_, Err(_)) => {}
    }
    out.extend_from_slice(value);
    out
}

fn all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, PemError> {
    let read = |source| PemError::Read { what, path: path.to_owned(), source };
    let items = T::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if items.is_empty() {
        return Err(PemError::Empty { what, path: path.to_owned() });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_of_another_kind_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let missing = certificates(&path).unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        std::fs::write(&path, "not a certificate\n").unwrap();
        assert!(matches!(certificates(&path), Err(PemError::Empty { .. })));
        assert!(matches!(private_key(&path), Err(PemError::Empty { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(authorities(&path), Err(PemError::Authority { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        assert!(matches!(certificates(&path), Err(PemError::Read { .. })));
    }
}
