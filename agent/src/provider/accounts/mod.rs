//! Users and groups as the files of the managed root have them, and the commands that change them.

mod files;
mod tools;

pub(super) use files::{AccountFiles, Group, Shadow, User};
pub(super) use tools::{Tool, Tools, is_valid_name};
