//! Keyed XXH3-128: finds out quickly whether a file still has the bytes that were once proved by digest.
//!
//! XXH3 is no cryptographic hash: without a secret anyone can make two files with one value. The key is the whole 192-byte
//! secret, random per host, and neither it nor any fingerprint ever leaves the host. Even so it decides only about files that
//! nobody but root or the agent's own user can write.

use std::fmt;

use direct_puppet_transport::protocol::TreePath;
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};

/// Bytes of a key: the size of XXH3's own secret (`XXH3_SECRET_DEFAULT_SIZE`).
pub(super) const KEY_BYTES: usize = 192;

/// The secret of this host.
pub(super) struct FingerprintKey([u8; KEY_BYTES]);

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(secret)")
    }
}

impl FingerprintKey {
    pub(super) const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn fingerprint(&self, content: &[u8]) -> u128 {
        xxh3_128_with_secret(content, &self.0)
    }

    /// Where between 0 and 1 (exclusive) a path stands among all paths of this host; the same at every call.
    pub(super) fn position(&self, path: &TreePath) -> f64 {
        f64::from((xxh3_64_with_secret(path.as_bytes(), &self.0) >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
    }

    /// The key for the checksum of the cache file, from which this key cannot be found.
    pub(super) fn checksum_key(&self) -> [u8; 32] {
        blake3::derive_key("direct-puppet 2026 scan cache checksum", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_the_key_for_every_length() {
        let (one, two) = (FingerprintKey::new([7; KEY_BYTES]), FingerprintKey::new([8; KEY_BYTES]));
        // XXH3 has one way each for up to 16, 128, 240 bytes and above.
        for length in [0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 5000] {
            let content = vec![1; length];
            assert_ne!(one.fingerprint(&content), two.fingerprint(&content), "{length}");
        }
    }

    #[test]
    fn positions_are_spread() {
        let key = FingerprintKey::new([7; KEY_BYTES]);
        let low = (0..1000).filter(|i| key.position(&format!("f{i}").parse().unwrap()) < 0.5).count();
        assert!((400..600).contains(&low), "{low}");
    }
}
