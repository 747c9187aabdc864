//! Paths inside a tree: relative, normalised bytes.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest path, in bytes: Linux `PATH_MAX` less its NUL.
pub const MAX_PATH_BYTES: usize = 4095;
/// Longest component, in bytes: Linux `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 255;

/// A relative, normalised path of arbitrary bytes: no empty, `.` or `..` component, no NUL, no slash at either end.
///
/// The empty path is the tree's root. Ordered by component, so that a directory is followed at once by what it holds.
/// Text form: UTF-8 with `%XX` for percent signs, control characters and bytes that are no UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// Why bytes are no [`TreePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("path {path:?} is not valid inside a tree: {reason}")]
pub struct PathError {
    /// The path, escaped.
    pub path: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl TreePath {
    /// Returns the path of the tree itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses raw bytes.
    ///
    /// # Errors
    ///
    /// When a rule of the type is broken; nothing is normalised silently.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        let fail = |reason| Err(PathError { path: escape(&bytes[..bytes.len().min(200)]).into_owned(), reason });
        if bytes.len() > MAX_PATH_BYTES {
            return fail("longer than 4095 bytes");
        }
        if bytes.contains(&0) {
            return fail("contains a NUL byte");
        }
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes[0] == b'/' {
            return fail("absolute where a relative path belongs");
        }
        for name in bytes.split(|&byte| byte == b'/') {
            match name {
                b"" => return fail("has an empty component"),
                b"." => return fail("has a \".\" component"),
                b".." => return fail("has a \"..\" component"),
                _ if name.len() > MAX_NAME_BYTES => return fail("has a component longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// Parses a relative path of the operating system.
    ///
    /// # Errors
    ///
    /// As [`TreePath::from_bytes`].
    pub fn from_path(path: &Path) -> Result<Self, PathError> {
        Self::from_bytes(path.as_os_str().as_bytes())
    }

    /// Parses an absolute path by taking it relative to `/`; this is how paths below a managed root are held.
    ///
    /// # Errors
    ///
    /// When the path is not absolute, or as [`TreePath::from_bytes`]. One trailing slash is accepted, as in Puppet.
    pub fn from_absolute(bytes: &[u8]) -> Result<Self, PathError> {
        let Some(relative) = bytes.strip_prefix(b"/") else {
            return Err(PathError {
                path: escape(&bytes[..bytes.len().min(200)]).into_owned(),
                reason: "relative where an absolute path belongs",
            });
        };
        // Nearly all are written as they are kept.
        if !relative.starts_with(b"/") && !relative.ends_with(b"/") && !relative.windows(2).any(|pair| pair == b"//") {
            return Self::from_bytes(relative);
        }
        let names = relative.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        Self::from_bytes(&names.collect::<Vec<_>>().join(&b'/'))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the relative path; empty for the root.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns whether this is the tree itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path as text with a leading slash: how a path below a managed root is shown.
    #[must_use]
    pub fn absolute(&self) -> String {
        format!("/{self}")
    }

    /// Returns the components, first to last.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// Returns how many components there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Returns the last component; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// Returns the directory that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() { None } else { Some(Self(self.parent_bytes().into())) }
    }

    /// Returns the bytes of the directory that holds this path: none for what lies in the tree itself, and for the tree.
    #[must_use]
    pub fn parent_bytes(&self) -> &[u8] {
        &self.0[..self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
    }

    /// Returns this path followed by another.
    ///
    /// # Errors
    ///
    /// When the result is longer than [`MAX_PATH_BYTES`].
    pub fn join(&self, other: &Self) -> Result<Self, PathError> {
        if self.is_root() {
            return Ok(other.clone());
        }
        if other.is_root() {
            return Ok(self.clone());
        }
        if self.0.len() + 1 + other.0.len() > MAX_PATH_BYTES {
            // Says what is wrong with it.
            return Self::from_bytes(&[&self.0, b"/".as_slice(), &other.0].concat());
        }
        Ok(Self([&self.0, b"/".as_slice(), &other.0].concat().into()))
    }

    /// Returns this path followed by one name.
    ///
    /// # Errors
    ///
    /// When `name` is no single valid component or the result is too long.
    pub fn child(&self, name: &[u8]) -> Result<Self, PathError> {
        let name_path = Self::from_bytes(name)?;
        if name_path.depth() != 1 {
            return Err(PathError { path: escape(name).into_owned(), reason: "not a single component" });
        }
        self.join(&name_path)
    }

    /// Returns whether `self` is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        let rest = self.0.strip_prefix(&*ancestor.0);
        rest.is_some_and(|rest| ancestor.is_root() || matches!(rest.first(), None | Some(b'/')))
    }

    /// Returns what follows `ancestor`; the root if they are equal, `None` if `self` does not lie there.
    #[must_use]
    pub fn strip_prefix(&self, ancestor: &Self) -> Option<Self> {
        if ancestor.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&*ancestor.0)?;
        match rest.split_first() {
            None => Some(Self::root()),
            Some((b'/', rest)) => Some(Self(rest.into())),
            Some(_) => None,
        }
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Where they part, the shorter component is less, and the end of a path less than all.
        let rank = |bytes: &[u8], at: usize| bytes.get(at).map(|byte| if *byte == b'/' { 0 } else { *byte });
        let at = common_prefix(&self.0, &other.0);
        rank(&self.0, at).cmp(&rank(&other.0, at))
    }
}

/// Returns how many bytes two slices begin with that are the same.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = size_of::<u64>();
    let words = a.as_chunks::<WORD>().0.iter().zip(b.as_chunks::<WORD>().0);
    let same = words.map(|(a, b)| u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).take_while(|differing| *differing == 0);
    let at = same.count() * WORD;
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Returns bytes as text that shows exactly these bytes: `%XX` for a percent sign, a control character or no UTF-8.
#[must_use]
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |text: &str| !text.chars().any(|c| c == '%' || c.is_control());
    if let Ok(text) = std::str::from_utf8(bytes)
        && plain(text)
    {
        return Cow::Borrowed(text);
    }
    use fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    let _ = write!(out, "%{byte:02X}");
                }
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Returns the bytes that [`escape`] shows as `text`; `None` when a percent sign is not followed by two hex digits.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(bytes)
}

impl FromStr for TreePath {
    type Err = PathError;

