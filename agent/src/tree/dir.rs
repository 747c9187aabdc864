//! Directories below a root by descriptor, never through a symbolic link.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::fs::{FileKind, Stat, Time};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FOR_READING: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// How often a lookup that raced with a rename (EAGAIN of openat2) is tried.
const LOOKUP_ATTEMPTS: u32 = 16;

/// The directory below which everything lies.
#[derive(Debug)]
pub(super) struct RootDir(OwnedFd);

impl RootDir {
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map(Self)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens a directory. `None` when it, or one on the way, is not there.
    pub(super) fn dir(&self, path: &TreePath) -> Result<Option<Dir<'_>>, Errno> {
        match self.open_dir(path) {
            Ok(fd) => Ok(Some(Dir { root: self, path: path.clone(), fd, private: OnceLock::new() })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn open_dir(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        self.open_beneath(if path.is_root() { Path::new(".") } else { path.as_path() })
    }

    /// Opens a directory by its path, `.` for this one; no component may be a link.
    pub(super) fn open_beneath(&self, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut attempt = 1;
        loop {
            match rustix::fs::openat2(&self.0, name, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if attempt < LOOKUP_ATTEMPTS => attempt += 1,
                // Kernels before 5.6, and whatever does not let the call through: see `fs::resolve`.
                Err(Errno::NOSYS | Errno::PERM) => return self.open_by_component(name),
                result => return result,
            }
        }
    }

    /// As [`RootDir::open_beneath`], name by name.
    fn open_by_component(&self, name: impl Arg) -> Result<OwnedFd, Errno> {
        let path = name.as_cow_c_str()?;
        let mut open: Option<OwnedFd> = None;
        for name in path.to_bytes().split(|&byte| byte == b'/') {
            if name.is_empty() || name == b".." {
                return Err(Errno::INVAL);
            }
            let base = open.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            open = Some(rustix::fs::openat(base, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?);
        }
        open.ok_or(Errno::INVAL)
    }
}

/// One open directory.
#[derive(Debug)]
pub(super) struct Dir<'a> {
    root: &'a RootDir,
    path: TreePath,
    fd: OwnedFd,
    private: OnceLock<bool>,
}

impl Dir<'_> {
    /// lstat of a name. `None` when there is nothing.
    pub(super) fn stat(&self, name: &[u8]) -> Result<Option<Stat>, Errno> {
        stat_of_name(&self.fd, name)
    }

    /// Where a symbolic link points.
    pub(super) fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// Opens a name for reading, no link, without waiting for a fifo's writer.
    pub(super) fn open_file(&self, name: &[u8]) -> Result<File, Errno> {
        rustix::fs::openat(&self.fd, name, FOR_READING, Mode::empty()).map(File::from)
    }

    /// As [`Dir::open_file`], and nothing that is mounted over the file. It fails where the system does not know the call.
    pub(super) fn open_own_file(&self, name: &[u8]) -> Result<File, Errno> {
        rustix::fs::openat2(&self.fd, name, FOR_READING, Mode::empty(), ResolveFlags::NO_XDEV).map(File::from)
    }

    /// Returns the directory's own metadata.
    pub(super) fn own_stat(&self) -> Result<Stat, Errno> {
        stat_of(&self.fd)
    }

    /// Whether nobody but root and the agent's own user can change entries here, or in any directory up to the root. Any doubt
    /// is a no. A sticky directory that others can write to does not count as private.
    pub(super) fn is_private(&self) -> bool {
        *self.private.get_or_init(|| self.find_private().unwrap_or(false))
    }

    fn find_private(&self) -> Result<bool, Errno> {
        let mut private = is_private(&stat_of(&self.fd)?);
        let mut next = self.path.parent();
        while let Some(path) = next.filter(|_| private) {
            private = is_private(&stat_of(self.root.open_dir(&path)?)?);
            next = path.parent();
        }
        Ok(private)
    }
}

/// Whether root or the agent's own user owns it and nobody else can write. An access control list that lets others write shows
/// in the group bits.
pub(super) fn is_private(stat: &Stat) -> bool {
    (stat.uid == 0 || stat.uid == rustix::process::geteuid().as_raw()) && stat.mode & 0o022 == 0 && stat.kind() != FileKind::Link
}

/// lstat of a name in a directory. `None` when there is nothing.
pub(super) fn stat_of_name(dir: impl AsFd, name: impl Arg) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(to_stat(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// fstat.
pub(super) fn stat_of(fd: impl AsFd) -> Result<Stat, Errno> {
    rustix::fs::fstat(fd).map(|stat| to_stat(&stat))
}

#[allow(clippy::useless_conversion, reason = "the width of some fields differs between architectures")]
fn to_stat(stat: &rustix::fs::Stat) -> Stat {
    let time = |seconds, nanos: u64| Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    Stat {
        dev: stat.st_dev.into(),
        ino: stat.st_ino.into(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: time(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
        ctime: time(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: stat.st_nlink.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_open_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        std::fs::write(dir.path().join("real/file"), "").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        let found = |opened: Result<OwnedFd, Errno>| opened.map(|fd| rustix::fs::fstat(fd).unwrap().st_ino);
        for path in [".", "real", "real/sub"] {
            let expected = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(dir.path().join(path)).unwrap());
            assert_eq!(
                (found(root.open_beneath(path)), found(root.open_by_component(path))),
                (Ok(expected), Ok(expected)),
                "{path}"
            );
        }
        for (path, errno) in [("none", Errno::NOENT), ("real/file", Errno::NOTDIR), ("real/file/x", Errno::NOTDIR)] {
            assert_eq!((found(root.open_beneath(path)), found(root.open_by_component(path))), (Err(errno), Err(errno)), "{path}");
        }
        // A link is refused by either, in other words.
        for path in ["link", "link/sub"] {
            assert_eq!(found(root.open_beneath(path)), Err(Errno::LOOP), "{path}");
            assert_eq!(found(root.open_by_component(path)), Err(Errno::NOTDIR), "{path}");
        }
        for path in ["..", "real/../real"] {
            assert!(root.open_by_component(path).is_err(), "{path}");
        }
    }
}
