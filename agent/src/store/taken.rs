//! A content on its way out of the store, to become a managed file by a rename.

use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::Digest;

use super::{Store, list, remove_if_there};
use crate::fs::{FsError, ensure_private_dir};

/// A content that has left its place in the store, so that nobody takes it for one that stays: a backup of the same bytes is
/// then stored anew. Dropping it puts it back, unless it was renamed away.
#[derive(Debug)]
pub struct Taken {
    path: PathBuf,
    home: PathBuf,
    is_used: bool,
}

impl Taken {
    /// Returns where it lies until it is renamed into place.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that it is not there any more: it was renamed into place, or copied and removed.
    pub const fn used(&mut self) {
        self.is_used = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        if let Err(error) = put_back(&self.path, &self.home) {
            tracing::debug!(%error, "a content that was not used stays aside until the store is opened again");
        }
    }
}

impl Store {
    /// Takes a content out; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn take(&self, digest: &Digest) -> Result<Option<Taken>, FsError> {
        let home = self.path_of(digest);
        let path = self.dir.join("taken").join(digest.to_string());
        let rename = || std::fs::rename(&home, &path);
        let renamed = rename().or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound || !home.exists() {
                return Err(error);
            }
            ensure_private_dir(&self.dir.join("taken")).map_err(|error| error.source)?;
            rename()
        });
        match renamed {
            Ok(()) => Ok(Some(Taken { path, home, is_used: false })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FsError::new(&home, "take the content out of the store", error)),
        }
    }

    /// Puts back what a run that was cut off had taken out.
    pub(super) fn put_back_taken(&self) -> Result<(), FsError> {
        for path in list(&self.dir.join("taken"))? {
            match path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok()) {
                Some(digest) => put_back(&path, &self.path_of(&digest))?,
                None => remove_if_there(&path)?,
            }
        }
        Ok(())
    }
}

fn put_back(path: &Path, home: &Path) -> Result<(), FsError> {
    if home.exists() {
        return remove_if_there(path);
    }
    match std::fs::rename(path, home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FsError::new(path, "put back into the store", error)),
        _ => Ok(()),
    }
}
