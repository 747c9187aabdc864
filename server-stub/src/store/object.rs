//! Contents in an object store, as S3 and what speaks like it. Pointers are elsewhere: an object store has no swap that all of them
//! keep.
//!
//! ```text
//! <prefix>/blobs/<algorithm>/<2 hex>/<62 hex>     contents
//!         /touched/<algorithm>/<64 hex>           empty: its time is when the content was last looked for
//! ```

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};

use super::{Blob, BlobStore, SMALL_BYTES, StoreError};
use crate::error::chain;

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// Bytes of a part of a large content: S3 takes 10,000 parts, so 80 GiB.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// A content that was put or touched less than this ago is not touched again: touching costs a request that writes.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);

/// Contents in an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectBlobs {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    endpoint: Arc<str>,
    touch_after: Duration,
}

impl ObjectBlobs {
    /// Returns the store at `s3://bucket/prefix`. Region, keys and address are taken from the environment under the names that AWS's own
    /// tools use (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`).
    ///
    /// # Errors
    ///
    /// When the URL names no bucket, or the environment does not say enough.
    pub fn s3(url: &str) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unusable { endpoint: url.to_owned(), reason };
        let rest = url.strip_prefix("s3://").unwrap_or(url);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(unusable("it names no bucket: give s3://bucket/prefix".to_owned()));
        }
        // The HTTP client takes the provider of the process; whoever has set another keeps it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let objects = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(|error| unusable(chain(&error)))?;
        Ok(Self::over(Arc::new(objects), prefix, url, TOUCH_AFTER))
    }

    /// Returns the store in any object store, below `prefix`; `endpoint` is what errors call it. What was put or touched less than
    /// `touch_after` ago is not touched again.
    #[must_use]
    pub fn over(objects: Arc<dyn ObjectStore>, prefix: &str, endpoint: &str, touch_after: Duration) -> Self {
        Self { objects, prefix: Path::from(prefix), endpoint: endpoint.into(), touch_after }
    }

    fn path_of(&self, digest: &Digest) -> Path {
        let hex = digest.to_hex();
        let prefix = self.prefix.clone().join("blobs").join(digest.algorithm().name());
        prefix.join(&hex[..2]).join(&hex[2..])
    }

    fn touched_path_of(&self, digest: &Digest) -> Path {
        self.prefix.clone().join("touched").join(digest.algorithm().name()).join(digest.to_hex())
    }

    fn failed(&self, act: &'static str, error: Error) -> StoreError {
        StoreError::Failed { endpoint: self.endpoint.to_string(), act, source: error.into() }
    }

    /// Returns when an object was written; `None` when it is not there.
    async fn written(&self, path: &Path) -> Result<Option<SystemTime>, Error> {
        match self.objects.head(path).await {
            Ok(found) => Ok(Some(found.last_modified.into())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when a content was last put or touched; `None` when it is not there.
    async fn touched(&self, digest: &Digest) -> Result<Option<SystemTime>, Error> {
        let Some(put) = self.written(&self.path_of(digest)).await? else { return Ok(None) };
        if age(put) < self.touch_after {
            return Ok(Some(put));
        }
        Ok(Some(self.written(&self.touched_path_of(digest)).await?.map_or(put, |touched| touched.max(put))))
    }

    /// Returns whether a content is there, and touches it.
    async fn touch(&self, digest: &Digest) -> Result<bool, Error> {
        let Some(touched) = self.touched(digest).await? else { return Ok(false) };
        if age(touched) >= self.touch_after {
            self.objects.put(&self.touched_path_of(digest), PutPayload::new()).await?;
        }
        Ok(true)
    }

    async fn get_one(&self, digest: Digest) -> io::Result<FetchItem> {
        let found = match self.objects.get(&self.path_of(&digest)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(FetchItem::Missing(digest)),
            Err(error) => return Err(io::Error::other(chain(&self.failed("read a content", error)))),
        };
        let size = found.meta.size;
        let body = match size <= SMALL_BYTES {
            true => {
                let whole =
                    found.bytes().await.map_err(|error| io::Error::other(chain(&self.failed("read a content", error))))?;
                futures::stream::iter([Ok(whole)]).boxed()
            }
            false => found.into_stream().map_err(|error| io::Error::other(chain(&error))).boxed(),
        };
        Ok(FetchItem::Content(Content { digest, size, offset: 0, body }))
    }
}

fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

#[async_trait]
impl BlobStore for ObjectBlobs {
    async fn missing(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        let touches = digests.iter().copied().map(|digest| async move { Ok((digest, self.touch(&digest).await?)) });
        let found: Result<Vec<(Digest, bool)>, Error> =
            futures::stream::iter(touches).buffer_unordered(AT_ONCE).try_collect().await;
        let found = found.map_err(|error| self.failed("look for contents", error))?;
        Ok(found.into_iter().filter(|(_, is_there)| !is_there).map(|(digest, _)| digest).collect())
    }

    async fn put_small(&self, contents: Vec<(Digest, Bytes)>) -> Result<(), StoreError> {
        let puts = contents
            .into_iter()
            .map(|(digest, content)| async move { self.objects.put(&self.path_of(&digest), content.into()).await.map(drop) });
        let put: Result<Vec<()>, Error> = futures::stream::iter(puts).buffer_unordered(AT_ONCE).try_collect().await;
        put.map(drop).map_err(|error| self.failed("take contents", error))
    }

    async fn put(&self, mut blob: Blob) -> Result<(), StoreError> {
        let act = "take a content";
        let fail = |error| self.failed(act, error);
        let upload = self.objects.put_multipart(&self.path_of(&blob.digest)).await.map_err(fail)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut total = 0;
        let ended = loop {
            match blob.body.next().await {
                Some(Ok(chunk)) => {
                    total += chunk.len() as u64;
                    writer.put(chunk);
                    // Parts that are under way are bounded, and so is memory.
                    if let Err(error) = writer.wait_for_capacity(2).await {
                        break Err(error.into());
                    }
                }
                Some(Err(error)) => break Err(error.into()),
                None if total == blob.size => break Ok(()),
                None => break Err(format!("{total} bytes of {} came to {}", blob.size, blob.digest).into()),
            }
        };
        match ended {
            Ok(()) => writer.finish().await.map(drop).map_err(fail),
            Err(source) => {
                if let Err(error) = writer.abort().await {
                    tracing::debug!(%error, "parts of a content stay until the bucket's own rules remove them");
                }
                Err(StoreError::Failed { endpoint: self.endpoint.to_string(), act, source })
            }
        }
    }

    fn get(&self, digests: Vec<Digest>) -> FetchItems {
        let this = self.clone();
        let get = move |digest| {
            let this = this.clone();
            async move { this.get_one(digest).await }
        };
        futures::stream::iter(digests).map(get).buffer_unordered(AT_ONCE).boxed()
    }

    async fn all(&self) -> Result<HashSet<Digest>, StoreError> {
        let listed = self.objects.list(Some(&self.prefix.clone().join("blobs")));
        let digest = |path: &Path| -> Option<Digest> {
            let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
            let [.., algorithm, first, rest] = parts.as_slice() else { return None };
            format!("{algorithm}:{first}{rest}").parse().ok()
        };
        let found = listed.try_filter_map(|found| std::future::ready(Ok(digest(&found.location)))).try_collect().await;
        found.map_err(|error| self.failed("list its contents", error))
    }

    async fn remove(&self, digests: &[Digest], min_age: Duration) -> Result<u64, StoreError> {
        let removes = digests.iter().copied().map(|digest| async move {
            let put = self.written(&self.path_of(&digest)).await?;
            let touched = self.written(&self.touched_path_of(&digest)).await?;
            let Some(last) = put.map(|put| touched.map_or(put, |touched| touched.max(put))) else { return Ok(0) };
            if age(last) < min_age {
                return Ok(0);
            }
            self.objects.delete(&self.path_of(&digest)).await?;
            if touched.is_some() {
                self.objects.delete(&self.touched_path_of(&digest)).await?;
            }
            Ok(1)
        });
        let removed: Result<Vec<u64>, Error> = futures::stream::iter(removes).buffer_unordered(AT_ONCE).try_collect().await;
        removed.map(|removed| removed.iter().sum()).map_err(|error| self.failed("remove contents", error))
    }
}
