//! Every read and write below the managed root, by descriptor and without following a symbolic link.

mod attributes;
mod error;
mod root;
mod stage;
mod stat;

pub use attributes::Attributes;
pub use error::{FsError, FsErrorKind};
pub use root::{DirEntry, Root};
pub use stage::{ContentSource, Stage, StageJournal, Written};
pub use stat::{FileKind, Stat, Time};

/// Temporary.
pub fn write_state(path: &std::path::Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    todo!("{path:?}{bytes:?}{mode}")
}
/// Temporary.
pub fn ensure_private_dir(path: &std::path::Path) -> Result<(), FsError> {
    todo!("{path:?}")
}
