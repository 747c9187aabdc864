//! From a path to a descriptor, following no symbolic link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// How often a resolution that raced with a rename is tried again.
pub(super) const MAX_RACES: usize = 128;

/// Opens `path` below `root`. No component may be a symbolic link, a magic link or lead outside; the last one may be a link
/// only with `O_PATH | O_NOFOLLOW`, and is then opened itself.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &TreePath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let relative = if path.is_root() { Path::new(".") } else { path.as_path() };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RACES {
        match openat2(root, relative, flags | OFlags::CLOEXEC, mode, how) {
            // EAGAIN: a rename or mount happened on the way and the kernel could not prove that it stayed beneath.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6; containers whose filter does not know the call answer with EPERM, which the call itself never
            // gives for these flags.
            Err(Errno::NOSYS | Errno::PERM) => return open_by_component(root, path, flags, mode),
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens the directory that holds `path`, and returns it with the last component.
pub(super) fn open_parent<'a>(root: BorrowedFd<'_>, path: &'a TreePath) -> io::Result<(OwnedFd, &'a [u8])> {
    let Some(name) = path.name() else { return Err(Errno::INVAL.into()) };
    let parent = path.parent().unwrap_or_default();
    Ok((open_directory(root, &parent)?, name))
}

/// Opens a directory for use as a base and for syncing.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &TreePath) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// The same by hand: each component opened below the one before, none of them a link.
fn open_by_component(root: BorrowedFd<'_>, path: &TreePath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut components = path.components().peekable();
    let mut open: Option<OwnedFd> = None;
    while let Some(name) = components.next() {
        let base = open.as_ref().map_or(root, AsFd::as_fd);
        let next = if components.peek().is_some() {
            openat(base, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
        } else {
            openat(base, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?
        };
        open = Some(next);
    }
    match open {
        Some(fd) => Ok(fd),
        None => Ok(openat(root, ".", flags | OFlags::CLOEXEC, mode)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_refuse_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for open in [open_beneath, open_by_component] {
            let open = |path: &str| open(root.as_fd(), &path.parse().unwrap(), flags, Mode::empty());
            assert!(open("real/sub").is_ok());
            assert!(open("").is_ok());
            let refused = open("link/sub").unwrap_err();
            assert!(matches!(Errno::from_io_error(&refused), Some(Errno::LOOP | Errno::NOTDIR)), "{refused}");
        }
    }
}
