//! The directories of a batch: few open at a time, each the same one from the first use to the last.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{fstat, syncfs};

use super::resolve::open_directory;
use super::{Root, Stat};

/// Directories that are open at a time. Most systems allow 1,024 descriptors in a process, and a batch may have more
/// directories than that.
const MAX_OPEN: usize = 64;

/// Directories by path. One that was closed and is opened again must still be the same inode: what was staged in one
/// directory is never looked for in another that took its place.
#[derive(Debug, Default)]
pub(super) struct Directories {
    open: VecDeque<(TreePath, Arc<OwnedFd>)>,
    known: HashMap<TreePath, (u64, u64)>,
    /// One descriptor for each file system, opened before anything was written there: a failed write-back is then
    /// reported by `syncfs` however many others have called it since.
    devices: HashMap<u64, Arc<OwnedFd>>,
}

impl Directories {
    /// Returns a directory, open.
    pub(super) fn get(&mut self, root: &Root, path: &TreePath) -> io::Result<Arc<OwnedFd>> {
        if let Some((_, fd)) = self.open.iter().find(|(open, _)| open == path) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(open_directory(root.fd(), path)?);
        let stat = Stat::from_raw(&fstat(&fd)?);
        let identity = *self.known.entry(path.clone()).or_insert((stat.dev, stat.ino));
        if identity != (stat.dev, stat.ino) {
            return Err(io::Error::other("its directory was replaced meanwhile"));
        }
        self.devices.entry(stat.dev).or_insert_with(|| Arc::clone(&fd));
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((path.clone(), Arc::clone(&fd)));
        Ok(fd)
    }

    /// Makes everything durable on every file system that has one of the directories.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.devices.values().try_for_each(|fd| Ok(syncfs(fd)?))
    }
}
