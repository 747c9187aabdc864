//! A content that is read from the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;

use super::Store;
use crate::fs::FsError;

/// A content, open for reading; not verified: the reader hashes it.
#[derive(Debug)]
pub struct Stored {
    len: u64,
    from: From,
}

#[derive(Debug)]
enum From {
    File(File),
    /// The content, and how much of it was read.
    Pack(Bytes, usize),
}

impl Stored {
    /// Returns its length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` with what lies at `offset`, in bytes; where [`Read`] stands does not change, nor matter.
    ///
    /// # Errors
    ///
    /// When there is less, or it cannot be read.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.from {
            From::File(file) => file.read_exact_at(buffer, offset),
            From::Pack(bytes, _) => {
                let begin = usize::try_from(offset).unwrap_or(usize::MAX);
                let there = begin.checked_add(buffer.len()).and_then(|end| bytes.get(begin..end));
                buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.from {
            From::File(file) => file.read(buffer),
            From::Pack(bytes, at) => {
                let count = (bytes.len() - *at).min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[*at..*at + count]);
                *at += count;
                Ok(count)
            }
        }
    }
}

impl Store {
    /// Opens a content, in a pack or in a file of its own; not verified: the reader hashes it.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn content(&self, digest: &Digest) -> Result<Option<Stored>, FsError> {
        if let Some(found) = self.find_packed(digest)? {
            let bytes = found.read()?;
            return Ok(Some(Stored { len: bytes.len() as u64, from: From::Pack(bytes, 0) }));
        }
        let Some(file) = self.open(digest)? else { return Ok(None) };
        let found = file.metadata().map_err(|error| FsError::new(&self.path_of(digest), "look at the content", error))?;
        Ok(Some(Stored { len: found.len(), from: From::File(file) }))
    }
}
