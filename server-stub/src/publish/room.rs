//! Room for what is copied, looked for before it is written: a publish that does not fit takes no room from others.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use direct_puppet_agent::fs::FileKind;
use direct_puppet_agent::tree::TreeEntry;
use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher};
use rayon::prelude::*;

use super::copy::Copier;
use super::index::Recorded;
use crate::disk::{self, Space};
use crate::error::ServerError;

/// What stays free for what makes a version live: its manifest, the history, the log.
pub(crate) const STATE_BYTES: u64 = 1 << 20;

/// Files that stay free for the same.
const STATE_FILES: u64 = 64;

/// Up to this size contents share a file, in bytes.
pub(super) const SMALL_BYTES: u64 = 64 * 1024;

/// What a content takes beside its bytes where it shares a file, in bytes.
const ENTRY_BYTES: u64 = 64;

/// What copying takes; of files those of its own and their directories.
#[derive(Debug, Default, Clone, Copy)]
struct Needed {
    bytes: u64,
    files: u64,
}

impl Needed {
    fn of(size: u64) -> Self {
        if size > SMALL_BYTES {
            Self { bytes: disk::on_disk(size), files: 2 }
        } else {
            Self { bytes: size + ENTRY_BYTES, files: 0 }
        }
    }

    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files + other.files }
    }
}

/// What is free for it.
#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    files: u64,
}

impl Free {
    fn takes(self, needed: Needed) -> bool {
        needed.bytes <= self.bytes && needed.files <= self.files
    }
}

impl Copier<'_> {
    /// Refuses to copy what does not fit: by what was listed, and if that is too much, by what of it the store does not have.
    pub(super) fn refuse_without_room(&self, piece: &[TreeEntry], recorded: &[Recorded]) -> Result<(), ServerError> {
        let is_read = |entry: &TreeEntry, recorded: &Recorded| {
            !matches!(entry.stat.kind(), FileKind::Directory | FileKind::Link) && !matches!(recorded, Recorded::Proved(_))
        };
        let read: Vec<&TreeEntry> =
            piece.iter().zip(recorded).filter(|(entry, recorded)| is_read(entry, recorded)).map(|(entry, _)| entry).collect();
        let most = read.iter().map(|entry| Needed::of(entry.stat.size)).fold(Needed::default(), Needed::and);
        if most.bytes == 0 {
            return Ok(());
        }
        let path = &self.server.options.data_dir.join("store");
        let space = Space::of(path)?;
        let state = Space::of(&self.server.options.data_dir)?.free;
        if state < STATE_BYTES {
            let (path, what) = (self.server.options.data_dir.clone(), "for what makes a version live");
            return Err(ServerError::NoSpace { needed: STATE_BYTES, path, free: state, what });
        }
        let free = Free {
            bytes: space.free.saturating_sub(STATE_BYTES),
            files: space.files.map_or(u64::MAX, |files| files.free.saturating_sub(STATE_FILES)),
        };
        if free.takes(most) {
            return Ok(());
        }
        let needed = self.needed(&read, space.size.saturating_sub(space.free));
        if free.takes(needed) {
            Ok(())
        } else if needed.bytes > free.bytes {
            let what = "for code";
            Err(ServerError::NoSpace { needed: needed.bytes, path: path.clone(), free: free.bytes, what })
        } else {
            Err(ServerError::NoFiles { path: path.clone(), free: free.files })
        }
    }

    /// Reads files and says what those take that the store does not have, on whose file system so many bytes are used.
    fn needed(&self, files: &[&TreeEntry], used: u64) -> Needed {
        let seen: Mutex<HashSet<Digest>> = Mutex::default();
        let needed = |entry: &&TreeEntry| -> Needed {
            if entry.stat.size > used {
                return Needed::of(entry.stat.size);
            }
            // One that cannot be read, or not any more, is refused when it is copied.
            let Ok(mut file) = self.open(&entry.path, &OnceCell::new()) else { return Needed::default() };
            let mut hasher = Hasher::new(Algorithm::Blake3);
            let Ok(size) = std::io::copy(&mut file, &mut Hashing(&mut hasher)) else { return Needed::default() };
            let digest = hasher.finish();
            let is_counted =
                self.server.store.has(&digest) || !seen.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
            if is_counted { Needed::default() } else { Needed::of(size) }
        };
        files.par_iter().map(needed).reduce(Needed::default, Needed::and)
    }
}

/// Writes into a hasher.
struct Hashing<'a>(&'a mut Hasher);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
