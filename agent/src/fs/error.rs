//! File system errors that name the path, what was attempted and what to do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What a caller may want to know of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FsErrorKind {
    /// It, or a directory on the way to it, is not there.
    NotFound,
    /// A component on the way is a symbolic link or no directory.
    NotBeneath,
    /// No permission, read-only file system, immutable file.
    Denied,
    /// No space, no quota, no inodes.
    Full,
    /// Something of another kind is there, as a directory where a file should be.
    WrongKind,
    /// The content was not what its digest says.
    DigestMismatch,
    /// Anything else.
    Other,
}

/// A failed operation on one path.
#[derive(Debug, thiserror::Error)]
#[error("could not {attempt} {}{}", path.display(), hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct FsError {
    /// The path, with the managed root in front.
    pub path: PathBuf,
    /// A verb phrase, as `rename a staged file to`.
    pub attempt: &'static str,
    /// What kind of failure.
    pub kind: FsErrorKind,
    /// What to do about it, where that is known.
    pub hint: Option<&'static str>,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Returns the error of an attempt on `path`; kind and hint follow from the error of the operating system.
    #[must_use]
    pub fn new(path: &Path, attempt: &'static str, source: io::Error) -> Self {
        let (kind, hint) = classify(&source);
        Self { path: path.to_owned(), attempt, kind, hint, source }
    }

    /// Returns the same error with a kind that only the caller knows.
    #[must_use]
    pub fn with_kind(mut self, kind: FsErrorKind, hint: Option<&'static str>) -> Self {
        self.kind = kind;
        self.hint = hint;
        self
    }
}

fn classify(source: &io::Error) -> (FsErrorKind, Option<&'static str>) {
    match Errno::from_io_error(source) {
        Some(Errno::NOENT) => (FsErrorKind::NotFound, None),
        Some(Errno::LOOP | Errno::XDEV) => {
            (FsErrorKind::NotBeneath, Some("a symbolic link is on the way and none is followed: manage the real path"))
        }
        Some(Errno::NOTDIR) => (
            FsErrorKind::NotBeneath,
            Some(
                "a symbolic link, which is not followed, or something else that is no directory is on the way: manage the real path",
            ),
        ),
        Some(Errno::PERM) => {
            (FsErrorKind::Denied, Some("not permitted; if the file is immutable, remove the flag with chattr -i"))
        }
        Some(Errno::ACCESS) => (FsErrorKind::Denied, Some("permission denied: run as an owner of it, or as root")),
        Some(Errno::ROFS) => (FsErrorKind::Denied, Some("the file system is read-only: mount it writable")),
        Some(Errno::NOSPC | Errno::DQUOT) => (FsErrorKind::Full, Some("free space on its file system")),
        Some(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => (FsErrorKind::WrongKind, None),
        _ => (FsErrorKind::Other, None),
    }
}
