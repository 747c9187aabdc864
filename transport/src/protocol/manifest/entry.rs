//! What stands in a manifest, and the rules for it.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::protocol::digest::Digest;
use crate::protocol::path::{MAX_PATH_BYTES, TreePath};

/// The bits of a mode that a manifest keeps: permissions with setuid, setgid and sticky.
pub const MODE_MASK: u32 = 0o7777;

/// The size of a content of which only the digest is known, as in a catalog made from Puppet's.
pub const UNKNOWN_SIZE: u64 = u64::MAX;

/// What one entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File {
        /// The digest of its content.
        digest: Digest,
        /// Its length in bytes, or [`UNKNOWN_SIZE`].
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link, never followed.
    Link {
        /// Where it points, as stored in the link; arbitrary bytes without NUL.
        #[serde(with = "link_target")]
        target: Vec<u8>,
    },
}

/// One entry of a [`Manifest`](super::Manifest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Where it is, relative to the tree; the empty path is the tree itself.
    pub path: TreePath,
    /// Permissions within [`MODE_MASK`]; 0 for links.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// Why entries are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The same path twice.
    #[error("path \"{path}\" is listed twice")]
    Duplicate {
        /// The path.
        path: TreePath,
    },
    /// A path whose directory is not listed, or is no directory.
    #[error("path \"{path}\" is listed without the directory that holds it")]
    Orphan {
        /// The path.
        path: TreePath,
    },
    /// A path behind one that it belongs in front of, where entries are to be sorted already.
    #[error("path \"{path}\" is not listed in the order of paths")]
    Unsorted {
        /// The path.
        path: TreePath,
    },
    /// A mode outside [`MODE_MASK`], a link target that is empty, too long or has a NUL, or an entry for the root.
    #[error("entry \"{path}\" is not valid: {reason}")]
    Entry {
        /// The path.
        path: TreePath,
        /// Which rule it breaks.
        reason: &'static str,
    },
}

/// Checks that entries are those of a [`Manifest`](super::Manifest), sorted.
///
/// # Errors
///
/// As [`Manifest::new`](super::Manifest::new), and when they are not sorted.
pub fn check_entries<'a>(entries: impl IntoIterator<Item = &'a ManifestEntry>) -> Result<(), ManifestError> {
    let mut open: Vec<&TreePath> = Vec::new();
    let mut previous: Option<&TreePath> = None;
    for entry in entries {
        let path = &entry.path;
        match previous.map(|previous| previous.cmp(path)) {
            Some(Ordering::Equal) => return Err(ManifestError::Duplicate { path: path.clone() }),
            Some(Ordering::Greater) => return Err(ManifestError::Unsorted { path: path.clone() }),
            _ => {}
        }
        check_entry(entry)?;
        while open.last().is_some_and(|directory| !path.is_within(directory)) {
            open.pop();
        }
        let parent = path.parent_bytes();
        if !parent.is_empty() && open.last().map(|directory| directory.as_bytes()) != Some(parent) {
            return Err(ManifestError::Orphan { path: path.clone() });
        }
        if entry.kind == EntryKind::Directory {
            open.push(path);
        }
        previous = Some(path);
    }
    Ok(())
}

fn check_entry(entry: &ManifestEntry) -> Result<(), ManifestError> {
    let fail = |reason| Err(ManifestError::Entry { path: entry.path.clone(), reason });
    if entry.path.is_root() {
        return fail("the root of the tree is not an entry of it");
    }
    if entry.mode & !MODE_MASK != 0 {
        return fail("its mode has bits outside 07777");
    }
    match &entry.kind {
        EntryKind::Link { target } if target.is_empty() => fail("its link target is empty"),
        EntryKind::Link { target } if target.len() > MAX_PATH_BYTES => fail("its link target is longer than 4095 bytes"),
        EntryKind::Link { target } if target.contains(&0) => fail("its link target contains a NUL byte"),
        _ => Ok(()),
    }
}

/// Link targets: bin in MessagePack, escaped text where people read.
mod link_target {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use crate::protocol::path::{escape, unescape};

    pub(super) fn serialize<S: Serializer>(target: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&escape(target))
        } else {
            serializer.serialize_bytes(target)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            unescape(&text).ok_or_else(|| de::Error::custom("link target has a % without two hex digits"))
        } else {
            Ok(serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec())
        }
    }
}
