//! The local content-addressed store: contents on their way in, backups of what was replaced, pieces that files are
//! put together from, and the server's blobs.
//!
//! ```text
//! <dir>/blobs/<2 hex>/<62 hex>        BLAKE3 contents, mode 0600 in 0700
//!      /sha256/<2 hex>/<62 hex>       SHA-256 contents
//!      /incoming/<hex>.partial        a fetch that is under way or broke off
//!      /incoming/<32 hex>.put         a content being copied in; removed when the store is opened
//!      /taken/<digest>                a content that is about to be renamed into place; put back when the store is opened
//!      /packs/<32 hex>.pack           many small BLAKE3 contents in one file, where a whole tree was put
//!      /damaged/<hex>                 contents that were found not to match their name
//! ```
//!
//! A content is written under a name in `incoming` and renamed under its digest when it is complete, so what lies under a
//! digest is whole as long as the disk is; readers verify all the same. All of it blocks.

mod durable;
mod incoming;
mod packs;
mod put;
mod stored;
mod taken;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use direct_puppet_transport::protocol::{Algorithm, Digest};
use rustix::fs::{Access, AtFlags, FlockOperation, flock};

use self::durable::Unsynced;
use self::packs::Packs;
use crate::fs::{FsError, FsErrorKind, ensure_private_dir};

pub use incoming::Incoming;
pub use packs::Batch;
pub use stored::Stored;
pub use taken::Taken;

/// Bytes read at a time.
const READ_BYTES: usize = 256 * 1024;

/// Directories of contents, by algorithm.
const AREAS: [(&str, Algorithm); 2] = [("blobs", Algorithm::Blake3), ("sha256", Algorithm::Sha256)];

/// How long a partial fetch waits to be resumed.
const MAX_PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// Contents by digest in one directory. Cheap to clone; safe for use by several threads.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<PathBuf>,
    /// The store's directory, open since before anything was put: a failed write-back is then reported by `syncfs`, however many
    /// others have called it since.
    opened: Arc<File>,
    unsynced: Arc<Mutex<Unsynced>>,
    packs: Packs,
}

/// A content that was put into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether the store did not have it before, or had it damaged.
    pub is_new: bool,
}

impl Store {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    ///
    /// When its directory cannot be made or belongs to somebody else.
    pub fn ensure(dir: &Path) -> Result<Self, FsError> {
        ensure_private_dir(dir)?;
        ensure_private_dir(&dir.join("blobs"))?;
        ensure_private_dir(&dir.join("incoming"))?;
        let opened = File::open(dir).map_err(|error| FsError::new(dir, "open the store", error))?;
        let (dir, opened) = (Arc::new(dir.to_owned()), Arc::new(opened));
        let store = Self { dir, opened, unsynced: Arc::default(), packs: Packs::default() };
        store.open_packs()?;
        Ok(store)
    }

    /// Returns a store that is not made and has nothing, for who only looks at the machine. `open` is a directory that is there.
    ///
    /// # Errors
    ///
    /// When that directory cannot be opened.
    pub(crate) fn nowhere(dir: &Path, open: &Path) -> Result<Self, FsError> {
        let opened = File::open(open).map_err(|error| FsError::new(open, "open the directory", error))?;
        let (dir, opened) = (Arc::new(dir.to_owned()), Arc::new(opened));
        Ok(Self { dir, opened, unsynced: Arc::default(), packs: Packs::default() })
    }

    /// Removes copies that a crash cut off, and puts back what was being taken out; returns how many copies there were. Only for
    /// the one process that owns the store, before it uses it.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub fn remove_leftovers(&self) -> Result<u64, FsError> {
        self.put_back_taken()?;
        let mut removed = 0;
        for path in list(&self.dir.join("incoming"))? {
            if path.extension().is_some_and(|extension| extension == "put") {
                std::fs::remove_file(&path).map_err(|error| FsError::new(&path, "remove an unfinished copy", error))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes what processes have left that were cut off, and did not write for so long; returns how many copies there were. For who does not
    /// own the store alone.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub fn remove_abandoned(&self, age: Duration) -> Result<u64, FsError> {
        let mut removed = 0;
        for path in list(&self.dir.join("incoming"))? {
            let Ok(file) = File::open(&path) else { continue };
            // Who goes on with it holds a lock.
            let is_left = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            let written = file.metadata().and_then(|found| found.modified());
            let is_old = |time: SystemTime| SystemTime::now().duration_since(time).is_ok_and(|since| since >= age);
            if is_left && written.is_ok_and(is_old) && std::fs::remove_file(&path).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Returns whether the content is there, verified by reading it; a damaged one is moved aside and counts as absent.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn has_verified(&self, digest: &Digest) -> Result<bool, FsError> {
        if let Some(found) = self.find_packed(digest)? {
            if digest.verifies(&found.read()?) {
                return Ok(true);
            }
            found.move_aside(&self.dir.join("damaged"))?;
        }
        let Some(file) = self.open(digest)? else { return Ok(false) };
        let path = self.path_of(digest);
        let (found, _) = hash(file, digest.algorithm()).map_err(|error| FsError::new(&path, "verify the content", error))?;
        if found == *digest {
            return Ok(true);
        }
        self.move_aside(digest)?;
        Ok(false)
    }

    /// As [`Store::has_verified`]; and the next [`Store::sync`] makes it durable, for a process that put it may not have lived to do so.
    ///
    /// # Errors
    ///
    /// As [`Store::has_verified`].
    pub fn keep(&self, digest: &Digest) -> Result<bool, FsError> {
        let is_there = self.has_verified(digest)?;
        if is_there {
            let packed = self.find_packed(digest)?;
            self.note(packed.map_or_else(|| self.path_of(digest), |found| found.path().to_owned()));
        }
        Ok(is_there)
    }

    /// Returns whether a content of that name is there; not verified.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.has_packed(digest) || self.has_file(digest)
    }

    /// Returns whether a content has a file of its own.
    fn has_file(&self, digest: &Digest) -> bool {
        // Asked once for every file of a tree: from the store's own descriptor, with one allocation.
        rustix::fs::accessat(&*self.opened, name_of(digest), Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Opens the file of a content that has one of its own, for reading; not verified: the reader hashes it. Where whole trees are put,
    /// [`Store::content`] is for all.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be opened.
    pub fn open(&self, digest: &Digest) -> Result<Option<File>, FsError> {
        let path = self.path_of(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FsError::new(&path, "open the content", error)),
        }
    }

    /// Reads a whole content of at most `limit` bytes, verified.
    ///
    /// # Errors
    ///
    /// When it is longer, damaged, or cannot be read.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, FsError> {
        let Some(stored) = self.content(digest)? else { return Ok(None) };
        let path = self.path_of(digest);
        let fail = |error| FsError::new(&path, "read the content", error);
        let mut content = Vec::new();
        stored.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(fail)?;
        if content.len() as u64 > limit {
            return Err(fail(io::Error::other(format!("it is longer than {limit} bytes"))));
        }
        if !digest.verifies(&content) {
            match self.find_packed(digest)? {
                Some(found) => found.move_aside(&self.dir.join("damaged"))?,
                None => self.move_aside(digest)?,
            }
            let error = fail(io::Error::other("it does not match its digest and was moved aside"));
            return Err(error.with_kind(FsErrorKind::DigestMismatch, Some("it will be fetched or published anew")));
        }
        Ok(Some(content.into()))
    }

    /// Returns where the content lies on disk, or would lie, if it is in no pack.
    #[must_use]
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.dir.join(name_of(digest))
    }

    /// Removes a content; that it is gone already is success.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<(), FsError> {
        self.lose_packed(digest)?;
        remove_if_there(&self.path_of(digest))
    }

