//! Identifiers as newtypes that only parsing can make.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::digest::{Digest, DigestError};

/// Longest certname, in bytes: the limit of a DNS name (RFC 1035) and of one path component.
pub const MAX_CERTNAME_BYTES: usize = 255;
/// Longest environment name, in bytes; ours.
pub const MAX_ENVIRONMENT_BYTES: usize = 64;

/// Domain of [`CatalogId`]s, so that no content can have a catalog's id.
const CATALOG_CONTEXT: &str = "direct-puppet 2026-11 catalog id v1";

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Returns the digest that this id is.
            #[must_use]
            pub const fn digest(&self) -> &Digest {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_id! {
    /// The id of exactly these catalog bytes: a domain-separated BLAKE3 of the canonical encoding.
    CatalogId
}

digest_id! {
    /// The id of one immutable published code tree of an environment: a Merkle digest, see [`super::manifest`].
    ///
    /// Its text form stays within `[A-Za-z0-9_:;-]` and is never all digits, as Puppet wants of a `code_id`.
    CodeId
}

impl CatalogId {
    /// Returns the id of the catalog whose canonical encoding is `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = blake3::derive_key(CATALOG_CONTEXT, bytes);
        Self(Digest::from_blake3(hash.into()))
    }
}

impl CodeId {
    pub(super) const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct NameError {
    /// `certname` or `environment`.
    pub kind: &'static str,
    /// What was parsed, at most its first 80 characters.
    pub text: String,
    /// What a valid one looks like.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, text: text.chars().take(80).collect(), rule: $rule })
                }
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a node, as its certificate says it: lower case, as in Puppet.
    ///
    /// At most [`MAX_CERTNAME_BYTES`] of `a-z 0-9 . _ -`, first and last a letter, digit or underscore, no `..`; so it
    /// can neither leave a directory nor be taken for an option.
    Certname, "certname",
    "use lower-case letters, digits, dots, dashes and underscores, at most 255, with no dot or dash at either end and no two dots in a row",
    |text| {
        let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let end = |byte: Option<&u8>| byte.is_some_and(|byte| !matches!(byte, b'.' | b'-'));
        let bytes = text.as_bytes();
        bytes.len() <= MAX_CERTNAME_BYTES
            && bytes.iter().copied().all(inner)
            && end(bytes.first())
            && end(bytes.last())
            && !text.contains("..")
    }
}

name! {
    /// The name of an environment: letters, digits and underscores, as in Puppet; at most [`MAX_ENVIRONMENT_BYTES`].
    Environment, "environment",
    "use letters, digits and underscores, at least one and at most 64",
    |text| {
        (1..=MAX_ENVIRONMENT_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self("production".into())
    }
}

/// Where a published version stands in the history of its environment; it only grows.
///
/// A promotion of another primary raises `epoch`, each publish raises `sequence`; the order is lexicographic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionCounter {
    /// Raised by an explicit promotion only.
    pub epoch: u64,
    /// Raised by each publish that changed something.
    pub sequence: u64,
}

/// Why a text is no version counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no version: write an epoch and a sequence, as 1.7")]
pub struct VersionCounterError {
    text: String,
}

impl FromStr for VersionCounter {
    type Err = VersionCounterError;

    fn from_str(text: &str) -> Result<Self, VersionCounterError> {
        let parse = || {
            let (epoch, sequence) = text.split_once('.')?;
            Some(Self { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? })
        };
        parse().ok_or_else(|| VersionCounterError { text: text.to_owned() })
    }
}

impl fmt::Display for VersionCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certnames() {
        for good in ["n", "web01.example.com", "a_b-c.d", "0", &"a".repeat(255)] {
            assert_eq!(good.parse::<Certname>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a..b", ".a", "a.", "-a", "Web", "a/b", "a\0b", "a\n", "ä", "a b", &"a".repeat(256)] {
            assert!(bad.parse::<Certname>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn environments() {
        for good in ["production", "a", "A_1"] {
            assert!(good.parse::<Environment>().is_ok());
        }
        for bad in ["", "a-b", "../x", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<Environment>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_catalog_id_is_no_content_digest() {
        assert_ne!(CatalogId::of(b"x").digest(), &Digest::of(b"x"));
    }

    #[test]
    fn counters_order_by_epoch_first() {
        let low = VersionCounter { epoch: 1, sequence: 9 };
        let high = VersionCounter { epoch: 2, sequence: 0 };
        assert!(low < high);
    }
}