    /// Parses the text form, undoing its `%XX`.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let bytes = unescape(text)
            .ok_or_else(|| PathError { path: text.chars().take(200).collect(), reason: "has a % without two hex digits" })?;
        Self::from_bytes(&bytes)
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TreePath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a relative path")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TreePath, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<TreePath, E> {
                TreePath::from_bytes(bytes).map_err(E::custom)
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_could_leave_the_tree() {
        for bad in [&b"/a"[..], b"..", b"a/..", b"a/../b", b"./a", b"a//b", b"a/", b"a\0b", &[b'a'; 256], &[b'/'; 5000]] {
            assert!(TreePath::from_bytes(bad).is_err(), "{}", escape(bad));
        }
    }

    #[test]
    fn a_directory_is_followed_by_its_contents() {
        let mut paths: Vec<TreePath> = ["a-b", "a", "a/b", "a.c", "a/b/c"].iter().map(|p| p.parse().unwrap()).collect();
        paths.sort();
        let text: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["a", "a/b", "a/b/c", "a-b", "a.c"]);
    }

    #[test]
    fn relations() {
        let path: TreePath = "a/b/c".parse().unwrap();
        assert_eq!(path.parent().unwrap().to_string(), "a/b");
        assert_eq!(path.name().unwrap(), b"c");
        assert_eq!(path.strip_prefix(&"a".parse().unwrap()).unwrap().to_string(), "b/c");
        assert!(!path.is_within(&"a/b/cc".parse().unwrap()));
        assert!(!"a/bb".parse::<TreePath>().unwrap().is_within(&"a/b".parse().unwrap()));
        assert_eq!("x".parse::<TreePath>().unwrap().parent(), Some(TreePath::root()));
        for text in ["/etc/motd/", "//etc//motd", "/etc/motd"] {
            assert_eq!(TreePath::from_absolute(text.as_bytes()).unwrap().absolute(), "/etc/motd");
        }
    }

    proptest! {
        #[test]
        fn order_is_that_of_components(a in "[a/.\\-\\x01]{0,20}", b in "[a/.\\-\\x01]{0,20}", shared in "[a/]{0,20}") {
            let path = |text: String| {
                let names: Vec<&str> = text.split('/').filter(|name| !["", ".", ".."].contains(name)).collect();
                names.join("/").parse::<TreePath>().unwrap()
            };
            let (a, b) = (path(format!("{shared}{a}")), path(format!("{shared}{b}")));
            prop_assert_eq!(a.cmp(&b), a.components().cmp(b.components()));
            let is_within = a.components().count() >= b.components().count() && a.components().zip(b.components()).all(|(a, b)| a == b);
            prop_assert_eq!(a.is_within(&b), is_within);
            prop_assert_eq!(a.strip_prefix(&b).is_some(), is_within);
            if let Some(parent) = a.parent() {
                prop_assert_eq!(parent.join(&TreePath::from_bytes(a.name().unwrap()).unwrap()).unwrap(), a.clone());
                prop_assert_eq!(parent.as_bytes(), a.parent_bytes());
            }
        }

        #[test]
        fn text_form_shows_every_byte(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes.clone());
            if let Ok(path) = TreePath::from_bytes(&bytes) {
                prop_assert_eq!(path.to_string().parse::<TreePath>().unwrap(), path);
            }
        }
    }
}
