//! Owner and mode to be set.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, chownat, fchmod, fchown, fstat, fsync, openat, syncfs};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::resolve::{open_directory, open_parent};
use super::{FileKind, FsError, FsErrorKind, Root, Stat};

/// Owner and permissions; `None` leaves what is there, or what a new object gets by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions within `0o7777`.
    pub mode: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

impl Attributes {
    pub(super) fn owner(&self) -> Option<(Option<Uid>, Option<Gid>)> {
        let is_any = self.uid.is_some() || self.gid.is_some();
        is_any.then(|| (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw)))
    }
}

/// Sets owner, then mode (a change of owner clears setuid), through a descriptor.
pub(super) fn apply(fd: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    if let Some((uid, gid)) = attributes.owner() {
        fchown(fd, uid, gid)?;
    }
    if let Some(mode) = attributes.mode {
        fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

impl Root {
    /// Sets owner, then mode, of what is there; of a link only the owner. Durable. A file with several names in a directory
    /// that somebody else can write to is refused: the other name may be a file of ours that was linked there as a trap.
    ///
    /// # Errors
    ///
    /// When it is not there, or may not be changed.
    pub fn set_attributes(&self, path: &TreePath, attributes: Attributes) -> Result<(), FsError> {
        let fail = |error| self.error(path, "set owner and mode of", error);
        if path.is_root() {
            let set = |fd: OwnedFd| apply(fd.as_fd(), attributes).and_then(|()| Ok(fsync(&fd)?));
            return open_directory(self.fd(), path).and_then(set).map_err(fail);
        }
        let object = Object::open(self, path).map_err(fail)?;
        if object.may_be_trap().map_err(fail)? {
            let error = fail(io::Error::other("others can put what they like at this path"));
            let hint = "make its directory writable by its owner alone, or replace the file";
            return Err(error.with_kind(FsErrorKind::Denied, Some(hint)));
        }
        object.set(attributes).and_then(|()| object.sync()).map_err(fail)
    }
}

/// What is at a path, held without being opened: that needs no permission, waits for no fifo and wakes no device.
struct Object<'a> {
    parent: OwnedFd,
    name: &'a [u8],
    handle: OwnedFd,
    stat: Stat,
}

impl<'a> Object<'a> {
    fn open(root: &Root, path: &'a TreePath) -> io::Result<Self> {
        let (parent, name) = open_parent(root.fd(), path)?;
        let handle = openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = Stat::from_raw(&fstat(&handle)?);
        Ok(Self { parent, name, handle, stat })
    }

    /// Whether somebody else could have linked another's file here.
    fn may_be_trap(&self) -> io::Result<bool> {
        if self.stat.kind() != FileKind::File || self.stat.nlink < 2 {
            return Ok(false);
        }
        let parent = Stat::from_raw(&fstat(&self.parent)?);
        let is_ours = parent.uid == 0 || parent.uid == rustix::process::geteuid().as_raw();
        // Group or others may write.
        Ok(!is_ours || parent.mode & 0o022 != 0)
    }

    fn set(&self, attributes: Attributes) -> io::Result<()> {
        if let Some((uid, gid)) = attributes.owner() {
            chownat(&self.handle, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        let Some(mode) = attributes.mode.filter(|_| self.stat.kind() != FileKind::Link) else { return Ok(()) };
        let mode = Mode::from_raw_mode(mode);
        // A descriptor that is not open for reading can be changed only through its name in /proc.
        match chmodat(CWD, format!("/proc/self/fd/{}", self.handle.as_raw_fd()), mode, AtFlags::empty()) {
            // There is no /proc, as in an image that is being built.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(fchmod(self.readable()?, mode)?),
            other => Ok(other?),
        }
    }

    /// Opens the very same object for reading.
    fn readable(&self) -> io::Result<OwnedFd> {
        if !matches!(self.stat.kind(), FileKind::File | FileKind::Directory) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(&self.parent, self.name, flags, Mode::empty())?;
        let found = Stat::from_raw(&fstat(&fd)?);
        if (found.dev, found.ino) != (self.stat.dev, self.stat.ino) {
            return Err(io::Error::other("it was replaced meanwhile"));
        }
        Ok(fd)
    }

    /// Makes the change durable; what cannot be opened, as a link or an unreadable file, is synced with its file system.
    fn sync(&self) -> io::Result<()> {
        match self.readable() {
            Ok(fd) => Ok(fsync(fd)?),
            Err(_) => Ok(syncfs(&self.parent)?),
        }
    }
}
