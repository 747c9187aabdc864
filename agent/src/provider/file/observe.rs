//! What is there now: from the scan where it is fresh, from a listing where one was made, else from the file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher, TreePath};

use super::source::Content;
use crate::fs::{FileKind, FsError, Root, Stat};
use crate::provider::Context;
use crate::tree::ContentState;

/// The view of one resource on the file system.
#[derive(Debug)]
pub(super) struct Observer<'a> {
    context: &'a Context,
    /// What listings showed; whatever is missing from a listed directory is not there.
    listed: BTreeMap<TreePath, Stat>,
    /// Each with its metadata from before it was listed.
    listed_directories: BTreeMap<TreePath, Stat>,
}

impl<'a> Observer<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, listed: BTreeMap::new(), listed_directories: BTreeMap::new() }
    }

    /// Lists a directory; its entries are then known without another look. Names too long for a path are left out.
    pub(super) fn list(&mut self, path: &TreePath) -> Result<Vec<(TreePath, Vec<u8>, Stat)>, FsError> {
        let (stat, entries) = self.context.root().list_with_stat(path)?;
        let found: Vec<_> =
            entries.into_iter().filter_map(|entry| Some((path.child(&entry.name).ok()?, entry.name, entry.stat))).collect();
        self.listed.extend(found.iter().map(|(path, _, stat)| (path.clone(), *stat)));
        self.listed_directories.insert(path.clone(), stat);
        Ok(found)
    }

    /// Returns the directories that were listed.
    pub(super) fn listed_directories(&self) -> impl Iterator<Item = &TreePath> {
        self.listed_directories.keys()
    }

    /// Returns the directories that were listed, each with its metadata from before.
    pub(super) fn into_listings(self) -> BTreeMap<TreePath, Stat> {
        self.listed_directories
    }

    /// Returns the metadata of what is at `path`, without following a link there.
    pub(super) fn stat(&self, path: &TreePath) -> Result<Option<Stat>, FsError> {
        if let Some(scanned) = self.context.scanned(path)
            && !matches!(scanned.content, ContentState::Failed(_) | ContentState::Blocked)
        {
            return Ok(scanned.stat);
        }
        if let Some(stat) = self.listed.get(path) {
            return Ok(Some(*stat));
        }
        if path.parent().is_some_and(|parent| self.listed_directories.contains_key(&parent)) {
            return Ok(None);
        }
        self.context.root().stat(path)
    }

    /// Returns whether the scan found the wanted content at `path`.
    pub(super) fn is_same(&self, path: &TreePath) -> bool {
        matches!(self.context.scanned(path).map(|scanned| &scanned.content), Some(ContentState::Same))
    }

    /// Compares the content of the regular file at `path` with a wanted one: `None` when they are the same, else the digest of
    /// what is there.
    pub(super) fn compare(&self, path: &TreePath, stat: &Stat, digest: &Digest, size: u64) -> Result<Option<Digest>, FsError> {
        match self.context.scanned(path).map(|scanned| &scanned.content) {
            Some(ContentState::Same) => return Ok(None),
            Some(ContentState::Different(Some(found))) if found != digest => return Ok(Some(*found)),
            _ => {}
        }
        let found = hash_file(self.context.root(), path, digest.algorithm())?;
        Ok(Some(found).filter(|found| found != digest || size != UNKNOWN_SIZE && stat.size != size))
    }
}

/// Returns the digest of a regular file. Blocking.
pub(super) fn hash_file(root: &Root, path: &TreePath, algorithm: Algorithm) -> Result<Digest, FsError> {
    let file = root.open_file(path)?;
    hash(file, algorithm).map_err(|source| super::errors::io(root, path, "read", source))
}

fn hash(mut file: File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the digest and size of a wanted content. Reads a source on this machine: blocking.
pub(super) fn digest_of(root: &Root, content: &Content) -> Result<(Digest, u64), FsError> {
    match content {
        Content::Stored { digest, size } => Ok((*digest, *size)),
        // A usize fits in 64 bits.
        Content::Inline(inline) => Ok((inline.digest(), inline.bytes.len() as u64)),
        Content::Local { path, stat } => Ok((hash_file(root, path, Algorithm::Blake3)?, stat.size)),
        Content::Remote(_) => Err(super::http::unfetched()),
    }
}

/// Returns the word of a kind, as `ensure` has it.
pub(super) const fn kind_name(stat: Option<&Stat>) -> &'static str {
    match stat {
        None => "absent",
        Some(stat) => match stat.kind() {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Link => "link",
            FileKind::Other => "other",
        },
    }
}
