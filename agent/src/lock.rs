//! The run lock and the disable lock.
//!
//! * `<state dir>/agent_catalog_run.lock`: held by `flock` for the length of a run, so a crash cannot leave it behind; its
//!   text is the process id, as in Puppet.
//! * `<state dir>/agent_disabled.lock`: JSON `{"disabled_message": "…"}`, as in Puppet.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::fs::{FsError, FsErrorKind, write_state};

const RUN_LOCK: &str = "agent_catalog_run.lock";
const DISABLED_LOCK: &str = "agent_disabled.lock";

/// The right to run; given back when dropped.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock without waiting. Blocking.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, RunError> {
        let path = state_dir.join(RUN_LOCK);
        let fail = |attempt, source: io::Error| own_file(&path, attempt, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(|source| fail("open the run lock", source))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(fail("lock", error.into()).into());
            }
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(RunError::Busy { path, holder });
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|source| fail("write the run lock", source))?;
        Ok(Self { file })
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The text is for people.
        let _emptied = self.file.set_len(0);
        // Not only by closing: a child that another thread is just starting has the descriptor too, until it runs its program.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of runs goes with its descriptor");
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Disabled {
    disabled_message: String,
}

/// Returns why runs are disabled, if they are. Blocking.
pub(crate) fn disabled(state_dir: &Path) -> Result<Option<String>, FsError> {
    let path = state_dir.join(DISABLED_LOCK);
    match std::fs::read(&path) {
        // A lock that cannot be read is still a lock.
        Ok(text) => Ok(Some(
            serde_json::from_slice::<Disabled>(&text)
                .map_or_else(|_| "reason not specified".to_owned(), |lock| lock.disabled_message),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(own_file(&path, "read the disable lock", error)),
    }
}

/// Disables runs until [`enable`]. Blocking.
pub(crate) fn disable(state_dir: &Path, message: &str) -> Result<(), FsError> {
    let path = state_dir.join(DISABLED_LOCK);
    let text = serde_json::to_vec(&Disabled { disabled_message: message.to_owned() })
        .map_err(|error| own_file(&path, "encode the disable lock", error.into()))?;
    write_state(&path, &text, 0o644)
}

/// Allows runs again; returns whether they were disabled. Blocking.
pub(crate) fn enable(state_dir: &Path) -> Result<bool, FsError> {
    let path = state_dir.join(DISABLED_LOCK);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(own_file(&path, "remove the disable lock", error)),
    }
}

/// Returns the error of an operation on a file of the agent's own.
pub(crate) fn own_file(path: &Path, attempt: &'static str, source: io::Error) -> FsError {
    let (kind, hint) = match source.kind() {
        io::ErrorKind::NotFound => (FsErrorKind::NotFound, None),
        io::ErrorKind::PermissionDenied => (FsErrorKind::Denied, Some("choose a directory of your own with --state-dir")),
        io::ErrorKind::ReadOnlyFilesystem => (FsErrorKind::Denied, Some("choose a writable directory with --state-dir")),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (FsErrorKind::Full, Some("free space on its file system")),
        _ => (FsErrorKind::Other, None),
    };
    FsError { path: PathBuf::from(path), attempt, kind, hint, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::take(dir.path()).unwrap();
        let Err(RunError::Busy { holder, .. }) = RunLock::take(dir.path()) else { panic!("not busy") };
        assert_eq!(holder, Some(std::process::id()));
        // As a child has it that is just being started.
        let inherited = first.file.try_clone().unwrap();
        drop(first);
        RunLock::take(dir.path()).unwrap();
        drop(inherited);
    }

    #[test]
    fn disable_keeps_its_message() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disabled(dir.path()).unwrap(), None);
        disable(dir.path(), "maintenance \"night\"").unwrap();
        assert_eq!(disabled(dir.path()).unwrap().as_deref(), Some("maintenance \"night\""));
        assert!(enable(dir.path()).unwrap());
        assert!(!enable(dir.path()).unwrap());
        assert_eq!(disabled(dir.path()).unwrap(), None);
    }
}
