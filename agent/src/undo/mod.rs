//! What the last run replaced, so that it can be put back.
//!
//! `<state dir>/undo/<transaction uuid>.jsonl`: one [`UndoEntry`] a line, written and made durable before the change that
//! it takes back. It says what was there and what the run was about to put there: undo touches only what is still as the run
//! left it. Contents lie in the local store.

mod log;
mod restore;
#[cfg(test)]
mod tests;

use direct_puppet_transport::protocol::{Digest, TreePath};
use serde::{Deserialize, Serialize};

pub use log::UndoLog;
pub(crate) use log::prune;
pub(crate) use restore::undo;

/// What was at a path before a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Previous {
    /// Nothing.
    Absent,
    /// A file whose content is in the store.
    File {
        /// Its content.
        digest: Digest,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A file whose content was not kept (`backup => false`), or something that is no file, directory or link.
    Dropped,
    /// A link.
    Link {
        /// Where it pointed, escaped as in the protocol.
        target: String,
    },
    /// A directory.
    Directory {
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Something of which only permissions and owner were to change.
    Attributes {
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// What a change leaves at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Left {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// Its content.
        digest: Digest,
    },
    /// A link.
    Link {
        /// Where it points, escaped as in the protocol.
        target: String,
    },
    /// A directory.
    Directory,
    /// What was there, with these permissions and owners, where they are given.
    Attributes {
        /// Its permissions.
        mode: Option<u32>,
        /// Its owner.
        uid: Option<u32>,
        /// Its group.
        gid: Option<u32>,
    },
}

/// One change that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoEntry {
    /// Where.
    pub path: TreePath,
    /// What was there.
    pub previous: Previous,
    /// What the run put there, if it came to that.
    pub left: Left,
}

/// How to undo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UndoOptions {
    /// Put back also what was changed since the run; files that are replaced so are kept in the store for 30 days. Default: false.
    pub force: bool,
}

impl UndoOptions {
    /// Returns options with `force` as given.
    #[must_use]
    pub const fn force(force: bool) -> Self {
        Self { force }
    }
}

/// What an undo did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UndoOutcome {
    /// The run that was taken back: its transaction uuid.
    pub run: String,
    /// When that run made its last change, in seconds since 1970 UTC.
    pub run_time_unix_seconds: u64,
    /// Paths that are as they were before the run.
    pub restored: Vec<String>,
    /// Files of others that were replaced by force, with the digest by which the store has them.
    pub kept: Vec<(String, Digest)>,
    /// Paths that could not be put back, and why.
    pub failed: Vec<(String, String)>,
}
