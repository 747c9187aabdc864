//! The list of everything in one published tree, and the `code_id` that it adds up to.
//!
//! `CodeId` is a Merkle digest: each directory hashes the sorted list of its entries, each entry being
//! `kind, mode, name, id`, where the id of a directory is its own hash. The hash is BLAKE3 keyed by the context
//! [`TREE_CONTEXT`], so that no content can be taken for a tree.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::{DIGEST_BYTES, Digest};
use super::ids::CodeId;
use super::path::{MAX_PATH_BYTES, TreePath};

/// Domain of directory hashes.
pub const TREE_CONTEXT: &str = "direct-puppet 2026-11 code tree v1";

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

/// One entry of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Where it is, relative to the tree; the empty path is the tree itself.
    pub path: TreePath,
    /// Permissions within [`MODE_MASK`]; 0 for links.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// Everything in one tree, sorted by path, without the tree's own root. A clone shares the entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Arc<Vec<ManifestEntry>>,
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
    /// A mode outside [`MODE_MASK`], a link target that is empty, too long or has a NUL, or an entry for the root.
    #[error("entry \"{path}\" is not valid: {reason}")]
    Entry {
        /// The path.
        path: TreePath,
        /// Which rule it breaks.
        reason: &'static str,
    },
}

impl Manifest {
    /// Sorts and checks entries.
    ///
    /// # Errors
    ///
    /// When a path is listed twice or without its directory, or an entry breaks a rule.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut open: Vec<&TreePath> = Vec::new();
        let mut previous: Option<&TreePath> = None;
        for entry in &entries {
            let path = &entry.path;
            if previous == Some(path) {
                return Err(ManifestError::Duplicate { path: path.clone() });
            }
            check_entry(entry)?;
            while open.last().is_some_and(|directory| !path.is_within(directory)) {
                open.pop();
            }
            let parent = path.parent().unwrap_or_default();
            if !parent.is_root() && open.last() != Some(&&parent) {
                return Err(ManifestError::Orphan { path: path.clone() });
            }
            if entry.kind == EntryKind::Directory {
                open.push(path);
            }
            previous = Some(path);
        }
        Ok(Self { entries: Arc::new(entries) })
    }

    /// Returns the entries, sorted by path.
    #[must_use]
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// Returns the entry at `path`.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&ManifestEntry> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &self.entries[at])
    }

    /// Returns all entries at or below `path`, the entry itself first.
    #[must_use]
    pub fn below(&self, path: &TreePath) -> &[ManifestEntry] {
        let start = self.entries.partition_point(|entry| entry.path < *path);
        let count = self.entries[start..].partition_point(|entry| entry.path.is_within(path));
        &self.entries[start..start + count]
    }

    /// Returns the id of this tree.
    #[must_use]
    pub fn code_id(&self) -> CodeId {
        let mut rest = self.entries.as_slice();
        CodeId::from_digest(hash_directory(&TreePath::root(), &mut rest))
    }
}

impl Serialize for Manifest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
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

/// Hashes the entries of `directory` that stand in front of `rest`, and leaves `rest` behind them.
fn hash_directory(directory: &TreePath, rest: &mut &[ManifestEntry]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(TREE_CONTEXT);
    while let Some((entry, tail)) = rest.split_first()
        && entry.path.is_within(directory)
    {
        *rest = tail;
        let name = entry.path.name().unwrap_or_default();
        let (kind, id) = match &entry.kind {
            EntryKind::File { digest, size } => {
                hasher.update(&size.to_be_bytes());
                (b'f', *digest)
            }
            EntryKind::Directory => (b'd', hash_directory(&entry.path, rest)),
            EntryKind::Link { target } => (b'l', Digest::of(target)),
        };
        hasher.update(&[kind]);
        hasher.update(id.algorithm().name().as_bytes());
        hasher.update(&(*id.bytes() as [u8; DIGEST_BYTES]));
        hasher.update(&entry.mode.to_be_bytes());
        // MAX_NAME_BYTES fits two bytes.
        hasher.update(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        hasher.update(name);
    }
    Digest::from_blake3(hasher.finalize())
}

/// Link targets: bin in MessagePack, escaped text where people read.
mod link_target {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::super::path::{escape, unescape};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> ManifestEntry {
        let kind = EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
        ManifestEntry { path: path.parse().unwrap(), mode: 0o644, kind }
    }

    fn directory(path: &str) -> ManifestEntry {
        ManifestEntry { path: path.parse().unwrap(), mode: 0o755, kind: EntryKind::Directory }
    }

    fn code_id(entries: &[ManifestEntry]) -> CodeId {
        Manifest::new(entries.to_vec()).unwrap().code_id()
    }

    #[test]
    fn code_id_sees_every_difference_and_no_order() {
        let base = [directory("d"), file("d/a", "1"), file("e", "2")];
        let id = code_id(&base);
        assert_eq!(id, code_id(&[base[2].clone(), base[0].clone(), base[1].clone()]));
        let mut mode = base.clone();
        mode[1].mode = 0o600;
        let moved = [directory("d"), file("a", "1"), file("e", "2")];
        let content = [directory("d"), file("d/a", "x"), file("e", "2")];
        let fewer = [directory("d"), file("d/a", "1")];
        for other in [code_id(&mode), code_id(&moved), code_id(&content), code_id(&fewer), code_id(&[])] {
            assert_ne!(other, id);
        }
    }

    #[test]
    fn refuses_duplicates_orphans_and_bad_entries() {
        let duplicate = Manifest::new(vec![file("a", "1"), file("a", "2")]).unwrap_err();
        assert!(matches!(duplicate, ManifestError::Duplicate { .. }));
        for orphans in [vec![file("d/a", "1")], vec![file("d", "1"), file("d/a", "1")]] {
            assert!(matches!(Manifest::new(orphans).unwrap_err(), ManifestError::Orphan { .. }));
        }
        let mut mode = file("a", "1");
        mode.mode = 0o100_644;
        assert!(matches!(Manifest::new(vec![mode]).unwrap_err(), ManifestError::Entry { .. }));
    }

    #[test]
    fn finds_what_lies_below() {
        let manifest = Manifest::new(vec![directory("d"), file("d/a", "1"), file("d.x", "2"), file("c", "3")]).unwrap();
        let below: Vec<String> = manifest.below(&"d".parse().unwrap()).iter().map(|e| e.path.to_string()).collect();
        assert_eq!(below, ["d", "d/a"]);
        assert!(manifest.get(&"d.x".parse().unwrap()).is_some());
        assert!(manifest.get(&"x".parse().unwrap()).is_none());
    }
}
