//! Contents: a row for each, and its bytes in rows of at most [`CHUNK_BYTES`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use direct_puppet_transport::protocol::{Algorithm, Digest};
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::{Failure, PostgresStore};
use crate::store::{Blob, BlobStore, SMALL_BYTES, StoreError};

/// Bytes in a row: far below PostgreSQL's limit of 1 GiB, large enough that a row costs little.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Contents that are asked for at once,
const GROUP_ITEMS: usize = 256;
/// and their bytes.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;

/// Contents that are named in one statement.
const NAMED_AT_ONCE: usize = 10_000;

/// The key of a content: a byte for the algorithm, and the digest.
fn key(digest: &Digest) -> Vec<u8> {
    let algorithm = match digest.algorithm() {
        Algorithm::Blake3 => 0,
        _ => 1,
    };
    [&[algorithm], digest.bytes().as_slice()].concat()
}

fn digest_of(key: &[u8]) -> Option<Digest> {
    let (&algorithm, bytes) = key.split_first()?;
    let algorithm = if algorithm == 0 { Algorithm::Blake3 } else { Algorithm::Sha256 };
    Some(Digest::new(algorithm, bytes.try_into().ok()?))
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[async_trait]
impl BlobStore for PostgresStore {
    async fn missing(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        let mut missing: HashSet<Digest> = digests.iter().copied().collect();
        // In one order, so that two who touch the same rows do not wait for each other in a ring.
        let mut keys: Vec<Vec<u8>> = missing.iter().map(key).collect();
        keys.sort();
        for keys in keys.chunks(NAMED_AT_ONCE) {
            let found = self
                .with("look for contents", |connection| async move {
                    let text = "WITH found AS (SELECT digest FROM direct_puppet.blob WHERE digest = ANY($1) ORDER BY digest FOR UPDATE)
                        UPDATE direct_puppet.blob SET touched = now() FROM found WHERE blob.digest = found.digest RETURNING blob.digest";
                    let statement = connection.prepare_cached(text).await?;
                    let rows = connection.query(&statement, &[&keys]).await?;
                    Ok(rows.iter().filter_map(|row| digest_of(row.get(0))).collect::<Vec<_>>())
                })
                .await?;
            for digest in found {
                missing.remove(&digest);
            }
        }
        Ok(missing)
    }

    async fn put_small(&self, mut contents: Vec<(Digest, Bytes)>) -> Result<(), StoreError> {
        contents.sort_by_key(|(digest, _)| key(digest));
        contents.dedup_by_key(|(digest, _)| *digest);
        self.with("take contents", |mut connection| async move {
            let keys: Vec<Vec<u8>> = contents.iter().map(|(digest, _)| key(digest)).collect();
            let sizes: Vec<i64> = contents.iter().map(|(_, content)| length(content.len())).collect();
            let data: Vec<&[u8]> = contents.iter().map(|(_, content)| content.as_ref()).collect();
            let transaction = connection.transaction().await?;
            // A row that was inserted, not updated, has no `xmax`.
            let text = "INSERT INTO direct_puppet.blob (digest, size) SELECT * FROM unnest($1::bytea[], $2::bigint[])
                ON CONFLICT (digest) DO UPDATE SET touched = now() RETURNING digest, xmax = 0";
            let statement = transaction.prepare_cached(text).await?;
            let rows = transaction.query(&statement, &[&keys, &sizes]).await?;
            let new: HashSet<Vec<u8>> = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
            let (keys, data): (Vec<Vec<u8>>, Vec<&[u8]>) =
                keys.into_iter().zip(data).filter(|(key, _)| new.contains(key)).unzip();
            if !keys.is_empty() {
                let text = "INSERT INTO direct_puppet.chunk (digest, number, data)
                    SELECT digest, 0, data FROM unnest($1::bytea[], $2::bytea[]) AS new (digest, data)";
                let statement = transaction.prepare_cached(text).await?;
                transaction.execute(&statement, &[&keys, &data]).await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    async fn put(&self, mut blob: Blob) -> Result<(), StoreError> {
        let act = "take a content";
        let fail = |error: Failure| self.failed(act, error);
        let mut connection = self.connection().await.map_err(fail)?;
        // Dropped without a commit, nothing of it stays.
        let transaction = connection.transaction().await.map_err(|error| fail(error.into()))?;
        let key = key(&blob.digest);
        let size = i64::try_from(blob.size).map_err(|error| fail(error.into()))?;
        let text = "INSERT INTO direct_puppet.blob (digest, size) VALUES ($1, $2)
            ON CONFLICT (digest) DO UPDATE SET touched = now() RETURNING xmax = 0";
        let is_new: bool = transaction.query_one(text, &[&key, &size]).await.map_err(|error| fail(error.into()))?.get(0);
        if !is_new {
            return transaction.commit().await.map_err(|error| fail(error.into()));
        }
        let text = "INSERT INTO direct_puppet.chunk (digest, number, data) VALUES ($1, $2, $3)";
        let statement = transaction.prepare_cached(text).await.map_err(|error| fail(error.into()))?;
        let (mut held, mut number, mut total) = (BytesMut::new(), 0_i32, 0_u64);
        loop {
            let chunk = blob.body.next().await.transpose().map_err(|error| fail(error.into()))?;
            let is_end = chunk.is_none();
            if let Some(chunk) = chunk {
                total += chunk.len() as u64;
                held.extend_from_slice(&chunk);
            }
            while held.len() >= CHUNK_BYTES || (is_end && !held.is_empty()) {
                let row = held.split_to(held.len().min(CHUNK_BYTES));
                let write = async { transaction.execute(&statement, &[&key, &number, &row.as_ref()]).await };
                let written = tokio::time::timeout(super::STATEMENT_TIMEOUT, write).await.map_err(|error| fail(error.into()))?;
                written.map_err(|error| fail(error.into()))?;
                number += 1;
            }
            if is_end {
                break;
            }
        }
        if total != blob.size {
            return Err(fail(format!("{total} bytes of {} came to {}", blob.size, blob.digest).into()));
        }
        transaction.commit().await.map_err(|error| fail(error.into()))
    }

    fn get(&self, digests: Vec<Digest>) -> FetchItems {
        let state = (self.clone(), VecDeque::from(digests));
        let groups = futures::stream::try_unfold(state, |(store, mut left)| async move {
            if left.is_empty() {
                return Ok::<_, io::Error>(None);
            }
            let group = store.group(&mut left).await.map_err(|error| io::Error::other(crate::error::chain(&error)))?;
            Ok(Some((group, (store, left))))
        });
        let items = |group: io::Result<Vec<FetchItem>>| match group {
            Ok(items) => futures::stream::iter(items.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        };
        groups.flat_map(items).boxed()
    }

    async fn all(&self) -> Result<HashSet<Digest>, StoreError> {
        self.with("list its contents", |connection| async move {
            let rows = connection.query("SELECT digest FROM direct_puppet.blob", &[]).await?;
            Ok(rows.iter().filter_map(|row| digest_of(row.get(0))).collect())
        })
        .await
    }

    async fn remove(&self, digests: &[Digest], age: Duration) -> Result<u64, StoreError> {
        let mut keys: Vec<Vec<u8>> = digests.iter().map(key).collect();
        keys.sort();
        let mut removed = 0;
        for keys in keys.chunks(NAMED_AT_ONCE) {
            removed += self
                .with("remove contents", |connection| async move {
                    let text = "DELETE FROM direct_puppet.blob WHERE digest IN (SELECT digest FROM direct_puppet.blob
                        WHERE digest = ANY($1) AND touched <= now() - make_interval(secs => $2) ORDER BY digest FOR UPDATE SKIP LOCKED)";
                    Ok(connection.execute(text, &[&keys, &age.as_secs_f64()]).await?)
                })
                .await?;
        }
        Ok(removed)
    }
}

impl PostgresStore {
    /// Reads the next contents: several small ones, or the beginning of a large one.
    async fn group(&self, left: &mut VecDeque<Digest>) -> Result<Vec<FetchItem>, StoreError> {
        let asked: Vec<Digest> = left.iter().copied().take(GROUP_ITEMS).collect();
        let keys: Vec<Vec<u8>> = asked.iter().map(key).collect();
        let sizes: HashMap<Vec<u8>, i64> = self
            .with("look for contents", |connection| async move {
                let text = "SELECT digest, size FROM direct_puppet.blob WHERE digest = ANY($1)";
                let statement = connection.prepare_cached(text).await?;
                let rows = connection.query(&statement, &[&keys]).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
            })
            .await?;
        let (mut items, mut small, mut bytes) = (Vec::new(), Vec::new(), 0);
        for digest in asked {
            let Some(size) = sizes.get(&key(&digest)).map(|size| size.cast_unsigned()) else {
                left.pop_front();
                items.push(FetchItem::Missing(digest));
                continue;
            };
            if size > SMALL_BYTES {
                left.pop_front();
                items.push(FetchItem::Content(Content { digest, size, offset: 0, body: self.large(digest, size) }));
                continue;
            }
            if bytes + size > GROUP_BYTES && !small.is_empty() {
                break;
            }
            left.pop_front();
            bytes += size;
            small.push((digest, size));
        }
        let keys: Vec<Vec<u8>> = small.iter().map(|(digest, _)| key(digest)).collect();
        let mut data: HashMap<Vec<u8>, Bytes> = self
            .with("read contents", |connection| async move {
                let text = "SELECT digest, data FROM direct_puppet.chunk WHERE digest = ANY($1) AND number = 0";
                let statement = connection.prepare_cached(text).await?;
                let rows = connection.query(&statement, &[&keys]).await?;
                Ok(rows.iter().map(|row| (row.get(0), Bytes::copy_from_slice(row.get(1)))).collect())
            })
            .await?;
        for (digest, size) in small {
            // An empty content has no row of bytes. One that has lost its bytes is damaged, not missing: it could not be put again while
            // the store believes that it is there.
            let body = futures::stream::iter([Ok(data.remove(&key(&digest)).unwrap_or_default())]).boxed();
            items.push(FetchItem::Content(Content { digest, size, offset: 0, body }));
        }
        Ok(items)
    }

    /// Streams a large content, a row at a time.
    fn large(&self, digest: Digest, size: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let state = (self.clone(), 0_i32, 0_u64);
        futures::stream::try_unfold(state, move |(store, number, done)| async move {
            if done >= size {
                return Ok(None);
            }
            let row = store.with("read a content", |connection| async move {
                let text = "SELECT data FROM direct_puppet.chunk WHERE digest = $1 AND number = $2";
                let statement = connection.prepare_cached(text).await?;
                let row = connection.query_opt(&statement, &[&key(&digest), &number]).await?;
                Ok(row.map(|row| Bytes::copy_from_slice(row.get(0))))
            });
            let row = row.await.map_err(|error| io::Error::other(crate::error::chain(&error)))?;
            // Where a part is gone the content ends: it is damaged, as whoever proves it finds.
            let Some(row) = row.filter(|row| !row.is_empty()) else { return Ok(None) };
            let done = done + row.len() as u64;
            Ok(Some((row, (store, number + 1, done))))
        })
        .boxed()
    }
}
