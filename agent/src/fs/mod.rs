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
