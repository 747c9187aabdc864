//! A content on its way in over a transport.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use direct_puppet_transport::protocol::{Digest, Hasher};

use super::{READ_BYTES, Store, remove_if_there};
use crate::fs::{FsError, FsErrorKind};

/// A content on its way in, hashed as it is written and verified at the end. Dropping it keeps what came, for resumption.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    left: u64,
}

impl Store {
    /// Returns how many bytes of a fetch that broke off are there; 0 for none.
    #[must_use]
    pub fn partial_len(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.partial_path(digest)).map_or(0, |found| found.len())
    }

    /// Starts or resumes receiving a content of `size` bytes at `offset`, which is 0 or at most [`Store::partial_len`].
    ///
    /// # Errors
    ///
    /// When the disk does not take it, or `offset` fits neither the content nor what is there.
    pub fn receive(&self, digest: Digest, size: u64, offset: u64) -> Result<Incoming, FsError> {
        let path = self.partial_path(&digest);
        let fail = |error| FsError::new(&path, "receive a content in", error);
        if offset > size || offset > self.partial_len(&digest) {
            return Err(fail(io::Error::other(format!("there is nothing to resume at byte {offset} of {size}"))));
        }
        let open = || -> io::Result<(File, Hasher)> {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.set_len(offset)?;
            let mut hasher = digest.verifier();
            // What came earlier is hashed again: it has been on disk since.
            let mut buffer = vec![0; READ_BYTES];
            let mut hashed = 0;
            while hashed < offset {
                let count = io::Read::read(&mut file, &mut buffer)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                hasher.update(&buffer[..count]);
                hashed += count as u64;
            }
            Ok((file, hasher))
        };
        let (file, hasher) = open().map_err(fail)?;
        Ok(Incoming { store: self.clone(), digest, path, file, hasher, left: size - offset })
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("incoming").join(format!("{}.partial", digest.to_hex()))
    }
}

impl Incoming {
    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// When they are more than was announced, or the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(FsError::new(
                &self.path,
                "receive a content in",
                io::Error::other("more bytes came than were announced"),
            ));
        };
        self.file.write_all(bytes).map_err(|error| FsError::new(&self.path, "receive a content in", error))?;
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
        let actual = self.hasher.finish();
        if actual != self.digest {
            let error = fail(format!("it has digest {actual}, wanted is {}", self.digest));
            remove_if_there(&self.path)?;
            return Err(error.with_kind(FsErrorKind::DigestMismatch, Some("it was thrown away; the next run fetches it anew")));
        }
        self.store.publish(&self.path, &self.digest)
    }
}
