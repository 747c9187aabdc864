//! What the last run replaced, so that it can be put back.
//!
//! `<state dir>/undo/<transaction uuid>.jsonl`: one [`UndoEntry`] a line, written and made durable before the change that
//! it takes back. Contents lie in the local store.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::{Digest, TreePath};
use serde::{Deserialize, Serialize};

use crate::fs::{FsError, FsErrorKind};

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
    /// A file whose content was not kept (`backup => false`, or too large).
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
}

/// One change that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoEntry {
    /// Where.
    pub path: TreePath,
    /// What was there.
    pub previous: Previous,
}

/// The log of one run, created when the first entry comes.
#[derive(Debug)]
pub struct UndoLog {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl UndoLog {
    /// Returns the log of the run `transaction_uuid` below `state_dir`; nothing is written yet.
    #[must_use]
    pub fn new(state_dir: &Path, transaction_uuid: &str) -> Self {
        Self { path: state_dir.join("undo").join(format!("{transaction_uuid}.jsonl")), file: Mutex::new(None) }
    }

    /// Returns where the log lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends entries and makes them durable.
    ///
    /// # Errors
    ///
    /// When the log cannot be written.
    pub fn record(&self, entries: &[UndoEntry]) -> Result<(), FsError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.append(entries).map_err(|source| FsError {
            path: self.path.clone(),
            attempt: "write the undo log",
            kind: match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FsErrorKind::Full,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FsErrorKind::Denied,
                _ => FsErrorKind::Other,
            },
            hint: Some("the change was not made, because it could not have been taken back"),
            source,
        })
    }

    fn append(&self, entries: &[UndoEntry]) -> io::Result<()> {
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            *slot = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?);
            File::open(dir)?.sync_all()?;
        }
        let Some(file) = slot.as_mut() else { return Ok(()) };
        file.write_all(&lines)?;
        file.sync_data()
    }
}
