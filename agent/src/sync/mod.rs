//! Between knowing what is missing and having it: counted calls, and the all-or-nothing fetch.

mod fetch;
mod wire;
mod write;

pub(crate) use fetch::{FetchRequest, Fetched, fetch};
pub(crate) use wire::Counted;
