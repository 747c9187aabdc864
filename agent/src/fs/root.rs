//! The managed root.

use std::fs::File;
use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::TreePath;

use super::{Attributes, FsError, Stat};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, one component.
    pub name: Vec<u8>,
    /// Its metadata.
    pub stat: Stat,
}

/// The directory below which everything is managed: `/`, or what `--root` says. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        todo!("{path:?}")
    }
    /// Returns where the root is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Returns the path with the root in front: for messages only, never to be opened.
    pub fn display(&self, path: &TreePath) -> PathBuf {
        self.path.join(path.as_path())
    }
    /// lstat. `None` when it or a directory on the way is not there.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>, FsError> {
        todo!("{path:?}")
    }
    /// Opens a regular file for reading; refuses anything else without blocking (fifo).
    pub fn open_file(&self, path: &TreePath) -> Result<File, FsError> {
        todo!("{path:?}")
    }
    /// Returns where a link points.
    pub fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, FsError> {
        todo!("{path:?}")
    }
    /// Lists a directory, sorted by name, each entry with its lstat.
    pub fn list(&self, path: &TreePath) -> Result<Vec<DirEntry>, FsError> {
        todo!("{path:?}")
    }
    /// Creates a directory with exactly these attributes (independent of umask; never wider in between), durable.
    pub fn create_dir(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        todo!("{path:?}{attributes:?}")
    }
    /// Changes owner, then mode, of what is there (not through links; of a link only the owner).
    pub fn set_attributes(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        todo!("{path:?}{attributes:?}")
    }
    /// Puts a link in place, atomically replacing a file or link, never a directory.
    pub fn put_link(&self, path: &TreePath, target: &[u8], attributes: Attributes) -> Result<(), FsError> {
        todo!("{path:?}{target:?}{attributes:?}")
    }
    /// Removes a file, link, fifo, socket or device.
    pub fn remove_file(&self, path: &TreePath) -> Result<(), FsError> {
        todo!("{path:?}")
    }
    /// Removes an empty directory.
    pub fn remove_dir(&self, path: &TreePath) -> Result<(), FsError> {
        todo!("{path:?}")
    }
    /// Removes a directory and everything in it, never crossing a mount or a link.
    pub fn remove_tree(&self, path: &TreePath) -> Result<(), FsError> {
        todo!("{path:?}")
    }
}
