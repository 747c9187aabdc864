//! The logs: written by runs, read by undo, removed when there are too many.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::protocol::Digest;
use serde::{Deserialize, Serialize};

use super::{Previous, UndoEntry};
use crate::fs::FsError;
use crate::lock::own_file;

/// How long a file of others stays in the store that an undo replaced by force.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Files of others that were replaced by force.
const KEPT: &str = "kept.list";

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
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(open_to_append(&self.path)?);
        }
        let Some(file) = slot.as_mut() else { return Ok(()) };
        append_lines(file, entries)
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

fn append_lines<T: Serialize>(file: &mut File, values: &[T]) -> io::Result<()> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, value)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    file.sync_data()
}

/// A file of others in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    path: String,
    digest: Digest,
    time_unix_seconds: u64,
}

/// Has contents stay in the store for [`KEPT_FOR`]. Blocking.
pub(super) fn keep(state_dir: &Path, contents: &[(String, Digest)]) -> Result<(), FsError> {
    let path = state_dir.join("undo").join(KEPT);
    let time_unix_seconds = seconds(SystemTime::now());
    let lines: Vec<Kept> =
        contents.iter().map(|(path, digest)| Kept { path: path.clone(), digest: *digest, time_unix_seconds }).collect();
    open_to_append(&path)
        .and_then(|mut file| append_lines(&mut file, &lines))
        .map_err(|source| own_file(&path, "write down what stays in the store", source))
}

/// Removes all but the last `keep` logs and returns the contents that these need. Blocking.
pub(crate) fn prune(state_dir: &Path, keep: usize) -> Result<HashSet<Digest>, FsError> {
    let mut logs = logs(state_dir)?;
    for (log, _) in logs.drain(..logs.len().saturating_sub(keep)) {
        std::fs::remove_file(&log).map_err(|error| own_file(&log, "remove an old undo log", error))?;
    }
    let mut digests = HashSet::new();
    for (log, _) in &logs {
        // A damaged line needs nothing any more; undo says so.
        digests.extend(lines::<UndoEntry>(log)?.into_iter().flatten().filter_map(|entry| match entry.previous {
            Previous::File { digest, .. } => Some(digest),
            _ => None,
        }));
    }
    let kept = state_dir.join("undo").join(KEPT);
    if kept.exists() {
        let horizon = seconds(SystemTime::now()).saturating_sub(KEPT_FOR.as_secs());
        let young = lines::<Kept>(&kept)?.into_iter().flatten().filter(|kept| kept.time_unix_seconds >= horizon);
        digests.extend(young.map(|kept| kept.digest));
    }
    Ok(digests)
}

/// Returns the logs with the times of their last changes in seconds since 1970 UTC, oldest first.
pub(super) fn logs(state_dir: &Path) -> Result<Vec<(PathBuf, u64)>, FsError> {
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
    Ok(logs.into_iter().map(|(modified, path)| (path, seconds(modified))).collect())
}

/// Reads a log; a last line that a crash cut off was of a change that was not made.
pub(super) fn entries(log: &Path) -> Result<Vec<UndoEntry>, FsError> {
    let mut lines = lines::<UndoEntry>(log)?;
    if lines.last().is_some_and(Result::is_err) {
        lines.pop();
    }
    lines.into_iter().collect::<Result<_, _>>().map_err(|error| FsError {
        hint: Some("it is of another version or damaged: remove it, its changes cannot be taken back"),
        ..own_file(log, "understand the undo log", error.into())
    })
}

fn lines<T: for<'de> Deserialize<'de>>(log: &Path) -> Result<Vec<Result<T, serde_json::Error>>, FsError> {
    let text = std::fs::read(log).map_err(|error| own_file(log, "read the undo log", error))?;
    Ok(text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice).collect())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
