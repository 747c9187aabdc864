//! Certificates, keys and revocation lists from PEM files.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

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
