//! Files written in batches: all contents durable first, then only renames.

use std::path::Path;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, TreePath};

use super::{Attributes, FsError, Root, Stat};

/// Where the bytes of a file come from.
#[derive(Debug)]
pub enum ContentSource {
    /// From memory.
    Bytes(Bytes),
    /// A verified file of the store, still needed there afterwards: copied (and verified while copied).
    Copy(std::fs::File),
    /// A verified file of the store that is used for the last time: renamed into place when it is on the same file system,
    /// else as `Copy` and then removed.
    Take(std::path::PathBuf),
}

/// Remembers, durably and before they exist, the names of staged files, so that a later run can remove what a crash left.
#[derive(Debug)]
pub struct StageJournal {}

impl StageJournal {
    /// Opens the journal in `state_dir`, removing below `root` whatever an interrupted run left staged; returns how many.
    pub fn open(state_dir: &Path, root: &Root) -> Result<(Self, u64), FsError> {
        todo!("{state_dir:?}{root:?}")
    }
}

/// What a commit put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its metadata after the rename.
    pub stat: Stat,
    /// The digest of its content.
    pub digest: Digest,
}

/// A batch of files to be put in place.
#[derive(Debug)]
pub struct Stage<'a> {
    _root: &'a Root,
    _journal: &'a StageJournal,
}

impl<'a> Stage<'a> {
    /// Starts an empty batch.
    pub fn new(root: &'a Root, journal: &'a StageJournal) -> Self {
        Self { _root: root, _journal: journal }
    }
    /// Writes a content beside its target under a staged name, owner and mode set, verified against `digest`. The target's
    /// directory must exist. Nothing at `path` is touched.
    pub fn add(&mut self, path: &TreePath, source: ContentSource, digest: Digest, attributes: Attributes) -> Result<(), FsError> {
        todo!("{path:?}{source:?}{digest:?}{attributes:?}")
    }
    /// Hands the staged file of `path` to a check before commit, as `validate_cmd` needs: its absolute path on disk.
    pub fn staged_path(&self, path: &TreePath) -> Option<std::path::PathBuf> {
        todo!("{path:?}")
    }
    /// Gives one staged file up.
    pub fn discard(&mut self, path: &TreePath) {
        todo!("{path:?}")
    }
    /// Makes all contents durable (fsync each when few, one syncfs per file system when many), renames each over its target
    /// (refusing to replace a directory), makes the directories durable. One result per added file, in order.
    pub fn commit(self) -> Vec<(TreePath, Result<Written, FsError>)> {
        todo!()
    }
}
