//! Listing, hashing and remembering trees: blocking code on a private rayon pool.

pub mod scan;
pub use scan::{ContentState, Scan, ScanCounters, ScanOptions, Scanned, StatCache, WantedContent};
