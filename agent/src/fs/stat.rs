//! What `lstat` says, in the parts that matter.

use serde::{Deserialize, Serialize};

/// A time of the file system: seconds and nanoseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or fifo.
    Other,
}

/// The metadata of one object, never of what a link points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of content or metadata.
    pub ctime: Time,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub nlink: u64,
}

impl Stat {
    /// Returns the parts of what the kernel says.
    #[must_use]
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "sizes are never negative, nanoseconds below 10^9"
    )]
    #[allow(clippy::unnecessary_cast, reason = "the widths differ between architectures")]
    pub fn from_raw(raw: &rustix::fs::Stat) -> Self {
        Self {
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            size: raw.st_size as u64,
            mtime: Time { seconds: raw.st_mtime as i64, nanos: raw.st_mtime_nsec as u32 },
            ctime: Time { seconds: raw.st_ctime as i64, nanos: raw.st_ctime_nsec as u32 },
            mode: raw.st_mode as u32,
            uid: raw.st_uid,
            gid: raw.st_gid,
            nlink: raw.st_nlink as u64,
        }
    }

    /// Returns the kind of object.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        // The type bits of POSIX st_mode.
        match self.mode & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Link,
            _ => FileKind::Other,
        }
    }

    /// Returns the permissions, within `0o7777`.
    #[must_use]
    pub const fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}
