//! A content on its way in over a transport.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::put::create;
use super::{READ_BYTES, Store, list, remove_if_there};
use crate::fs::{FsError, FsErrorKind};

/// How often a partial file that was finished or removed just now is looked for again.
const MAX_RACES: usize = 16;

/// A content on its way in, hashed as it is written and verified at the end. Dropping it keeps what came, for resumption.
///
/// It alone writes its file: that is locked, and another that receives the same content meanwhile has a file of its own,
/// which is not kept when dropped.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    left: u64,
    is_resumable: bool,
}

impl Store {
    /// Returns how many bytes of a fetch that broke off are there; 0 for none.
    #[must_use]
    pub fn partial_len(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.partial_path(digest)).map_or(0, |found| found.len())
    }

    /// Returns all fetches that broke off, with how many bytes of each are there.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub fn partials(&self) -> Result<BTreeMap<Digest, u64>, FsError> {
        let mut partials = BTreeMap::new();
        for path in list(&self.dir.join("incoming"))? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".partial"));
            let algorithms = [Algorithm::Blake3, Algorithm::Sha256];
            // Both have as many digits: whose it is shows when it is asked for.
            let digests = name.into_iter().flat_map(|hex| algorithms.map(|one| format!("{}:{hex}", one.name()).parse()));
            let length = std::fs::metadata(&path).map_or(0, |found| found.len());
            partials.extend(digests.flatten().map(|digest| (digest, length)));
        }
        Ok(partials)
    }

    /// Starts or resumes receiving a content of `size` bytes at `offset`, which is 0 or at most [`Store::partial_len`].
    ///
    /// # Errors
    ///
    /// When the disk does not take it, or `offset` fits neither the content nor what is there, or is not 0 while the same
    /// content is being received elsewhere.
    pub fn receive(&self, digest: Digest, size: u64, offset: u64) -> Result<Incoming, FsError> {
        let path = self.partial_path(&digest);
        let fail = |error| FsError::new(&path, "receive a content in", error);
        if offset > size || offset > self.partial_len(&digest) {
            return Err(fail(io::Error::other(format!("there is nothing to resume at byte {offset} of {size}"))));
        }
        let incoming = |path: &Path, file, hasher, is_resumable| {
            let (store, path) = (self.clone(), path.to_owned());
            Incoming { store, digest, path, file, hasher, left: size - offset, is_resumable }
        };
        if let Some(mut file) = open_locked(&path).map_err(fail)? {
            let hasher = resume(&mut file, &digest, offset).map_err(fail)?;
            return Ok(incoming(&path, file, hasher, true));
        }
        if offset > 0 {
            return Err(fail(io::Error::other("the same content is being received elsewhere")));
        }
        let own = self.temporary();
        let file = create(&own).map_err(|error| FsError::new(&own, "receive a content in", error))?;
        Ok(incoming(&own, file, digest.verifier(), false))
    }

    /// Starts receiving a content that is put together from others: nothing of it stays when it is dropped.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub(crate) fn receive_aside(&self, digest: Digest, size: u64) -> Result<Incoming, FsError> {
        let path = self.temporary();
        let file = create(&path).map_err(|error| FsError::new(&path, "receive a content in", error))?;
        Ok(Incoming { store: self.clone(), digest, path, file, hasher: digest.verifier(), left: size, is_resumable: false })
    }

    pub(super) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("incoming").join(format!("{}.partial", digest.to_hex()))
    }
}

/// Opens a partial file for nobody else; `None` when somebody has it.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..MAX_RACES {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Who had it before may have put it in its place or removed it: then this is not the file of that name any more.
        if std::fs::metadata(path).is_ok_and(|found| file.metadata().is_ok_and(|held| held.ino() == found.ino())) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Cuts a file at `offset` and hashes what is before: it has been on disk since it was written.
fn resume(file: &mut File, digest: &Digest, offset: u64) -> io::Result<Hasher> {
    file.set_len(offset)?;
    let mut hasher = digest.verifier();
    let mut buffer = vec![0; READ_BYTES];
    let mut hashed = 0;
    while hashed < offset {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..count]);
        hashed += count as u64;
    }
    Ok(hasher)
}

impl Incoming {
    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// When they are more than was announced, or the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let fail = |error| FsError::new(&self.path, "receive a content in", error);
        let left = self.left.checked_sub(bytes.len() as u64);
        let left = left.ok_or_else(|| fail(io::Error::other("more bytes came than were announced")))?;
        self.file.write_all(bytes).map_err(fail)?;
        self.hasher.update(bytes);
        self.left = left;
        Ok(())
    }

    /// Verifies the content and puts it in the store; it is durable after [`Store::sync`].
    ///
    /// # Errors
    ///
    /// [`FsErrorKind::DigestMismatch`] when the bytes have another digest; they are then removed.
    pub fn finish(self) -> Result<(), FsError> {
        let fail = |reason: String| FsError::new(&self.path, "receive a content in", io::Error::other(reason));
        if self.left > 0 {
            return Err(fail(format!("{} bytes are missing", self.left)));
        }
        let actual = self.hasher.clone().finish();
        if actual != self.digest {
            let error = fail(format!("it has digest {actual}, wanted is {}", self.digest));
            remove_if_there(&self.path)?;
            return Err(error.with_kind(FsErrorKind::DigestMismatch, Some("it was thrown away; the next run fetches it anew")));
        }
        self.store.publish(&self.path, &self.digest)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // As with the lock of runs: closing is not enough while a child is just being started.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of an unfinished content goes with its descriptor");
        }
        if !self.is_resumable
            && let Err(error) = remove_if_there(&self.path)
        {
            tracing::debug!(%error, "an unfinished content stays until the store is opened again");
        }
    }
}
