//! A publish: contents first, then one swap.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, EntryKind, Manifest, ManifestEntry, Rollout, SyncManifestReply, codec};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::{DeltaRecord, FORMAT, Shared, VersionRecord, names};
use crate::blocking;
use crate::code::{Code, Version, parts};
use crate::error::ServerError;
use crate::store::{Blob, Pointer, SMALL_BYTES, StoreError};

/// Bytes and contents that are put at once,
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
const GROUP_ITEMS: usize = 1000;
/// and how many such groups are under way.
const GROUPS_AT_ONCE: usize = 4;

/// How often a store that went away in the middle of a publish is asked what became of it,
const SETTLE_ATTEMPTS: usize = 3;
/// and how long to wait before it is asked again.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// How much of a large content is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A publish of which everything is in the store but the pointer to it.
#[derive(Debug)]
pub(crate) struct Prepared {
    name: String,
    /// What it takes the place of.
    before: Option<Pointer>,
    record: VersionRecord,
}

impl Shared {
    /// Puts everything that `code` needs into the store, where `base` is live there. `None` when something else is.
    pub(crate) async fn prepare(&self, base: Option<&Code>, code: &Code) -> Result<Option<Prepared>, ServerError> {
        let name = names::live(&code.version.environment);
        let found = self.store.pointers.get(&name).await?;
        let before = found.as_ref().map(|found| self.decode_version(&name, &found.value)).transpose()?;
        let is_base = |record: &VersionRecord| {
            base.is_some_and(|base| {
                base.version.version == record.version.version && base.version.code_id == record.version.code_id
            })
        };
        // What is live here and not in the store has nothing there to stand on.
        let base = match &before {
            None => None,
            Some(record) if is_base(record) => base,
            Some(_) => return Ok(None),
        };
        let none = Manifest::default();
        let changed = code.manifest.changed_since(base.map_or(&none, |base| &base.manifest));
        let contents = changed.filter_map(|entry| match entry.kind {
            EntryKind::File { digest, size } => Some((digest, size)),
            _ => None,
        });
        self.upload(contents.collect()).await?;
        let manifest = self.put_manifest(&code.manifest).await?;
        let delta = match base {
            None => None,
            Some(base) => {
                let content = codec::encode(&delta(&base.manifest, &code.manifest))?;
                Some(DeltaRecord { base: base.version.code_id, content: self.put_bytes(content.into()).await? })
            }
        };
        if let Some(before) = &before {
            // Whoever made it live may have been cut off before he wrote its record.
            self.remember(before).await?;
        }
        let record = VersionRecord { format: FORMAT, version: code.version.clone(), manifest, delta };
        Ok(Some(Prepared { name, before: found, record }))
    }

