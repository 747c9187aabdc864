//! Placeholder.
pub mod listen;
