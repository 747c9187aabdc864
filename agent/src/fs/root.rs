//! The managed root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, chownat, fchmod, fchown, fstat, fsync, mkdirat, openat, readlinkat, renameat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::resolve::{open_beneath, open_directory, open_parent};
use super::stage::temporary_name;
use super::{Attributes, FileKind, FsError, FsErrorKind, StageJournal, Stat};

/// Deepest tree that [`Root::remove_tree`] holds descriptors for; below it directories are reopened by path.
const MAX_OPEN_DEPTH: usize = 24;

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
        let list = || -> io::Result<Vec<DirEntry>> {
            let directory = open_directory(self.fd(), path)?;
            let mut entries = Vec::new();
            for name in names(&directory)? {
                match statat(&directory, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => entries.push(DirEntry { name, stat: Stat::from_raw(&stat) }),
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        list().map_err(|error| self.error(path, "list", error))
    }

    /// Creates a directory with exactly these attributes, whatever the umask; never wider in between; durable. Mode is 0755
    /// where none is given.
    ///
    /// # Errors
    ///
    /// When something is there, or its directory is not.
    pub fn create_dir(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        let create = || -> io::Result<()> {
            let (parent, name) = open_parent(self.fd(), path)?;
            mkdirat(&parent, name, Mode::RWXU)?;
            let fd =
                openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            apply(fd.as_fd(), Attributes { mode: Some(attributes.mode.unwrap_or(0o755)), ..attributes })?;
            fsync(&parent)?;
            Ok(())
        };
        create().map_err(|error| self.error(path, "create the directory", error))
    }

    /// Sets owner, then mode, of a file or directory; of a link only the owner. A file with several names in a directory that
    /// others can write to is refused: the other name may be somebody's trap.
    ///
    /// # Errors
    ///
    /// When it is not there, or may not be changed.
    pub fn set_attributes(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        let Some(stat) = self.stat(path)? else {
            return Err(self.error(path, "set owner and mode of", io::Error::from(Errno::NOENT)));
        };
        if stat.kind() == FileKind::Link {
            return self.set_link_owner(path, attributes);
        }
        if stat.kind() == FileKind::File && stat.nlink > 1 {
            self.refuse_trap(path)?;
        }
        let set = || -> io::Result<()> {
            // Opening for reading may be denied to an unprivileged owner of a 0200 file; O_PATH never is, but cannot fchmod.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            let fd = open_beneath(self.fd(), path, flags, Mode::empty())?;
            let opened = fstat(&fd)?;
            if (opened.st_dev, opened.st_ino) != (stat.dev, stat.ino) {
                return Err(io::Error::other("it was replaced meanwhile"));
            }
            apply(fd.as_fd(), attributes)?;
            fsync(&fd)?;
            Ok(())
        };
        match set() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.set_unreadable(path, attributes),
            other => other.map_err(|error| self.error(path, "set owner and mode of", error)),
        }
    }

    /// For what its own owner may not read: by name, in a directory opened safely. `chmodat` follows links, so a link that
    /// takes the name's place in that instant is possible only to who can write the directory, and such a one is refused.
    fn set_unreadable(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        self.refuse_trap(path)?;
        let set = || -> io::Result<()> {
            let (parent, name) = open_parent(self.fd(), path)?;
            if attributes.uid.is_some() || attributes.gid.is_some() {
                chownat(
                    &parent,
                    name,
                    attributes.uid.map(Uid::from_raw),
                    attributes.gid.map(Gid::from_raw),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
            }
            if let Some(mode) = attributes.mode {
                rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
            fsync(&parent)?;
            Ok(())
        };
        set().map_err(|error| self.error(path, "set owner and mode of", error))
    }

    fn refuse_trap(&self, path: &TreePath) -> Result<(), FsError> {
        let parent = self.stat(&path.parent().unwrap_or_default())?;
        // Group or others may write.
        if parent.is_none_or(|parent| parent.mode & 0o022 == 0) {
            return Ok(());
        }
        let error = self.error(path, "set owner and mode of", io::Error::other("others can put what they like at this path"));
        Err(error.with_kind(FsErrorKind::Denied, Some("make its directory writable by its owner alone, or replace the file")))
    }

    fn set_link_owner(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        let (uid, gid) = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        open_parent(self.fd(), path)
            .and_then(|(parent, name)| {
                chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(fsync(&parent)?)
            })
            .map_err(|error| self.error(path, "set the owner of", error))
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
            match symlinkat(target, &parent, name) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    journal.announce(&path.parent().unwrap_or_default())?;
                    let temporary = temporary_name();
                    symlinkat(target, &parent, &temporary[..])?;
                    if let Err(error) = renameat(&parent, &temporary[..], &parent, name) {
                        unlinkat(&parent, &temporary[..], AtFlags::empty())?;
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if attributes.uid.is_some() || attributes.gid.is_some() {
                let (uid, gid) = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
                chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
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

    /// Removes a directory and everything in it; never crosses a mount, follows no link.
    ///
    /// # Errors
    ///
    /// When something in it cannot be removed, or is another file system; the rest may be gone by then.
    pub fn remove_tree(&self, path: &TreePath) -> Result<(), FsError> {
        let remove = || -> io::Result<()> {
            let (parent, name) = open_parent(self.fd(), path)?;
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let tree =
                openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            empty(tree, stat.st_dev)?;
            unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
            Ok(fsync(&parent)?)
        };
        remove().map_err(|error| self.error(path, "remove the tree", error))
    }
}

/// Sets owner, then mode (a change of owner clears setuid), through a descriptor.
pub(super) fn apply(fd: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    if attributes.uid.is_some() || attributes.gid.is_some() {
        fchown(fd, attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw))?;
    }
    if let Some(mode) = attributes.mode {
        fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes everything in a directory. Goes down with at most [`MAX_OPEN_DEPTH`] descriptors; what lies deeper is first moved
/// up beside its ancestor, so that depth costs no more of them.
fn empty(top: OwnedFd, device: u64) -> io::Result<()> {
    let mut stack: Vec<(OwnedFd, Vec<Vec<u8>>)> = Vec::new();
    let listed = names(&top)?;
    stack.push((top, listed));
    // Names of the directories that the stack is in, below the first.
    let mut inside: Vec<Vec<u8>> = Vec::new();
    loop {
        let depth = stack.len();
        let Some((directory, left)) = stack.last_mut() else { return Ok(()) };
        let Some(name) = left.pop() else {
            stack.pop();
            if let (Some((parent, _)), Some(name)) = (stack.last(), inside.pop()) {
                unlinkat(parent, &name[..], AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        let stat = match statat(&*directory, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if Stat::from_raw(&stat).kind() != FileKind::Directory {
            unlinkat(&*directory, &name[..], AtFlags::empty())?;
            continue;
        }
        if stat.st_dev != device {
            return Err(io::Error::other(format!("{} is another file system", String::from_utf8_lossy(&name))));
        }
        if depth >= MAX_OPEN_DEPTH {
            let moved = temporary_name();
            let directory = directory.try_clone()?;
            let (top, left) = &mut stack[0];
            renameat(&directory, &name[..], &*top, &moved[..])?;
            left.push(moved);
            continue;
        }
        let fd = openat(
            &*directory,
            &name[..],
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let listed = names(&fd)?;
        inside.push(name);
        stack.push((fd, listed));
    }
}