    /// Makes what was prepared live in the store, if nothing else has become so meanwhile. Returns whether it did.
    ///
    /// # Errors
    ///
    /// [`ServerError::OutcomeUnknown`] when the store went away meanwhile and does not come back soon; with any other error it is not live.
    pub(crate) async fn commit(&self, prepared: &Prepared) -> Result<bool, ServerError> {
        let Prepared { name, before, record } = prepared;
        let generation = before.as_ref().map(|before| before.generation);
        match self.store.pointers.swap(name, generation, Some(self.encode(record)?)).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => self.settle(prepared, error).await?,
        }
        if let Err(error) = self.remember(record).await {
            // It is live: whoever publishes next writes it.
            tracing::warn!("{}", crate::error::chain(&error));
        }
        Ok(true)
    }

    /// Finds out whether a swap was made that failed: its answer may have been lost. Fails when it was not made, or nobody knows.
    async fn settle(&self, prepared: &Prepared, failure: StoreError) -> Result<(), ServerError> {
        for attempt in 0..SETTLE_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
            match self.was_made(prepared).await {
                Ok(Some(true)) => return Ok(()),
                Ok(Some(false)) => return Err(failure.into()),
                // It may still be under way.
                Ok(None) => {}
                Err(error) => tracing::warn!("{}", crate::error::chain(&error)),
            }
        }
        let Version { environment, code_id, .. } = &prepared.record.version;
        Err(ServerError::OutcomeUnknown { environment: environment.clone(), code_id: *code_id, source: failure })
    }

    /// Returns whether a swap was made; `None` when it still may be.
    async fn was_made(&self, prepared: &Prepared) -> Result<Option<bool>, StoreError> {
        let Prepared { name, before, record } = prepared;
        if let Some(Pointer { generation, value }) = before
            && self.store.pointers.swap(name, Some(*generation), Some(value.clone())).await?
        {
            // What was there is there, in another generation: however late the swap arrives, it is not made any more.
            return Ok(Some(false));
        }
        let is_it = |record: &VersionRecord, found: &Pointer| {
            self.decode_version(name, &found.value).is_ok_and(|found| found.version == record.version)
        };
        let Some(live) = self.store.pointers.get(name).await? else { return Ok(None) };
        if is_it(record, &live) {
            return Ok(Some(true));
        }
        // Another came after it, or in its place. Whoever comes after a publish writes its record before his own is live.
        let version = &record.version;
        let written = self.store.pointers.get(&names::version(&version.environment, version.version)).await?;
        Ok(Some(written.is_some_and(|written| is_it(record, &written))))
    }

    /// Writes the record of a publish, if it is not there.
    async fn remember(&self, record: &VersionRecord) -> Result<(), StoreError> {
        let name = names::version(&record.version.environment, record.version.version);
        self.store.pointers.swap(&name, None, Some(self.encode(record)?)).await.map(drop)
    }

    /// Sets how new code reaches nodes, at all servers: to what `change` makes of what it is now, again when another server was faster.
    /// `None` leaves it.
    pub(crate) async fn change_rollout(
        &self,
        change: impl Fn(&Rollout) -> Result<Option<Rollout>, ServerError>,
    ) -> Result<Option<Rollout>, ServerError> {
        loop {
            let before = self.store.pointers.get(names::ROLLOUT).await?;
            let now = match &before {
                Some(pointer) => self.decode_rollout(pointer)?,
                None => Rollout::default(),
            };
            let Some(rollout) = change(&now)? else { return Ok(None) };
            let generation = before.map(|before| before.generation);
            if self.store.pointers.swap(names::ROLLOUT, generation, Some(self.encode(&rollout)?)).await? {
                return Ok(Some(rollout));
            }
        }
    }

    /// Puts a manifest: those of its parts that the store has not. Encoded twice, so that the others are never in memory together.
    async fn put_manifest(&self, manifest: &Manifest) -> Result<Digest, ServerError> {
        let mut all = Vec::new();
        let list = parts::encode(manifest, &mut |digest, _| {
            all.push(digest);
            Ok(())
        })?;
        let missing = self.store.blobs.missing(&all).await?;
        if !missing.is_empty() {
            let mut new = HashMap::new();
            parts::encode(manifest, &mut |digest, bytes| {
                if missing.contains(&digest) {
                    new.insert(digest, Bytes::from(bytes));
                }
                Ok(())
            })?;
            self.put_all(new).await?;
        }
        Ok(self.put_bytes(list.into()).await?)
    }

    /// Puts contents of any size.
    async fn put_all(&self, contents: HashMap<Digest, Bytes>) -> Result<(), StoreError> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        for (digest, content) in contents {
            if content.len() as u64 > SMALL_BYTES {
                self.put_bytes(content).await?;
                continue;
            }
            bytes += content.len() as u64;
            group.push((digest, content));
            if bytes > GROUP_BYTES || group.len() == GROUP_ITEMS {
                self.store.blobs.put_small(std::mem::take(&mut group)).await?;
                bytes = 0;
            }
        }
        if group.is_empty() { Ok(()) } else { self.store.blobs.put_small(group).await }
    }

    /// Puts bytes of any size.
    pub(super) async fn put_bytes(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let digest = Digest::of(&bytes);
        if bytes.len() as u64 <= SMALL_BYTES {
            self.store.blobs.put_small(vec![(digest, bytes)]).await?;
        } else {
            let size = bytes.len() as u64;
            self.store.blobs.put(Blob { digest, size, body: stream::iter([Ok(bytes)]).boxed() }).await?;
        }
        Ok(digest)
    }

    /// Puts contents of this server into the store, those that it has not.
    pub(super) async fn upload(&self, contents: HashMap<Digest, u64>) -> Result<(), ServerError> {
        let all: Vec<Digest> = contents.keys().copied().collect();
        let missing = self.store.blobs.missing(&all).await?;
        let (small, large): (Vec<_>, Vec<_>) =
            contents.into_iter().filter(|(digest, _)| missing.contains(digest)).partition(|(_, size)| *size <= SMALL_BYTES);
        let mut groups: Vec<Vec<Digest>> = Vec::new();
        let mut bytes = GROUP_BYTES;
        for (digest, size) in small {
            match groups.last_mut() {
                Some(group) if bytes + size <= GROUP_BYTES && group.len() < GROUP_ITEMS => {
                    bytes += size;
                    group.push(digest);
                }
                _ => {
                    bytes = size;
                    groups.push(vec![digest]);
                }
            }
        }
        let puts = groups.into_iter().map(|group| async move {
            let local = self.local.clone();
            let read = move || -> Result<Vec<(Digest, Bytes)>, ServerError> {
                group.into_iter().map(|digest| Ok((digest, whole(&local, digest)?))).collect()
            };
            let contents = blocking::run(read).await??;
            Ok::<_, ServerError>(self.store.blobs.put_small(contents).await?)
        });
        let mut puts = stream::iter(puts).buffer_unordered(GROUPS_AT_ONCE);
        while let Some(put) = puts.next().await {
            put?;
        }
        for (digest, size) in large {
            let body = chunks(self.local.clone(), digest, size);
            self.store.blobs.put(Blob { digest, size, body }).await?;
        }
        Ok(())
    }
}

