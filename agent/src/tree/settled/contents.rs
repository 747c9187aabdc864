//! The contents that a settled record speaks of, so that all of them can be verified without the catalog.
//!
//! A second file beside the record, `settled-contents`, mode 0600, of no use without it:
//!
//! ```text
//! "DPSETC" 0x00 VERSION | checksum: 32 bytes | checksum of the settled record: 32 bytes | content ... | directory ...
//! content = algorithm: u8 (multihash code, 0 for none) | has fingerprint: u8 | digest: 32 bytes | fingerprint: u128, little-endian
//! directory = dev ino: u64 | ctime: i64 in nanoseconds since 1970 UTC, all little-endian; nothing but zeros where none is known
//! ```
//!
//! One content for each entry of the record, in its order, and one directory for each group: while that is as it was, the names in it are
//! those of the objects that they were. The checksum is BLAKE3 over all after it, keyed by this host's secret. The digests
//! are those that the catalog names, not what was once read: what a disk has damaged meanwhile does not agree with them.

use std::collections::HashMap;
use std::path::Path;

use direct_puppet_transport::protocol::{Algorithm, Digest, TreePath};

use super::super::record::{Nanos, nanos_of};
use super::format::CHECKSUM_BYTES;
use crate::fs::{FsError, Stat, write_cache};

/// Name of the file in the state directory.
pub(super) const CONTENTS: &str = "settled-contents";

const MAGIC: [u8; 8] = *b"DPSETC\0\x02";
const BODY: usize = MAGIC.len() + CHECKSUM_BYTES;
const HEADER_BYTES: usize = BODY + CHECKSUM_BYTES;
const CONTENT_BYTES: usize = 1 + 1 + 32 + 16;
const DIRECTORY_BYTES: usize = 3 * 8;

/// A directory in which nothing came, went or was renamed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownDirectory {
    dev: u64,
    ino: u64,
    ctime: Nanos,
}

impl KnownDirectory {
    /// What is known of one by its metadata.
    pub(super) fn new(stat: &Stat) -> Self {
        Self { dev: stat.dev, ino: stat.ino, ctime: nanos_of(stat.ctime) }
    }

    fn to_bytes(self) -> [u8; DIRECTORY_BYTES] {
        let mut bytes = [0; DIRECTORY_BYTES];
        for (to, from) in
            bytes.chunks_exact_mut(8).zip([self.dev.to_le_bytes(), self.ino.to_le_bytes(), self.ctime.to_le_bytes()])
        {
            to.copy_from_slice(&from);
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; DIRECTORY_BYTES]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let &[dev, ino, ctime] = numbers else { return None };
        let is_known = bytes.iter().any(|byte| *byte != 0);
        is_known.then(|| Self { dev: u64::from_le_bytes(dev), ino: u64::from_le_bytes(ino), ctime: Nanos::from_le_bytes(ctime) })
    }
}

/// A content that was proved by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProvedContent {
    pub(super) digest: Digest,
    /// Under this host's secret; `None` where the content was not read, or is large.
    pub(super) fingerprint: Option<u128>,
}

/// The contents as they lie in memory.
#[derive(Debug)]
pub(super) struct Contents {
    bytes: Vec<u8>,
    entries: usize,
}

impl Contents {
    /// Encodes the contents of a record's entries, given by their paths in order, and what is known of the directory of each group; `None` when one
    /// of `proved` is not among the paths, or of an algorithm that the format does not know.
    pub(super) fn new<'a>(
        record: &[u8; CHECKSUM_BYTES],
        paths: impl ExactSizeIterator<Item = &'a TreePath>,
        proved: &[(TreePath, ProvedContent)],
        directories: impl Iterator<Item = Option<KnownDirectory>>,
    ) -> Option<Self> {
        let entries = paths.len();
        let by_path: HashMap<&TreePath, &ProvedContent> = proved.iter().map(|(path, content)| (path, content)).collect();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + entries * CONTENT_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
        bytes.extend_from_slice(record);
        let mut found = 0;
        for path in paths {
            let content = by_path.get(path);
            found += usize::from(content.is_some());
            bytes.extend_from_slice(&encode(content.copied())?);
        }
        for directory in directories {
            bytes.extend_from_slice(&directory.map_or([0; DIRECTORY_BYTES], KnownDirectory::to_bytes));
        }
        (found == by_path.len()).then_some(Self { bytes, entries })
    }

    /// Takes a file's bytes; `None` when anything is wrong, or they are not of this record with so many entries and groups.
    pub(super) fn decode(bytes: Vec<u8>, record: &[u8], (entries, groups): (usize, usize), key: &[u8; 32]) -> Option<Self> {
        let directories = groups.checked_mul(DIRECTORY_BYTES)?;
        let is_whole = bytes.len() == entries.checked_mul(CONTENT_BYTES)?.checked_add(HEADER_BYTES)?.checked_add(directories)?;
        let is_of_it = is_whole && bytes[..MAGIC.len()] == MAGIC && bytes[BODY..HEADER_BYTES] == *record;
        let is_sound = is_of_it && blake3::keyed_hash(key, &bytes[BODY..]) == bytes[MAGIC.len()..BODY];
        is_sound.then_some(Self { bytes, entries })
    }

    /// Returns what is known of the directory of a group, by its number in the record.
    pub(super) fn directory(&self, group: usize) -> Option<KnownDirectory> {
        let before = self.entries.checked_mul(CONTENT_BYTES)?.checked_add(HEADER_BYTES)?;
        let at = group.checked_mul(DIRECTORY_BYTES)?.checked_add(before)?;
        KnownDirectory::from_bytes(self.bytes.get(at..)?.first_chunk()?)
    }

    #[cfg(test)]
    pub(super) fn forget_directories(&mut self) {
        self.bytes.truncate(HEADER_BYTES + self.entries * CONTENT_BYTES);
    }

    /// Returns the content of an entry, by its number in the record.
    pub(super) fn get(&self, entry: usize) -> Option<ProvedContent> {
        if entry >= self.entries {
            return None;
        }
        let at = entry.checked_mul(CONTENT_BYTES)?.checked_add(HEADER_BYTES)?;
        let content: &[u8; CONTENT_BYTES] = self.bytes.get(at..)?.first_chunk()?;
        let algorithm = match content[0] {
            0x12 => Algorithm::Sha256,
            0x1e => Algorithm::Blake3,
            _ => return None,
        };
        let digest = Digest::new(algorithm, *content[2..].first_chunk()?);
        let fingerprint = (content[1] == 1).then(|| content.last_chunk().map(|bytes| u128::from_le_bytes(*bytes)));
        Some(ProvedContent { digest, fingerprint: fingerprint.flatten() })
    }

    /// Notes the fingerprint of a content that was proved by its digest just now.
    pub(super) fn learn(&mut self, entry: usize, fingerprint: u128) {
        let content = self.get(entry).map(|content| ProvedContent { fingerprint: Some(fingerprint), ..content });
        if let Some(bytes) = content.and_then(|content| encode(Some(&content))) {
            self.bytes[HEADER_BYTES + entry * CONTENT_BYTES..][..CONTENT_BYTES].copy_from_slice(&bytes);
        }
    }

    /// Writes the file. Blocking.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub(super) fn write(mut self, state_dir: &Path, key: &[u8; 32]) -> Result<(), FsError> {
        let checksum = blake3::keyed_hash(key, &self.bytes[BODY..]);
        self.bytes[MAGIC.len()..BODY].copy_from_slice(checksum.as_bytes());
        write_cache(&state_dir.join(CONTENTS), &self.bytes, 0o600)
    }
}

