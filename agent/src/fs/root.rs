//! The managed root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, Mode, OFlags, chownat, fstat, fsync, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::remove::names;
use super::resolve::{open_beneath, open_directory, open_parent};
use super::{Attributes, FileKind, FsError, FsErrorKind, StageJournal, Stat, Time};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, one component.
    pub name: Vec<u8>,
    /// Its metadata.
    pub stat: Stat,
}

/// The directory below which everything is managed: `/`, or what `--root` says. Cheap to clone.
///
/// Every path is resolved from this directory's descriptor, anew for each operation, and no symbolic link on the way is
/// followed; the last component is then acted on by (directory descriptor, name). All methods block.
#[derive(Debug, Clone)]
pub struct Root {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Root {
    /// Opens the directory; links in `path` itself are followed, it is the administrator's word.
    ///
    /// # Errors
    ///
    /// When it is not there, or no directory.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let fd =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                let error = FsError::new(path, "open the managed root", errno.into());
                match errno {
                    Errno::NOENT => error.with_kind(FsErrorKind::NotFound, Some("create it first")),
                    _ => error,
                }
            })?;
        Ok(Self { fd: Arc::new(fd), path: path.to_owned() })
    }

    /// Returns where the root is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path with the root in front: for messages only, never to be opened.
    #[must_use]
    pub fn display(&self, path: &TreePath) -> PathBuf {
        self.path.join(path.as_path())
    }

    /// Opens a directory below as a root of its own, for many files of it: names on the way are then resolved once.
    ///
    /// # Errors
    ///
    /// When it is not there, is no directory, or may not be read.
    pub fn below(&self, path: &TreePath) -> Result<Self, FsError> {
        let fd = open_directory(self.fd(), path).map_err(|error| self.error(path, "open the directory", error))?;
        Ok(Self { fd: Arc::new(fd), path: self.display(path) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn error(&self, path: &TreePath, attempt: &'static str, source: impl Into<io::Error>) -> FsError {
        FsError::new(&self.display(path), attempt, source.into())
    }

    /// Returns the metadata of what is there, never of what a link points to; `None` when it, or a directory on the way, is
    /// not there.
    ///
    /// # Errors
    ///
    /// When something on the way is a link or no directory, or may not be searched.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>, FsError> {
        let found = if path.is_root() {
            fstat(self.fd()).map_err(io::Error::from)
        } else {
            open_parent(self.fd(), path).and_then(|(parent, name)| Ok(statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
        };
        match found {
            Ok(stat) => Ok(Some(Stat::from_raw(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(path, "look at", error)),
        }
    }

    /// As [`Root::stat`], from the directory that was opened last, if it is the same: many paths that are looked at one after the other lie in one.
    ///
    /// # Errors
    ///
    /// As [`Root::stat`].
    #[cfg(feature = "providers")]
    pub(crate) fn stat_near(&self, path: &TreePath, last: &mut Option<(TreePath, OwnedFd)>) -> Result<Option<Stat>, FsError> {
        let (Some(name), Some(parent)) = (path.name(), path.parent()) else { return self.stat(path) };
        let look = || -> io::Result<Stat> {
            let directory = match last.take().filter(|(known, _)| *known == parent) {
                Some((_, directory)) => directory,
                None => open_directory(self.fd(), &parent)?,
            };
            let (_, directory) = last.insert((parent, directory));
            Ok(Stat::from_raw(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
        };
        match look() {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(path, "look at", error)),
        }
    }

    /// Returns when what is there was last read, as far as its file system keeps that; `None` as [`Root::stat`].
    ///
    /// # Errors
    ///
    /// As [`Root::stat`].
    #[expect(clippy::cast_possible_truncation, reason = "nanoseconds are below 10^9")]
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "the widths differ between architectures")]
    pub fn read_time(&self, path: &TreePath) -> Result<Option<Time>, FsError> {
        let look = || -> io::Result<Time> {
            let (parent, name) = open_parent(self.fd(), path)?;
            let raw = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Time { seconds: raw.st_atime as i64, nanos: raw.st_atime_nsec as u32 })
        };
        match look() {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(path, "look at", error)),
        }
    }

    /// Opens a regular file for reading. Never blocks on a fifo or device.
    ///
    /// # Errors
    ///
    /// When it is not there, is no regular file, or may not be read.
    pub fn open_file(&self, path: &TreePath) -> Result<File, FsError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = open_beneath(self.fd(), path, flags, Mode::empty()).map_err(|error| self.error(path, "open", error))?;
        let stat = fstat(&fd).map_err(|error| self.error(path, "look at", error))?;
        if Stat::from_raw(&stat).kind() != FileKind::File {
            let error = self.error(path, "open", io::Error::other("it is no regular file"));
            return Err(error.with_kind(FsErrorKind::WrongKind, None));
        }
        Ok(fd.into())
    }

    /// Returns where a link points.
    ///
    /// # Errors
    ///
    /// When it is not there or no link.
    pub fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, FsError> {
        open_parent(self.fd(), path)
            .and_then(|(parent, name)| Ok(readlinkat(&parent, name, Vec::new())?))
            .map(std::ffi::CString::into_bytes)
            .map_err(|error| self.error(path, "read the link", error))
    }

    /// Lists a directory, sorted by name, each entry with its metadata. What vanishes meanwhile is left out.
    ///
    /// # Errors
    ///
    /// When it is not there, is no directory, or may not be read.
    pub fn list(&self, path: &TreePath) -> Result<Vec<DirEntry>, FsError> {
        self.list_with_stat(path).map(|(_, entries)| entries)
    }

    /// As [`Root::list`], after the directory's own metadata, taken before its entries were read.
    pub(crate) fn list_with_stat(&self, path: &TreePath) -> Result<(Stat, Vec<DirEntry>), FsError> {
        let list = || -> io::Result<(Stat, Vec<DirEntry>)> {
            let directory = open_directory(self.fd(), path)?;
            let before = Stat::from_raw(&fstat(&directory)?);
            let mut entries = Vec::new();
            for name in names(&directory)? {
                match statat(&directory, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => entries.push(DirEntry { name, stat: Stat::from_raw(&stat) }),
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok((before, entries))
        };
        list().map_err(|error| self.error(path, "list", error))
    }

    /// Puts a link in place, atomically, over a file or link if one is there; durable.
    ///
    /// # Errors
    ///
    /// When a directory is there, or its directory is not.
    pub fn put_link(
        &self,
        path: &TreePath,
        target: &[u8],
        attributes: Attributes,
        journal: &StageJournal,
    ) -> Result<(), FsError> {
        let put = || -> io::Result<()> {
            let (parent, name) = open_parent(self.fd(), path)?;
            let owner = attributes.owner();
            if owner.is_none() {
                match symlinkat(target, &parent, name) {
                    Err(Errno::EXIST) => {}
                    other => return Ok(other.and_then(|()| fsync(&parent))?),
                }
            }
            journal.announce(&path.parent().unwrap_or_default())?;
            let temporary = journal.name();
            symlinkat(target, &parent, &temporary[..])?;
            // The owner is set before the link is seen under its name.
            let placed = owner
                .map_or(Ok(()), |(uid, gid)| chownat(&parent, &temporary[..], uid, gid, AtFlags::SYMLINK_NOFOLLOW))
                .and_then(|()| renameat(&parent, &temporary[..], &parent, name));
            if let Err(error) = placed {
                unlinkat(&parent, &temporary[..], AtFlags::empty())?;
                return Err(error.into());
            }
            Ok(fsync(&parent)?)
        };
        put().map_err(|error| self.error(path, "put the link", error))
    }

    /// Removes a file, link, fifo, socket or device; durable.
    ///
    /// # Errors
    ///
    /// When it is not there, or a directory.
    pub fn remove_file(&self, path: &TreePath) -> Result<(), FsError> {
        self.unlink(path, AtFlags::empty(), "remove")
    }

    /// Removes an empty directory; durable.
    ///
    /// # Errors
    ///
    /// When it is not there, not empty, or no directory.
    pub fn remove_dir(&self, path: &TreePath) -> Result<(), FsError> {
        self.unlink(path, AtFlags::REMOVEDIR, "remove the directory")
    }

    fn unlink(&self, path: &TreePath, flags: AtFlags, attempt: &'static str) -> Result<(), FsError> {
        open_parent(self.fd(), path)
            .and_then(|(parent, name)| {
                unlinkat(&parent, name, flags)?;
                Ok(fsync(&parent)?)
            })
            .map_err(|error| self.error(path, attempt, error))
    }
}
