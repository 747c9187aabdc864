//! Every read and write below the managed root, by descriptor and without following a symbolic link; and the agent's own
//! files.

mod attributes;
mod content;
mod create;
mod directories;
mod error;
mod follow;
mod journal;
mod own;
mod remove;
mod resolve;
mod root;
mod stage;
mod stat;
#[cfg(test)]
mod tests;

pub use attributes::Attributes;
pub use error::{FsError, FsErrorKind};
#[cfg(feature = "providers")]
pub(crate) use follow::MAX_LINKS;
pub use follow::link_destination;
pub use journal::StageJournal;
pub use own::{ensure_private_dir, remove_unfinished, write_cache, write_state, write_state_with, write_whole_with};
pub use root::{DirEntry, Root};
pub use stage::{ContentSource, STAGED_PREFIX, Stage, Written};
pub use stat::{FileKind, Stat, Time};
