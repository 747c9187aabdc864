//! Content digests that carry their algorithm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes in a digest of either algorithm.
pub const DIGEST_BYTES: usize = 32;

/// The hash function of a [`Digest`].
///
/// The codes are those of the multihash table (`blake3` 0x1e, `sha2-256` 0x12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, accepted where a Puppet catalog names it.
    Sha256,
    /// BLAKE3, 256 bit: what Direct Puppet itself computes.
    Blake3,
}

impl Algorithm {
    const fn code(self) -> u8 {
        match self {
            Self::Sha256 => 0x12,
            Self::Blake3 => 0x1e,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x12 => Some(Self::Sha256),
            0x1e => Some(Self::Blake3),
            _ => None,
        }
    }

    /// Returns the name used in text forms.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }
}

/// A hash of some bytes together with its algorithm; text form `blake3:<hex>` or `sha256:<hex>`.
///
/// The holder of a digest has *not* proved that any bytes match it: use [`Digest::verifier`] for that.
/// In MessagePack it is one byte string of 33 bytes: the algorithm's multihash code, then the hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; DIGEST_BYTES],
}

impl Digest {
    /// Returns the BLAKE3 digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self::from_blake3(blake3::hash(content))
    }

    /// Returns the digest of `content` by an algorithm.
    #[must_use]
    pub fn by(algorithm: Algorithm, content: &[u8]) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::of(content),
            Algorithm::Sha256 => Self::new(algorithm, <sha2::Sha256 as sha2::Digest>::digest(content).into()),
        }
    }

    /// Returns the digest that a BLAKE3 hash is.
    #[must_use]
    pub const fn from_blake3(hash: blake3::Hash) -> Self {
        Self { algorithm: Algorithm::Blake3, bytes: *hash.as_bytes() }
    }

    /// Returns a digest of known algorithm and bytes.
    #[must_use]
    pub const fn new(algorithm: Algorithm, bytes: [u8; DIGEST_BYTES]) -> Self {
        Self { algorithm, bytes }
    }

    /// Returns the algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash without its algorithm.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.bytes
    }

    /// Returns the hash in lower-case hexadecimal, without the algorithm: what file names in stores use.
    #[must_use]
    pub fn to_hex(&self) -> String {
        String::from_utf8_lossy(&self.hex_digits()).into_owned()
    }

    fn hex_digits(&self) -> [u8; 2 * DIGEST_BYTES] {
        let digit = |value: u8| HEX_DIGITS[usize::from(value & 0xf)];
        let mut digits = [0; 2 * DIGEST_BYTES];
        for (two, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.bytes) {
            *two = [digit(byte >> 4), digit(byte)];
        }
        digits
    }

    /// Returns a hasher of the same algorithm, to find out whether bytes match this digest.
    #[must_use]
    pub fn verifier(&self) -> Hasher {
        Hasher::new(self.algorithm)
    }

    /// Returns whether `content` has this digest.
    #[must_use]
    pub fn verifies(&self, content: &[u8]) -> bool {
        Self::by(self.algorithm, content) == *self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.name())?;
        f.write_str(":")?;
        f.write_str(&String::from_utf8_lossy(&self.hex_digits()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// An incremental hash of either algorithm.
#[derive(Debug, Clone)]
pub struct Hasher(HasherKind);

#[derive(Debug, Clone)]
enum HasherKind {
    Blake3(Box<blake3::Hasher>),
    Sha256(Box<sha2::Sha256>),
}

impl Hasher {
    /// Starts a hash.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        use sha2::Digest as _;
        Self(match algorithm {
            Algorithm::Blake3 => HasherKind::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::Sha256 => HasherKind::Sha256(Box::new(sha2::Sha256::new())),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        match &mut self.0 {
            HasherKind::Blake3(hasher) => {
                hasher.update(bytes);
            }
            HasherKind::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all bytes added.
    #[must_use]
    pub fn finish(self) -> Digest {
        use sha2::Digest as _;
        match self.0 {
            HasherKind::Blake3(hasher) => Digest::from_blake3(hasher.finalize()),
            HasherKind::Sha256(hasher) => Digest::new(Algorithm::Sha256, hasher.finalize().into()),
        }
    }
}

/// Why a text or byte string is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is no `algorithm:` in front, or one that is not known.
    #[error("digest {text:?} does not start with \"blake3:\" or \"sha256:\"")]
    Algorithm {
        /// What was parsed, at most its first 80 characters.
        text: String,
    },
    /// The rest is not exactly 64 hexadecimal digits in lower case.
    #[error("digest {text:?} does not have 64 lower-case hexadecimal digits after its algorithm")]
    Hex {
        /// What was parsed, at most its first 80 characters.
        text: String,
    },
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(80).collect::<String>();
        let (algorithm, hex) = if let Some(hex) = text.strip_prefix("blake3:") {
            (Algorithm::Blake3, hex)
        } else if let Some(hex) = text.strip_prefix("sha256:") {
            (Algorithm::Sha256, hex)
        } else {
            return Err(DigestError::Algorithm { text: shown() });
        };
        let bytes = parse_hex(hex).ok_or_else(|| DigestError::Hex { text: shown() })?;
        Ok(Self { algorithm, bytes })
    }
}

fn parse_hex(hex: &str) -> Option<[u8; DIGEST_BYTES]> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * DIGEST_BYTES {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let mut bytes = [0; DIGEST_BYTES + 1];
        bytes[0] = self.algorithm.code();
        bytes[1..].copy_from_slice(&self.bytes);
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest: 33 bytes, or text such as \"blake3:<hex>\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Digest, E> {
                let (&code, hash) = bytes.split_first().ok_or_else(|| E::invalid_length(0, &self))?;
                let algorithm =
                    Algorithm::from_code(code).ok_or_else(|| E::custom(format_args!("unknown digest algorithm {code:#04x}")))?;
                let bytes = hash.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                Ok(Digest { algorithm, bytes })
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!(digest.to_string().starts_with("blake3:"));
    }

    #[test]
    fn refuses_other_text() {
        let hex = "0".repeat(64);
        for text in ["", "blake3:", &hex, &format!("md5:{hex}"), &format!("blake3:{hex}0"), &format!("blake3:{}", "A".repeat(64))]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn verifies_with_its_own_algorithm() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"abc");
        let digest = hasher.finish();
        // The test vector of FIPS 180-2 for "abc".
        assert_eq!(digest.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(digest.verifies(b"abc"));
        assert!(!digest.verifies(b"abd"));
    }
}
