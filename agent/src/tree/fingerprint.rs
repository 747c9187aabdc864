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

/// Enough that no run proves more than some quarter of the files, few enough that most runs prove none and can be settled.
const POSITIONS: u32 = 4;

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

    /// Where between 0 and 1 (exclusive) a path stands among all paths of this host; the same at every call. There are
    /// [`POSITIONS`] places to stand: whatever shares one is proved in the same run, and between them runs have nothing to read.
    pub(super) fn position(&self, path: &TreePath) -> f64 {
        let part = xxh3_64_with_secret(path.as_bytes(), &self.0) >> 32;
        (f64::from(((part * u64::from(POSITIONS)) >> 32) as u32) + 0.5) / f64::from(POSITIONS)
    }

    /// The key for the checksum of the settled record, from which this key cannot be found.
    pub(super) fn settled_key(&self) -> [u8; 32] {
        blake3::derive_key("direct-puppet 2026 settled record checksum", &self.0)
    }

    /// The key for the checksum of the cache file, from which this key cannot be found.
    pub(super) fn checksum_key(&self) -> [u8; 32] {
        blake3::derive_key("direct-puppet 2026 scan cache checksum", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key as random as a real one: repeated bytes would cancel out where XXH3 combines two words of its secret.
    fn key(seed: u8) -> FingerprintKey {
        let mut bytes = [0; KEY_BYTES];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        FingerprintKey::new(bytes)
    }

    #[test]
    fn a_forgery_for_the_public_secret_is_none_for_ours() {
        // XXH3 multiplies the two words of a 16-byte block after masking them with words of its secret: swapped, the product is
        // the same; one word being the complement of the other, so is their sum.
        let masks = [0xbe4b_a423_396c_feb8_u64, 0x1cad_21f7_2c81_017c];
        let forge = |low: u64, high: u64| [low.to_le_bytes(), high.to_le_bytes(), *b"the same", *b" ending."].concat();
        let word = u64::from_le_bytes(*b"innocent");
        let (one, two) = (forge(word, !word), forge(!word ^ masks[0] ^ masks[1], word ^ masks[0] ^ masks[1]));
        assert_ne!(one, two);
        assert_eq!(xxhash_rust::xxh3::xxh3_128(&one), xxhash_rust::xxh3::xxh3_128(&two));
        assert_ne!(key(1).fingerprint(&one), key(1).fingerprint(&two));
    }

    #[test]
    fn depends_on_the_key_for_every_length() {
        let (one, two) = (key(7), key(8));
        // XXH3 has one way each for up to 16, 128, 240 bytes and above.
        for length in [0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 5000] {
            let content = vec![1; length];
            assert_ne!(one.fingerprint(&content), two.fingerprint(&content), "{length}");
        }
    }

    #[test]
    fn positions_are_spread() {
        let key = key(7);
        let low = (0..1000).filter(|i| key.position(&format!("f{i}").parse().unwrap()) < 0.5).count();
        assert!((400..600).contains(&low), "{low}");
    }
}