/// Says what differs between two manifests.
fn delta(base: &Manifest, manifest: &Manifest) -> SyncManifestReply {
    let changed = manifest.changed_since(base).cloned().collect();
    let is_gone = |entry: &&ManifestEntry| manifest.get(&entry.path).is_none();
    // What is the same in both is in neither of these.
    let removed = base.changed_since(manifest).filter(is_gone).map(|entry| entry.path.clone()).collect();
    SyncManifestReply::Delta { removed, changed }
}

/// Reads a small content of this server, verified.
fn whole(local: &direct_puppet_agent::store::Store, digest: Digest) -> Result<Bytes, ServerError> {
    local.read(&digest, SMALL_BYTES)?.ok_or_else(|| ServerError::Damaged {
        path: local.path_of(&digest),
        reason: "the content is missing: publish again".to_owned(),
    })
}

/// Streams a large content of this server; the last chunk goes only after the whole is proved.
fn chunks(local: direct_puppet_agent::store::Store, digest: Digest, size: u64) -> BoxStream<'static, io::Result<Bytes>> {
    let begin = move || {
        let file = local.content(&digest).map_err(io::Error::other)?;
        file.ok_or_else(|| io::Error::other(format!("content {digest} is missing here: publish again")))
    };
    let state = (None, digest.verifier(), 0_u64);
    let begin = Arc::new(begin);
    stream::try_unfold(state, move |(file, mut hasher, done)| {
        let begin = Arc::clone(&begin);
        async move {
            if done >= size {
                return Ok(None);
            }
            let read = move || {
                let mut file = match file {
                    Some(file) => file,
                    None => begin()?,
                };
                let mut chunk = vec![0; CHUNK_BYTES];
                let count = file.read(&mut chunk)?;
                chunk.truncate(count);
                hasher.update(&chunk);
                let done = done + count as u64;
                if count == 0 || (done >= size && (done > size || hasher.clone().finish() != digest)) {
                    return Err(io::Error::other(format!("content {digest} is damaged here: publish again")));
                }
                Ok(Some((Bytes::from(chunk), (Some(file), hasher, done))))
            };
            blocking::run(read).await.map_err(io::Error::other)?
        }
    })
    .boxed()
}
