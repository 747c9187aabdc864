//! `checksum` and `checksum_value`: Puppet's names for what a content is compared by.

use std::io::{self, Read};

/// What `checksum` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Any hash: contents are always compared by their digest.
    Digest,
    /// A local source: whether the file was modified after it.
    ModifiedTime,
    /// A local source: whether the file was changed after it.
    ChangedTime,
    /// Existence only.
    None,
}

impl Checksum {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "mtime" => Ok(Self::ModifiedTime),
            "ctime" => Ok(Self::ChangedTime),
            "none" => Ok(Self::None),
            other => HashKind::parse(other).map(|_| Self::Digest),
        }
    }

    /// Whether content is not looked at.
    pub(super) const fn is_by_date(self) -> bool {
        !matches!(self, Self::Digest)
    }
}

/// Bytes that the `lite` kinds look at, as in Puppet.
const LITE_BYTES: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashKind {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl HashKind {
    /// Returns the kind and whether only the first bytes count.
    fn parse(text: &str) -> Result<(Self, bool), String> {
        match text {
            "md5" => Ok((Self::Md5, false)),
            "md5lite" => Ok((Self::Md5, true)),
            "sha1" => Ok((Self::Sha1, false)),
            "sha1lite" => Ok((Self::Sha1, true)),
            "sha256" => Ok((Self::Sha256, false)),
            "sha256lite" => Ok((Self::Sha256, true)),
            "sha224" => Ok((Self::Sha224, false)),
            "sha384" => Ok((Self::Sha384, false)),
            "sha512" => Ok((Self::Sha512, false)),
            _ => {
                Err("must be one of md5, md5lite, sha1, sha1lite, sha256, sha256lite, sha224, sha384, sha512, mtime, ctime, none"
                    .to_owned())
            }
        }
    }

    const fn hex_digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha224 => 56,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// A value that new content must have before it is put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChecksumValue {
    kind: HashKind,
    lite: bool,
    hex: String,
}

impl ChecksumValue {
    pub(super) fn parse(kind: &str, value: &str) -> Result<Self, String> {
        let (kind, lite) = HashKind::parse(kind).map_err(|_| "needs a checksum that is a hash".to_owned())?;
        if value.len() != kind.hex_digits() || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("must be {} hexadecimal digits", kind.hex_digits()));
        }
        Ok(Self { kind, lite, hex: value.to_ascii_lowercase() })
    }

    /// Returns what a hash of the whole content is known to be; `None` when the digits are none.
    pub(super) fn of_header(kind: &str, value: &str) -> Option<Self> {
        Self::parse(kind, value).ok()
    }

    /// Returns the value as Puppet's messages have it, `{md5}…`.
    pub(super) fn shown(&self) -> String {
        self.shown_with(&self.hex)
    }

    fn shown_with(&self, hex: &str) -> String {
        let kind = match self.kind {
            HashKind::Md5 => "md5",
            HashKind::Sha1 => "sha1",
            HashKind::Sha224 => "sha224",
            HashKind::Sha256 => "sha256",
            HashKind::Sha384 => "sha384",
            HashKind::Sha512 => "sha512",
        };
        format!("{{{kind}{}}}{hex}", if self.lite { "lite" } else { "" })
    }

    /// Reads a content and returns whether it has this value.
    pub(super) fn verifies(&self, content: impl Read) -> io::Result<bool> {
        Ok(self.hex_of(content)? == self.hex)
    }

    /// Reads a content and returns its value as messages have it, when that is another.
    pub(super) fn other(&self, content: impl Read) -> io::Result<Option<String>> {
        let found = self.hex_of(content)?;
        Ok((found != self.hex).then(|| self.shown_with(&found)))
    }

    fn hex_of(&self, content: impl Read) -> io::Result<String> {
        let content = content.take(if self.lite { LITE_BYTES } else { u64::MAX });
        match self.kind {
            HashKind::Md5 => hex_of::<md5::Md5>(content),
            HashKind::Sha1 => hex_of::<sha1::Sha1>(content),
            HashKind::Sha224 => hex_of::<sha2::Sha224>(content),
            HashKind::Sha256 => hex_of::<sha2::Sha256>(content),
            HashKind::Sha384 => hex_of::<sha2::Sha384>(content),
            HashKind::Sha512 => hex_of::<sha2::Sha512>(content),
        }
    }
}

fn hex_of<H: md5::Digest>(mut content: impl Read) -> io::Result<String> {
    use std::fmt::Write as _;
    let mut hasher = H::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..length]);
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Of the empty content and of "abc", as RFC 1321 and FIPS 180-4 give them.
        for (kind, content, hex) in [
            ("md5", "abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("md5lite", "abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "abc", "A9993E364706816ABA3E25717850C26C9CD0D89D"),
            ("sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("sha224", "", "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f"),
        ] {
            let value = ChecksumValue::parse(kind, hex).unwrap();
            assert!(value.verifies(content.as_bytes()).unwrap(), "{kind}");
            assert!(!value.verifies(&b"other"[..]).unwrap(), "{kind}");
        }
    }

    #[test]
    fn lite_reads_512_bytes() {
        let value = ChecksumValue::parse("sha1lite", &hex_of::<sha1::Sha1>(&[7; 512][..]).unwrap()).unwrap();
        assert!(value.verifies(&[7; 513][..]).unwrap());
        assert!(!value.verifies(&[7; 511][..]).unwrap());
    }

    #[test]
    fn refused() {
        assert!(Checksum::parse("crc32").is_err());
        assert!(ChecksumValue::parse("md5", "abc").is_err());
        assert!(ChecksumValue::parse("mtime", "900150983cd24fb0d6963f7d28e17f72").is_err());
        for kind in ["md5", "sha384", "sha512", "sha256lite"] {
            assert_eq!(Checksum::parse(kind), Ok(Checksum::Digest));
        }
    }
}
