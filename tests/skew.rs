//! Programs of different ages together: each passes over what it does not know, and needs nothing that an older one does not say.
//!
//! Messages of other ages are made from ours (`skew/fields.rs`); beside that, programs of an earlier commit are run with ours
//! (`skew/programs.rs`), where `PREVIOUS_PROGRAMS` names a directory with them. `.ci/run` builds them from the commit in `skew/previous`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "skew/fields.rs"]
mod fields;
#[path = "skew/programs.rs"]
mod programs;
#[path = "skew/relay.rs"]
mod relay;
#[path = "skew/tree.rs"]
mod tree;
