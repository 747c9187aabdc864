//! The local content-addressed store: fetched contents on their way, and backups of what was replaced.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;

use crate::fs::FsError;

/// Contents by digest in one directory (`<dir>/blobs/<2 hex>/<62 hex>`, mode 0600 in 0700), partial fetches in
/// `<dir>/incoming/<hex>.partial`. Blocking. Cheap to clone; safe for use by several threads.
#[derive(Debug, Clone)]
pub struct Store {
    _dir: PathBuf,
}

/// A content on its way in, written as it arrives and verified at the end.
#[derive(Debug)]
pub struct Incoming {}

impl Store {
    /// Opens or creates the store.
    pub fn ensure(dir: &Path) -> Result<Self, FsError> {
        todo!("{dir:?}")
    }
    /// Whether the content is there; verified by reading it (a damaged one is moved aside and counts as absent).
    pub fn has_verified(&self, digest: &Digest) -> Result<bool, FsError> {
        todo!("{digest:?}")
    }
    /// Whether a file of that name is there; not verified.
    pub fn has(&self, digest: &Digest) -> bool {
        todo!("{digest:?}")
    }
    /// Opens a content for reading; not verified: the reader hashes it.
    pub fn open(&self, digest: &Digest) -> Result<Option<std::fs::File>, FsError> {
        todo!("{digest:?}")
    }
    /// Reads a whole content, at most `limit` bytes, verified.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, FsError> {
        todo!("{digest:?}{limit}")
    }
    /// Where the content lies on disk.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        todo!("{digest:?}")
    }
    /// Copies an open file in and returns its digest (BLAKE3, hashed while copied); success when it is there already.
    pub fn put_file(&self, source: &std::fs::File) -> Result<(Digest, u64), FsError> {
        todo!("{source:?}")
    }
    /// Puts bytes.
    pub fn put_bytes(&self, content: &[u8]) -> Result<Digest, FsError> {
        todo!("{content:?}")
    }
    /// Bytes of a partial fetch that can be resumed; 0 for none.
    pub fn partial_len(&self, digest: &Digest) -> u64 {
        todo!("{digest:?}")
    }
    /// Starts or resumes receiving a content of `size` bytes at `offset` (which must be 0 or `partial_len`).
    pub fn receive(&self, digest: Digest, size: u64, offset: u64) -> Result<Incoming, FsError> {
        todo!("{digest:?}{size}{offset}")
    }
    /// Makes everything put or received so far durable (one syncfs, or fsync each when few).
    pub fn sync(&self) -> Result<(), FsError> {
        todo!()
    }
    /// Removes a content.
    pub fn remove(&self, digest: &Digest) -> Result<(), FsError> {
        todo!("{digest:?}")
    }
    /// Removes every content that `keep` does not want, and partial fetches older than a day; returns count and bytes.
    pub fn retain(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<(u64, u64), FsError> {
        todo!("{}", keep(&Digest::of(b"")))
    }
}

impl Incoming {
    /// Adds bytes; refuses more than the declared size.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        todo!("{bytes:?}")
    }
    /// Verifies and moves the content in; on mismatch removes the partial file and says so (`FsErrorKind::DigestMismatch`).
    pub fn finish(self) -> Result<(), FsError> {
        todo!()
    }
    // Dropping it keeps the partial file for resumption.
}
