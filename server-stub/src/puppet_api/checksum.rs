//! The checksums that Puppet knows files by.
//!
//! What is published is named by BLAKE3, which Puppet does not know. So a content is hashed once more when it is first asked for by another
//! name, and never again while the server runs: a content does not change.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::Digest;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::error::ServerError;

/// What the `lite` types look at, in bytes.
const LITE_BYTES: usize = 512;

/// How much is read at a time.
const CHUNK_BYTES: usize = 128 * 1024;

/// Most checksums that are kept: some 150 bytes each.
const MOST_KEPT: usize = 500_000;

/// A type of checksum, as Puppet names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Md5,
    Md5Lite,
    Sha1,
    Sha1Lite,
    Sha224,
    Sha256,
    Sha256Lite,
    Sha384,
    Sha512,
    /// The time when the code was published stands for it: contents have no other.
    Mtime,
    /// As [`Kind::Mtime`].
    Ctime,
    None,
}

/// Every type with its name.
const NAMES: [(&str, Kind); 12] = [
    ("md5", Kind::Md5),
    ("md5lite", Kind::Md5Lite),
    ("sha1", Kind::Sha1),
    ("sha1lite", Kind::Sha1Lite),
    ("sha224", Kind::Sha224),
    ("sha256", Kind::Sha256),
    ("sha256lite", Kind::Sha256Lite),
    ("sha384", Kind::Sha384),
    ("sha512", Kind::Sha512),
    ("mtime", Kind::Mtime),
    ("ctime", Kind::Ctime),
    ("none", Kind::None),
];

impl Kind {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, kind)| *kind == self).map_or("none", |(name, _)| name)
    }

    /// Returns whether the content is hashed for it.
    pub(super) const fn is_of_content(self) -> bool {
        !matches!(self, Self::Mtime | Self::Ctime | Self::None)
    }

    const fn is_lite(self) -> bool {
        matches!(self, Self::Md5Lite | Self::Sha1Lite | Self::Sha256Lite)
    }
}

/// A hash under way.
pub(super) enum Summing {
    Md5(Md5),
    Sha1(Sha1),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
    Nothing,
}

impl Summing {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Md5 | Kind::Md5Lite => Self::Md5(Md5::new()),
            Kind::Sha1 | Kind::Sha1Lite => Self::Sha1(Sha1::new()),
            Kind::Sha224 => Self::Sha224(Sha224::new()),
            Kind::Sha256 | Kind::Sha256Lite => Self::Sha256(Sha256::new()),
            Kind::Sha384 => Self::Sha384(Sha384::new()),
            Kind::Sha512 => Self::Sha512(Sha512::new()),
            Kind::Mtime | Kind::Ctime | Kind::None => Self::Nothing,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha224(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Nothing => {}
        }
    }

    /// Returns the hash in lower-case hexadecimal; empty for what is none.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Md5(hasher) => hex(&hasher.finalize()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
            Self::Sha224(hasher) => hex(&hasher.finalize()),
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha384(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
            Self::Nothing => String::new(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the digest of a content that is to be brought again.
type Lost = Box<dyn Fn(Digest) + Send + Sync>;

/// Checksums of what is in the store.
pub(super) struct Checksums {
    store: Store,
    /// Is told of a content that is missing or damaged.
    lost: Lost,
    known: Mutex<HashMap<(Digest, Kind), String>>,
}

impl Checksums {
    pub(super) fn new(store: Store, lost: Lost) -> Self {
        Self { store, lost, known: Mutex::default() }
    }

    /// Returns the checksum of a content in hexadecimal; empty for types that do not look at contents. Blocking.
    ///
    /// # Errors
    ///
    /// When the content is missing or damaged: no checksum of other bytes is ever given for it.
    pub(super) fn of(&self, digest: &Digest, kind: Kind) -> Result<String, ServerError> {
        if !kind.is_of_content() {
            return Ok(String::new());
        }
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&(*digest, kind)) {
            return Ok(known.clone());
        }
        let sum = self.compute(digest, kind).inspect_err(|error| {
            if matches!(error, ServerError::Damaged { .. }) {
                // A damaged one is moved aside; what is missing can be put again.
                if let Err(error) = self.store.has_verified(digest) {
                    tracing::error!(%digest, %error, "a content could not be looked at");
                }
                (self.lost)(*digest);
            }
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KEPT {
            known.clear();
        }
        known.insert((*digest, kind), sum.clone());
        Ok(sum)
    }

    fn compute(&self, digest: &Digest, kind: Kind) -> Result<String, ServerError> {
        let damaged = |reason: String| ServerError::Damaged { path: self.store.path_of(digest), reason };
        let mut file = self.store.content(digest)?.ok_or_else(|| damaged("it is missing: publish again".to_owned()))?;
        let (mut verifier, mut summing) = (digest.verifier(), Summing::new(kind));
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = if kind.is_lite() { LITE_BYTES } else { usize::MAX };
        loop {
            let count = file.read(&mut buffer).map_err(|error| damaged(format!("it could not be read: {error}")))?;
            if count == 0 {
                break;
            }
            verifier.update(&buffer[..count]);
            let wanted = count.min(left);
            summing.update(&buffer[..wanted]);
            left -= wanted;
        }
        if verifier.finish() == *digest {
            Ok(summing.finish())
        } else {
            Err(damaged("it is not what its name says: run verify".to_owned()))
        }
    }
}

impl std::fmt::Debug for Checksums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksums").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_that_are_published_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::ensure(dir.path()).unwrap();
        store.put_bytes(b"abc").unwrap();
        let sums = Checksums::new(store.clone(), Box::new(|_| ()));
        // RFC 1321 and FIPS 180.
        for (name, sum) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("sha256lite", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("none", ""),
        ] {
            let kind = Kind::from_name(name).unwrap();
            assert_eq!((kind.name(), sums.of(&Digest::of(b"abc"), kind).unwrap().as_str()), (name, sum));
        }
        assert_eq!(Kind::from_name("crc"), None);
        let long = [7; 600];
        store.put_bytes(&long).unwrap();
        let mut lite = Summing::new(Kind::Md5);
        lite.update(&long[..LITE_BYTES]);
        assert_eq!(sums.of(&Digest::of(&long), Kind::Md5Lite).unwrap(), lite.finish());
    }

    #[test]
    fn what_is_damaged_has_no_checksum_and_what_is_known_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::ensure(dir.path()).unwrap();
        let sums = Checksums::new(store.clone(), Box::new(|_| ()));
        let digest = Digest::of(b"abc");
        assert!(sums.of(&digest, Kind::Md5).is_err());
        store.put_bytes(b"abc").unwrap();
        let md5 = sums.of(&digest, Kind::Md5).unwrap();
        let path = store.path_of(&digest);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"abd").unwrap();
        assert!(matches!(sums.of(&digest, Kind::Sha256), Err(ServerError::Damaged { .. })));
        assert!(!store.has(&digest), "it was not moved aside");
        assert_eq!(sums.of(&digest, Kind::Md5).unwrap(), md5);
    }
}