    /// Removes a content, and what a fetch that broke off has left of it; that there is nothing is success.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub fn discard(&self, digest: &Digest) -> Result<(), FsError> {
        self.remove(digest)?;
        remove_if_there(&self.partial_path(digest))
    }

    /// Returns how many bytes the store's file system still takes from this process.
    ///
    /// # Errors
    ///
    /// When the file system does not say.
    pub fn free_bytes(&self) -> Result<u64, FsError> {
        let found = rustix::fs::fstatvfs(&*self.opened);
        let found = found.map_err(|error| FsError::new(&self.dir, "look for free space in", error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Returns every content that is there; not verified.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub fn digests(&self) -> Result<Vec<Digest>, FsError> {
        let mut digests = Vec::new();
        for (area, algorithm) in AREAS {
            for directory in list(&self.dir.join(area))? {
                digests.extend(list(&directory)?.iter().filter_map(|path| digest_of_path(path, algorithm)));
            }
        }
        digests.extend(self.packed_digests()?);
        Ok(digests)
    }

    /// Removes every content that `keep` does not want, and partial fetches and damaged contents older than a day; returns count and bytes.
    /// What shares a pack with more that is wanted stays.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed or something cannot be removed.
    pub fn retain(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<(u64, u64), FsError> {
        let (mut count, mut bytes) = self.remove_unwanted_packs(keep)?;
        for (area, algorithm) in AREAS {
            for directory in list(&self.dir.join(area))? {
                for path in list(&directory)? {
                    if digest_of_path(&path, algorithm).is_some_and(|digest| keep(&digest)) {
                        continue;
                    }
                    count += 1;
                    bytes += std::fs::metadata(&path).map_or(0, |found| found.len());
                    remove_if_there(&path)?;
                }
            }
        }
        for area in ["incoming", "damaged"] {
            for path in list(&self.dir.join(area))? {
                let modified = std::fs::metadata(&path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                if modified.elapsed().is_ok_and(|age| age > MAX_PARTIAL_AGE) {
                    remove_if_there(&path)?;
                }
            }
        }
        // Last, for it needs room.
        let (rewritten, freed) = self.rewrite_packs(keep, &self.dir.join("damaged"))?;
        Ok((count + rewritten, bytes + freed))
    }

    fn move_aside(&self, digest: &Digest) -> Result<(), FsError> {
        let aside = self.dir.join("damaged");
        ensure_private_dir(&aside)?;
        let path = self.path_of(digest);
        tracing::warn!(path = %path.display(), "content does not match its digest and is moved aside");
        std::fs::rename(&path, aside.join(digest.to_hex()))
            .map_err(|error| FsError::new(&path, "move aside the damaged content", error))
    }
}

fn hash(mut file: File, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut hasher = direct_puppet_transport::protocol::Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Returns where a content lies, relative to the store.
fn name_of(digest: &Digest) -> String {
    let hex = digest.to_hex();
    let area = match digest.algorithm() {
        Algorithm::Sha256 => "sha256/",
        _ => "blobs/",
    };
    [area, &hex[..2], "/", &hex[2..]].concat()
}

fn remove_if_there(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FsError::new(path, "remove", error)),
        _ => Ok(()),
    }
}

/// Lists a directory; none there, or something else that got there, is an empty one.
fn list(directory: &Path) -> Result<Vec<PathBuf>, FsError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(FsError::new(directory, "list", error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(|error| FsError::new(directory, "list", error))
}

fn digest_of_path(path: &Path, algorithm: Algorithm) -> Option<Digest> {
    let (rest, first) = (path.file_name()?.to_str()?, path.parent()?.file_name()?.to_str()?);
    format!("{}:{first}{rest}", algorithm.name()).parse().ok()
}
