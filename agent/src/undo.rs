//! What the last run replaced, so that it can be put back.
//!
//! `<state dir>/undo/<transaction uuid>.jsonl`: one [`UndoEntry`] a line, written and made durable before the change that
//! it takes back. Contents lie in the local store.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::path::unescape;
use direct_puppet_transport::protocol::{Digest, TreePath};
use serde::{Deserialize, Serialize};

use crate::apply::error_chain;
use crate::error::RunError;
use crate::fs::{Attributes, ContentSource, FileKind, FsError, Root, Stage, StageJournal, ensure_private_dir};
use crate::lock::{RunLock, own_file};
use crate::store::Store;

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
            hint: Some("the change was not made, because it could not have been taken back"),
            ..own_file(&self.path, "write the undo log", source)
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

/// What an undo did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UndoOutcome {
    /// Paths that are as they were before the run.
    pub restored: Vec<String>,
    /// Paths that could not be put back, and why.
    pub failed: Vec<(String, String)>,
}

/// Puts back what the last run replaced, last change first. Blocking.
pub(crate) fn undo(state_dir: &Path, root: &Path) -> Result<UndoOutcome, RunError> {
    let root = Root::open(root)?;
    ensure_private_dir(state_dir)?;
    let _lock = RunLock::take(state_dir)?;
    let (journal, _) = StageJournal::open(state_dir, &root)?;
    let store = Store::ensure(&state_dir.join("store"))?;
    let Some(log) = logs(state_dir)?.pop() else {
        return Err(RunError::Config {
            reason: format!("nothing to undo: no run recorded in {} changed a file", state_dir.display()),
        });
    };
    let mut outcome = UndoOutcome::default();
    for entry in entries(&log)?.iter().rev() {
        match restore(entry, &root, &store, &journal) {
            Ok(()) => outcome.restored.push(entry.path.absolute()),
            Err(reason) => outcome.failed.push((entry.path.absolute(), reason)),
        }
    }
    if outcome.failed.is_empty() {
        std::fs::remove_file(&log).map_err(|error| own_file(&log, "remove the undo log", error))?;
    }
    Ok(outcome)
}

fn restore(entry: &UndoEntry, root: &Root, store: &Store, journal: &StageJournal) -> Result<(), String> {
    let text = |error: FsError| error_chain(&error);
    let owner = |mode: u32, uid: u32, gid: u32| {
        let is_root = rustix::process::geteuid().is_root();
        Attributes { mode: Some(mode), uid: is_root.then_some(uid), gid: is_root.then_some(gid) }
    };
    let found = root.stat(&entry.path).map_err(text)?;
    match &entry.previous {
        Previous::Absent => match found.map(|stat| stat.kind()) {
            None => Ok(()),
            Some(FileKind::Directory) => root.remove_dir(&entry.path).map_err(text),
            Some(_) => root.remove_file(&entry.path).map_err(text),
        },
        Previous::Dropped => Err("its content was not kept (backup => false)".to_owned()),
        Previous::Link { target } => {
            let target = unescape(target).ok_or_else(|| "the undo log has a link target that cannot be read".to_owned())?;
            root.put_link(&entry.path, &target, Attributes::default(), journal).map_err(text)
        }
        Previous::Directory { mode, uid, gid } => match found {
            Some(_) => root.set_attributes(&entry.path, owner(*mode, *uid, *gid)).map_err(text),
            None => root.create_dir(&entry.path, owner(*mode, *uid, *gid)).map_err(text),
        },
        Previous::File { digest, mode, uid, gid } => {
            let file =
                store.open(digest).map_err(text)?.ok_or_else(|| format!("its content {digest} is not in the store any more"))?;
            let mut stage = Stage::new(root, journal);
            stage.add(&entry.path, ContentSource::Copy(file), *digest, owner(*mode, *uid, *gid)).map_err(text)?;
            stage.commit().into_iter().try_for_each(|(_, result)| result.map(|_| ()).map_err(text))
        }
    }
}

/// Removes all but the last `keep` logs and returns the contents that these need. Blocking.
pub(crate) fn prune(state_dir: &Path, keep: usize) -> Result<HashSet<Digest>, FsError> {
    let mut logs = logs(state_dir)?;
    for log in logs.drain(..logs.len().saturating_sub(keep)) {
        std::fs::remove_file(&log).map_err(|error| own_file(&log, "remove an old undo log", error))?;
    }
    let mut digests = HashSet::new();
    for log in &logs {
        digests.extend(entries(log)?.into_iter().filter_map(|entry| match entry.previous {
            Previous::File { digest, .. } => Some(digest),
            _ => None,
        }));
    }
    Ok(digests)
}

/// Returns the logs, oldest first.
fn logs(state_dir: &Path) -> Result<Vec<PathBuf>, FsError> {
    let dir = state_dir.join("undo");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(own_file(&dir, "list the undo logs", error)),
    };
    let mut logs = Vec::new();
    for entry in entries {
        let (path, modified) = entry
            .and_then(|entry| Ok((entry.path(), entry.metadata()?.modified()?)))
            .map_err(|error| own_file(&dir, "list the undo logs", error))?;
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            logs.push((modified, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// Reads a log; a last line that a crash cut off was of a change that was not made.
fn entries(log: &Path) -> Result<Vec<UndoEntry>, FsError> {
    let text = std::fs::read(log).map_err(|error| own_file(log, "read the undo log", error))?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}
