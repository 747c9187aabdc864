//! What was put and is not durable yet.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use direct_puppet_transport::protocol::Digest;

use super::Store;
use crate::fs::FsError;

/// From how many new contents on one `syncfs` is cheaper than an `fsync` of each.
const SYNCFS_FROM: usize = 64;

/// Contents that [`Store::sync`] will make durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    pub(super) files: Vec<PathBuf>,
    is_many: bool,
    directories: BTreeSet<PathBuf>,
    has_failed: bool,
}

impl Store {
    /// Makes everything put or received so far durable.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; nothing that was put since the last success may then be relied on. The kernel reports
    /// a lost write once only, so every later call fails too, until the store is opened anew and the contents are put again.
    pub fn sync(&self) -> Result<(), FsError> {
        let mut unsynced = self.unsynced();
        let Unsynced { files, is_many, directories, has_failed } = std::mem::take(&mut *unsynced);
        let result = if has_failed {
            Err(io::Error::other("an earlier attempt failed, and what it lost is not known"))
        } else {
            // The lock is held: who comes second must not hear of success before the first is done.
            self.sync_these(&files, is_many, &directories)
        };
        result.map_err(|error| {
            unsynced.has_failed = true;
            let mut error = FsError::new(&self.dir, "make durable the contents in", error);
            error.hint = error.hint.or(Some("look at the disk, then start again"));
            error
        })
    }

    fn sync_these(&self, files: &[PathBuf], is_many: bool, directories: &BTreeSet<PathBuf>) -> io::Result<()> {
        if is_many {
            return Ok(rustix::fs::syncfs(&*self.opened)?);
        }
        for path in files.iter().chain(directories) {
            match File::open(path) {
                Ok(file) => file.sync_all()?,
                // Removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Renames a complete content under its digest.
    pub(super) fn publish(&self, temporary: &Path, digest: &Digest) -> Result<(), FsError> {
        let path = self.path_of(digest);
        let directory = path.parent().unwrap_or(&self.dir);
        let rename = || std::fs::rename(temporary, &path);
        let renamed = rename().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            rename()
        });
        renamed.map_err(|error| FsError::new(&path, "put in place the content", error))?;
        self.note(path);
        Ok(())
    }

    /// Remembers that a content is to be made durable, with the directories that name it.
    pub(super) fn note(&self, path: PathBuf) {
        let mut unsynced = self.unsynced();
        if unsynced.files.len() >= SYNCFS_FROM {
            unsynced.is_many = true;
            unsynced.files.clear();
            unsynced.directories.clear();
        }
        if !unsynced.is_many {
            // Directory of two digits, area, store: each may be new.
            unsynced.directories.extend(path.ancestors().skip(1).take(3).map(Path::to_owned));
            unsynced.files.push(path);
        }
    }

    pub(super) fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
