//! A store that several equal servers share: contents by digest, and named pointers that are compared and swapped.
//!
//! Two traits, so that each can be somewhere else: [`BlobStore`] keeps contents, which never change, and [`PointerStore`] the few small
//! values that do. Local files and PostgreSQL implement both and pass one suite, [`conformance`]; contents alone can be in an object
//! store. What the server keeps under which name is the server's affair.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod files;
#[cfg(feature = "s3")]
mod object;
mod postgres;

use std::collections::HashSet;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::FetchItems;
use direct_puppet_transport::protocol::Digest;
use futures::stream::BoxStream;

pub use files::FileStore;
#[cfg(feature = "s3")]
pub use object::ObjectBlobs;
pub use postgres::PostgresStore;

/// Longest name of a pointer, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// Pointers below this prefix are watched: [`PointerStore::changed`] hears of them.
pub const WATCHED: &str = "live/";

/// Contents up to this many bytes may be put in groups, and are held whole in memory.
pub const SMALL_BYTES: u64 = 1024 * 1024;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It failed, or could not be reached.
    #[error("store {endpoint} could not {act}")]
    Failed {
        /// Where it is; holds no secret.
        endpoint: String,
        /// What was attempted.
        act: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It holds something that it should not.
    #[error("store {endpoint}: {reason}")]
    Unusable {
        /// Where it is; holds no secret.
        endpoint: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// A content on its way into a store. An error in its body ends the attempt, and nothing is kept.
pub struct Blob {
    /// Its digest; whoever puts it has proved that the content has it.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes, in order.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Contents by digest.
///
/// # Obligations
///
/// * What was put is there for everybody who asks after the put has returned, durable, whole or not at all.
/// * Putting what is there already is success. Different contents of one digest are never put.
/// * Readers verify what they get: a store may be damaged.
///
/// # Cancel safety
///
/// A method that is dropped may have done its work, or not; it never does a part of it for one content.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync + 'static {
    /// Returns which of `digests` are not there. Those that are there count as touched now.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    async fn missing(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError>;

    /// Puts small contents, each of at most [`SMALL_BYTES`].
    ///
    /// # Errors
    ///
    /// When the store does not take them.
    async fn put_small(&self, contents: Vec<(Digest, Bytes)>) -> Result<(), StoreError>;

    /// Puts a content of any size; no more than a few chunks are held in memory.
    ///
    /// # Errors
    ///
    /// When the store does not take it, its body breaks off, or it is not as long as announced.
    async fn put(&self, blob: Blob) -> Result<(), StoreError>;

    /// Streams contents, each once, in any order; those that are not there as missing. No more than a few chunks are held in memory.
    ///
    /// Nothing is proved: the bytes of a damaged content may be any, and fewer or more than its size.
    fn get(&self, digests: Vec<Digest>) -> FetchItems;

    /// Returns all contents that are there.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    async fn all(&self) -> Result<HashSet<Digest>, StoreError>;

    /// Removes contents that were neither put nor touched for `age`; returns how many.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked; some may be removed.
    async fn remove(&self, digests: &[Digest], age: Duration) -> Result<u64, StoreError>;
}

/// A generation of a pointer: another with every swap, and never used twice for one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

/// What a name points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Which swap set it.
    pub generation: Generation,
    /// Its value.
    pub value: Bytes,
}

/// Named values that are compared and swapped: linearizable, each by itself.
///
/// A name is segments of letters, digits, `.`, `_`, `-` and `:`, joined by `/`, at most [`MAX_NAME_BYTES`] long; no segment is `.` or `..`.
///
/// # Cancel safety
///
/// A swap that is dropped, or fails, may have been made: read to know.
#[async_trait]
pub trait PointerStore: Debug + Send + Sync + 'static {
    /// Returns where the store is, for logs and errors; holds no secret.
    fn endpoint(&self) -> &str;

    /// Reads one.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError>;

    /// Reads all whose names begin with `prefix`, by name, as they were at one moment. A prefix ends with `/`.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError>;

    /// As [`Self::list`], the names alone.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Sets a pointer to `value`, or removes it, if it is at `expected` (`None`: if it is not there); durable when this returns. Returns
    /// whether it did.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked; the swap may have been made all the same.
    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<Bytes>) -> Result<bool, StoreError>;

    /// Returns when a watched pointer may have changed since the last call returned, at the latest after `wait`. Only a hint: a change
    /// may be missed, and what has not changed may be told of.
    async fn changed(&self, wait: Duration);
}

/// Refuses what is no name of a pointer.
pub(crate) fn check_name(endpoint: &str, name: &str) -> Result<(), StoreError> {
    let is_segment = |segment: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(is_allowed)
    };
    if name.len() > MAX_NAME_BYTES || !name.split('/').all(is_segment) {
        return Err(StoreError::Unusable { endpoint: endpoint.to_owned(), reason: format!("{name:?} is no name of a pointer") });
    }
    Ok(())
}

/// Opens a store for contents only: `s3://bucket/prefix`.
///
/// # Errors
///
/// When the URL is wrong, or this program was built without it.
fn contents_at(url: &str) -> Result<Arc<dyn BlobStore>, StoreError> {
    let unusable = |reason: &str| StoreError::Unusable { endpoint: url.to_owned(), reason: reason.to_owned() };
    if !url.starts_with("s3://") {
        return Err(unusable("contents alone can be at s3://bucket/prefix"));
    }
    #[cfg(feature = "s3")]
    return Ok(Arc::new(ObjectBlobs::s3(url)?));
    #[cfg(not(feature = "s3"))]
    Err(unusable("this program was built without the feature s3"))
}

/// The two halves of a store that servers share.
#[derive(Debug, Clone)]
pub struct SharedStore {
    /// Contents.
    pub blobs: Arc<dyn BlobStore>,
    /// Pointers.
    pub pointers: Arc<dyn PointerStore>,
}

impl SharedStore {
    /// Returns this store with its contents at `url` instead: `s3://bucket/prefix`.
    ///
    /// # Errors
    ///
    /// When the URL is wrong, or this program was built without the feature `s3`.
    pub fn with_contents(self, url: &str) -> Result<Self, StoreError> {
        Ok(Self { blobs: contents_at(url)?, ..self })
    }

    /// Opens the store at `url`: `postgres://user@host/database` or `file:///directory`. A PostgreSQL server need not be there yet: it
    /// is connected to when it is first needed.
    ///
    /// # Errors
    ///
    /// When the URL is wrong, or a directory cannot be used. Blocking for a short time.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let store = Arc::new(PostgresStore::new(url)?);
            return Ok(Self { blobs: Arc::<PostgresStore>::clone(&store), pointers: store });
        }
        if let Some(path) = url.strip_prefix("file://") {
            let store = Arc::new(FileStore::open(std::path::Path::new(path))?);
            return Ok(Self { blobs: Arc::<FileStore>::clone(&store), pointers: store });
        }
        if url.starts_with("s3://") {
            let reason = "an object store keeps contents only: give it as --contents beside --store postgres://…".to_owned();
            return Err(StoreError::Unusable { endpoint: "s3".to_owned(), reason });
        }
        let scheme = url.split("://").next().unwrap_or_default();
        let reason = format!("there is no store of the kind {scheme:?}: give postgres://user@host/database or file:///directory");
        Err(StoreError::Unusable { endpoint: scheme.to_owned(), reason })
    }
}
