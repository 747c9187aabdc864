//! Reading and writing the server's own small files.

use std::fs::{DirEntry, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use direct_puppet_agent::fs::{FsError, FsErrorKind, write_cache, write_state};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ServerError;

/// The right to use a data directory; given back when dropped.
#[derive(Debug)]
pub(crate) struct DataLock(File);

impl Drop for DataLock {
    fn drop(&mut self) {
        // Not only by closing: a child that another thread is just starting has the descriptor too, until it runs its program.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of the data directory goes with its descriptor");
        }
    }
}

/// Takes the lock of a data directory.
pub(crate) fn lock(data: &Path) -> Result<DataLock, ServerError> {
    let path = data.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| FsError::new(&path, "open the lock", error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServerError::Busy { path }),
        Err(error) => Err(FsError::new(&path, "lock", error.into()).into()),
    }
}

/// Whether there was no space for something.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_it = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        error.downcast_ref::<FsError>().is_some_and(|error| error.kind == FsErrorKind::Full)
            || matches!(io, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    };
    std::iter::successors(Some(error), |error| error.source()).any(is_it)
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ServerError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::new(path, "read", error).into()),
    }
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ServerError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| ServerError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Replaces a JSON file, atomically and durably.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| FsError::new(path, "encode", error.into()))?;
    Ok(write_state(path, &text, 0o600)?)
}

/// As [`write_json`], but not durable: after a power cut the file may be damaged, which reading finds.
pub(crate) fn write_json_cache(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| FsError::new(path, "encode", error.into()))?;
    Ok(write_cache(path, &text, 0o600)?)
}

/// Held while a line is appended: half a line of another thread looks like one that a crash cut off.
static APPENDING: Mutex<()> = Mutex::new(());

/// Appends a line to a JSON-lines file, durably; half a line that a crash left there is cut off first.
pub(crate) fn append_json(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let _turn = APPENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !ends_with_line(path).map_err(|error| FsError::new(path, "append to", error))? {
        cut_torn_line(path)?;
    }
    let append = || -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        file.write_all(&line)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    append().map_err(|error| FsError::new(path, "append to", error).into())
}

/// Whether a file is empty, not there, or ends with the end of a line.
fn ends_with_line(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

/// Reads a JSON-lines file; a last line that a crash cut off is passed over.
pub(crate) fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ServerError> {
    let text = read(path)?.unwrap_or_default();
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Returns the numbers, from 1 on, of the lines of a JSON-lines file that are whole and cannot be read.
pub(crate) fn damaged_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<usize>, ServerError> {
    let text = read(path)?.unwrap_or_default();
    let whole = text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    let is_damaged = |line: &[u8]| serde_json::from_slice::<T>(line).is_err();
    let lines = text[..whole].split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty() && is_damaged(line));
    Ok(lines.map(|(at, _)| at + 1).collect())
}

/// Removes what follows the last whole line of a JSON-lines file, so that the next line does not run into it.
pub(crate) fn cut_torn_line(path: &Path) -> Result<(), ServerError> {
    let Some(text) = read(path)? else { return Ok(()) };
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole == text.len() {
        return Ok(());
    }
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()
    };
    cut().map_err(|error| FsError::new(path, "cut a torn line off", error).into())
}

/// Lists a directory.
pub(crate) fn entries(path: &Path) -> Result<Vec<DirEntry>, ServerError> {
    let list = || std::fs::read_dir(path)?.collect::<io::Result<Vec<DirEntry>>>();
    list().map_err(|error| FsError::new(path, "list", error).into())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ServerError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| FsError::new(path, "make durable the directory", error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_back_though_a_child_that_is_being_started_has_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(ServerError::Busy { .. })));
        let inherited = held.0.try_clone().unwrap();
        drop(held);
        drop(lock(dir.path()).unwrap());
        drop(inherited);
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        append_json(&path, &"one").unwrap();
        for torn in ["\"tw", "x", "{\"a\":"] {
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).unwrap();
            append_json(&path, &"next").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [&whole[..], b"\"next\"\n"].concat(), "{torn}");
        }
        assert_eq!(read_json_lines::<String>(&path).unwrap(), ["one", "next", "next", "next"]);
        assert!(damaged_json_lines::<String>(&path).unwrap().is_empty());
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replacen("next", "ne\"xt", 1) + "\"to").unwrap();
        assert_eq!(damaged_json_lines::<String>(&path).unwrap(), [2]);
        std::fs::write(&path, "torn from the first byte on").unwrap();
        append_json(&path, &"one").unwrap();
        assert_eq!(read_json_lines::<String>(&path).unwrap(), ["one"]);
    }

    #[test]
    fn lines_of_many_threads_are_all_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| append_json(path, &format!("{thread}").repeat(20_000)).unwrap()));
            }
        });
        assert_eq!(read_json_lines::<String>(&path).unwrap().len(), 40);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 40);
    }
}
