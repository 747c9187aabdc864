//! File system errors that name the path, what was attempted and what to do.

use std::io;
use std::path::PathBuf;

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
