//! The Direct Puppet agent as a library.

pub mod fs;
pub mod provider;
pub mod store;
pub mod tree;
pub mod undo;