fn encode(content: Option<&ProvedContent>) -> Option<[u8; CONTENT_BYTES]> {
    let mut bytes = [0; CONTENT_BYTES];
    let Some(ProvedContent { digest, fingerprint }) = content else { return Some(bytes) };
    bytes[0] = match digest.algorithm() {
        Algorithm::Sha256 => 0x12,
        Algorithm::Blake3 => 0x1e,
        _ => return None,
    };
    bytes[1] = u8::from(fingerprint.is_some());
    bytes[2..34].copy_from_slice(digest.bytes());
    bytes[34..].copy_from_slice(&fingerprint.unwrap_or(0).to_le_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [5; 32];
    const RECORD: [u8; CHECKSUM_BYTES] = [7; CHECKSUM_BYTES];

    fn proved(path: &str, digest: Digest, fingerprint: Option<u128>) -> (TreePath, ProvedContent) {
        (path.parse().unwrap(), ProvedContent { digest, fingerprint })
    }

    #[test]
    fn entries_have_their_contents_and_learn_fingerprints() {
        let paths: Vec<TreePath> = ["a", "a/b", "c", "d"].map(|path| path.parse().unwrap()).to_vec();
        let sha = Digest::by(Algorithm::Sha256, b"d");
        let all = [proved("d", sha, Some(u128::MAX)), proved("a/b", Digest::of(b"b"), None)];
        let known = KnownDirectory { dev: u64::MAX, ino: 2, ctime: -3 };
        let mut contents = Contents::new(&RECORD, paths.iter(), &all, [None, Some(known)].into_iter()).unwrap();
        let directories = |contents: &Contents| [0, 1, 2].map(|group| contents.directory(group));
        assert_eq!(directories(&contents), [None, Some(known), None]);
        let found = |contents: &Contents| (0..5).map(|entry| contents.get(entry)).collect::<Vec<_>>();
        assert_eq!(found(&contents), [None, Some(all[1].1), None, Some(all[0].1), None]);
        contents.learn(1, 9);
        contents.learn(0, 9);
        let learned = ProvedContent { fingerprint: Some(9), ..all[1].1 };
        assert_eq!(found(&contents), [None, Some(learned), None, Some(all[0].1), None]);
        // What is proved of a path that the record does not look at cannot be verified by it.
        assert!(Contents::new(&RECORD, paths[..3].iter(), &all, std::iter::empty()).is_none());

        let dir = tempfile::tempdir().unwrap();
        contents.write(dir.path(), &KEY).unwrap();
        let bytes = std::fs::read(dir.path().join(CONTENTS)).unwrap();
        let decode = |bytes: &[u8]| Contents::decode(bytes.to_vec(), &RECORD, (4, 2), &KEY);
        assert_eq!(found(&decode(&bytes).unwrap())[1], Some(learned));
        assert_eq!(directories(&decode(&bytes).unwrap()), [None, Some(known), None]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_none() && decode(&bytes[..at]).is_none(), "{at}");
        }
        assert!(Contents::decode(bytes.clone(), &[8; CHECKSUM_BYTES], (4, 2), &KEY).is_none());
        assert!(Contents::decode(bytes.clone(), &RECORD, (3, 2), &KEY).is_none());
        assert!(Contents::decode(bytes.clone(), &RECORD, (4, 3), &KEY).is_none());
        assert!(Contents::decode(bytes, &RECORD, (4, 2), &[6; 32]).is_none());
    }
}
