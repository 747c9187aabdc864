//! Reading and writing the server's own small files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use direct_puppet_agent::fs::{FsError, FsErrorKind, write_cache, write_state};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ServerError;

/// Takes the lock of a data directory; given back when the file is dropped.
pub(crate) fn lock(data: &Path) -> Result<File, ServerError> {
    let path = data.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| FsError::new(&path, "open the lock", error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
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

/// Appends a line to a JSON-lines file, durably.
pub(crate) fn append_json(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
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

/// Reads a JSON-lines file; a last line that a crash cut off is passed over.
pub(crate) fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ServerError> {
    let text = read(path)?.unwrap_or_default();
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
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

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ServerError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| FsError::new(path, "make durable the directory", error).into())
}
