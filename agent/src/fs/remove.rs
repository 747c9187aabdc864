//! Removal of whole trees.

use std::io;
use std::os::fd::OwnedFd;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, fsync, openat, openat2, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::resolve::{MAX_RACES, open_parent};
use super::stage::temporary_name;
use super::{FileKind, FsError, FsErrorKind, Root, Stat};

/// How deep [`Root::remove_tree`] goes down with a descriptor for each directory.
const MAX_OPEN_DEPTH: usize = 24;

impl Root {
    /// Removes a directory and everything in it; never crosses a mount, not even one of the same file system, follows no link.
    /// Durable.
    ///
    /// # Errors
    ///
    /// When it is or holds a mount point: then nothing is removed. When something in it cannot be removed: part of it is gone then.
    pub fn remove_tree(&self, path: &TreePath) -> Result<(), FsError> {
        let mut has_begun = false;
        let mut remove = || -> io::Result<()> {
            let (parent, name) = open_parent(self.fd(), path)?;
            let top = open_on_same_mount(&parent, name)?;
            refuse_mounts(&top)?;
            has_begun = true;
            empty(top)?;
            unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
            Ok(fsync(&parent)?)
        };
        let removed = remove();
        removed.map_err(|error| {
            let is_mount = matches!(Errno::from_io_error(&error), Some(Errno::XDEV | Errno::BUSY));
            let error = self.error(path, "remove the tree", error);
            match is_mount {
                true => error.with_kind(FsErrorKind::WrongKind, Some("something is mounted there: unmount it first")),
                false if has_begun => {
                    let kind = error.kind;
                    error.with_kind(kind, Some("part of it may be gone: the undo log has what it held"))
                }
                false => error,
            }
        })
    }
}

/// Opens a directory by name; `EXDEV` when something is mounted on it. A bind mount has the device of what it shows, so
/// devices alone do not tell; kernels without `openat2` (before 5.6) can do no better.
fn open_on_same_mount(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    for _ in 0..MAX_RACES {
        match openat2(parent, name, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM) => {
                let fd = openat(parent, name, flags, Mode::empty())?;
                let is_same = fstat(&fd)?.st_dev == fstat(parent)?.st_dev;
                return if is_same { Ok(fd) } else { Err(Errno::XDEV.into()) };
            }
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Looks for mounts in a whole tree before anything in it is removed. Directories below are opened anew by path, so that depth
/// costs no descriptors; `EXDEV` when something is mounted on one.
fn refuse_mounts(top: &OwnedFd) -> io::Result<()> {
    let mut open = vec![TreePath::root()];
    while let Some(path) = open.pop() {
        let directory = if path.is_root() { top.try_clone()? } else { open_below(top, &path)? };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let is_directory = match entry.file_type() {
                FileType::Directory => name != b"." && name != b"..",
                FileType::Unknown => {
                    let stat = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    name != b"." && name != b".." && Stat::from_raw(&stat).kind() == FileKind::Directory
                }
                _ => false,
            };
            // A path that is too long for one call is looked at while removing.
            if is_directory && let Ok(child) = path.child(name) {
                open.push(child);
            }
        }
    }
    Ok(())
}

fn open_below(top: &OwnedFd, path: &TreePath) -> io::Result<OwnedFd> {
    let mut components = path.as_bytes().split(|&byte| byte == b'/');
    let first = open_on_same_mount(top, components.next().unwrap_or_default())?;
    components.try_fold(first, |directory, name| open_on_same_mount(&directory, name))
}

/// Returns the names in a directory.
pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
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
fn empty(top: OwnedFd) -> io::Result<()> {
    let listed = names(&top)?;
    let mut stack: Vec<(OwnedFd, Vec<Vec<u8>>)> = vec![(top, listed)];
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
        let fd = open_on_same_mount(directory, &name)?;
        if depth >= MAX_OPEN_DEPTH {
            drop(fd);
            let moved = temporary_name();
            let directory = directory.try_clone()?;
            let (top, left) = &mut stack[0];
            renameat(&directory, &name[..], &*top, &moved[..])?;
            left.push(moved);
            continue;
        }
        let listed = names(&fd)?;
        inside.push(name);
        stack.push((fd, listed));
    }
}
