//! Listing, hashing and remembering trees: blocking code on a private rayon pool.
//!
//! [`scan()`] answers which files already have their wanted content, cheapest proof first (stat, keyed fingerprint, digest);
//! [`StatCache`] remembers what was proved; [`list_tree`] and [`hash_files_parallel`] serve whoever lists whole trees.

mod cache;
mod dir;
mod fingerprint;
mod format;
mod hash;
mod pool;
mod prove;
mod read;
mod record;
mod scan;
mod settled;
mod subtrees;
#[cfg(test)]
mod tests;
mod together;
mod walk;

pub use cache::StatCache;
pub use hash::{SMALL_FILE_BYTES, hash_file, hash_files_parallel};
pub use pool::Pool;
#[cfg(feature = "providers")]
pub(crate) use record::is_racy;
pub use scan::{ContentState, Proof, Scan, ScanCounters, ScanOptions, Scanned, WantedContent, scan, scan_below};
pub(crate) use settled::{Noted, Proofs, Settled, SettledCounts, SettledRecord, Watch, Witnesses, forget as forget_settled};
pub use settled::{Seen, Witness};
pub(crate) use together::OneRead;
pub use together::{FileReader, FileToRead, ReadTogether};
pub use walk::{Ignore, Tree, TreeEntry, UnlistedEntry, WalkError, WalkOptions, list_in_pieces, list_tree};
