//! Creating directories, one or very many.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::attributes::apply;
use super::directories::Directories;
use super::stage::{SYNCFS_FROM, again};
use super::{Attributes, FsError, Root};

impl Root {
    /// Creates a directory with exactly these attributes, whatever the umask; never wider in between; durable. Mode is 0755
    /// where none is given.
    ///
    /// # Errors
    ///
    /// When something is there, or its directory is not.
    pub fn create_dir(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        self.create_dirs(&[(path, attributes)]).pop().unwrap_or(Ok(()))
    }

    /// Creates directories in this order, each as [`Root::create_dir`] does; one result for each. They are made durable
    /// together: many cost one `syncfs`.
    ///
    /// # Errors
    ///
    /// Each has its own; one that could not be made durable may be there all the same.
    #[must_use]
    pub fn create_dirs(&self, wanted: &[(&TreePath, Attributes)]) -> Vec<Result<(), FsError>> {
        let mut directories = Directories::default();
        let is_many = wanted.len() >= SYNCFS_FROM;
        let mut created = Vec::new();
        let mut parents = BTreeSet::new();
        let mut results: Vec<io::Result<()>> = Vec::with_capacity(wanted.len());
        for (path, attributes) in wanted {
            let parent = path.parent().unwrap_or_default();
            let made = directories.get(self, &parent).and_then(|parent| create(&parent, path, *attributes));
            results.push(made.map(|fd| {
                if !is_many {
                    created.push(fd);
                    parents.insert(parent);
                }
            }));
        }
        let synced = if is_many {
            directories.sync_all()
        } else {
            // Their own inodes too: the names alone say nothing of owner and mode.
            let inodes = created.iter().try_for_each(|fd| Ok(fsync(fd)?));
            inodes.and_then(|()| parents.iter().try_for_each(|parent| Ok(fsync(directories.get(self, parent)?)?)))
        };
        let durable = |result: io::Result<()>| result.and_then(|()| synced.as_ref().map_err(again).copied());
        let named = |(result, (path, _)): (io::Result<()>, &(&TreePath, _))| {
            durable(result).map_err(|error| self.error(path, "create the directory", error))
        };
        results.into_iter().zip(wanted).map(named).collect()
    }
}

fn create(parent: &OwnedFd, path: &TreePath, attributes: Attributes) -> io::Result<OwnedFd> {
    let name = path.name().ok_or(Errno::EXIST)?;
    let attributes = Attributes { mode: Some(attributes.mode.unwrap_or(0o755)), ..attributes };
    mkdirat(parent, name, Mode::RWXU)?;
    let finish = || -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(parent, name, flags, Mode::empty())?;
        apply(fd.as_fd(), attributes)?;
        Ok(fd)
    };
    finish().inspect_err(|_| {
        if let Err(error) = unlinkat(parent, name, AtFlags::REMOVEDIR) {
            tracing::debug!(%path, %error, "an unfinished directory stays, readable by its owner alone");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_many_directories_has_its_own_result() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for count in [3, 2 * SYNCFS_FROM] {
            let mut paths: Vec<TreePath> = vec![format!("top{count}").parse().unwrap(), "file".parse().unwrap()];
            paths.extend((0..count).map(|number| format!("top{count}/{number}").parse().unwrap()));
            let wanted: Vec<_> =
                paths.iter().map(|path| (path, Attributes { mode: Some(0o750), ..Default::default() })).collect();
            let results = root.create_dirs(&wanted);
            for (at, (result, path)) in results.iter().zip(&paths).enumerate() {
                assert_eq!(result.is_ok(), at != 1, "{path}: {result:?}");
                assert_eq!(root.stat(path).unwrap().unwrap().kind() == super::super::FileKind::Directory, at != 1);
            }
            assert_eq!(root.stat(&paths[5.min(count)]).unwrap().unwrap().permissions(), 0o750);
        }
    }
}
