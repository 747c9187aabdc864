//! What was published at other servers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{CodeId, Digest, EntryKind, Environment, Manifest};
use futures::TryStreamExt as _;

use super::records::is_damaged;
use super::{Shared, VersionRecord, names};
use crate::blocking;
use crate::code::{Version, parts};
use crate::error::{ServerError, chain};
use crate::replica::fetch;
use crate::store::StoreError;

/// A manifest as it is in the store.
pub(super) struct Written {
    pub(super) manifest: Manifest,
    /// The contents that it is written in, but for the one that names them.
    pub(super) parts: Vec<Digest>,
}

impl Shared {
    /// Returns every publish of an environment, oldest first, but for those whose record is damaged: they are listed again when a server that has
    /// them has written it.
    pub(crate) async fn history(self: &Arc<Self>, environment: &Environment) -> Result<Vec<Version>, StoreError> {
        let mut history = Vec::new();
        for (name, pointer) in self.store.pointers.list(&names::versions(environment)).await? {
            match self.decode_or_mend(&name, &pointer) {
                Ok(record) => history.push(record.version),
                Err(error) if is_damaged(&pointer.value) => tracing::error!("{}", chain(&error)),
                Err(error) => return Err(error),
            }
        }
        Ok(history)
    }

    /// Returns what is live, by environment, but for what cannot be read.
    pub(crate) async fn live_versions(&self) -> Result<Vec<Version>, StoreError> {
        let mut live = Vec::new();
        for (name, pointer) in self.store.pointers.list(names::ENVIRONMENTS).await? {
            match self.decode_version(&name, &pointer.value) {
                Ok(record) => live.push(record.version),
                Err(error) => tracing::error!("{}", chain(&error)),
            }
        }
        Ok(live)
    }

    /// Returns what is in a code; `None` when it was collected.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        environment: &Environment,
        code_id: CodeId,
    ) -> Result<Option<Manifest>, ServerError> {
        let Some(record) = self.record(environment, code_id).await? else { return Ok(None) };
        let Some(Written { manifest, .. }) = self.read_manifest(&record).await? else { return Ok(None) };
        if manifest.code_id() == code_id {
            Ok(Some(manifest))
        } else {
            Err(self.unusable(format!("the manifest of {environment} does not add up to {code_id}")).into())
        }
    }

    /// Reads the manifest of a publish; `None` when it, or a part of it, is not there or damaged.
    pub(super) async fn read_manifest(self: &Arc<Self>, record: &VersionRecord) -> Result<Option<Written>, StoreError> {
        let Some(bytes) = self.read(record.manifest, MAX_MANIFEST_BYTES).await? else { return Ok(None) };
        let unusable = |reason: String| {
            self.unusable(format!("the manifest of {} {}: {reason}", record.version.environment, record.version.code_id))
        };
        let parts = parts::parts(&bytes).map_err(unusable)?;
        let mut read: HashMap<Digest, Bytes> = HashMap::with_capacity(parts.len());
        let mut items = self.proved(parts.clone());
        while let Some(item) = items.try_next().await.map_err(|error| self.unread(error))? {
            let FetchItem::Content(content) = item else { return Ok(None) };
            let chunks: Result<Vec<Bytes>, std::io::Error> = content.body.try_collect().await;
            // The proof failed: it is wanted from the others already.
            let Ok(chunks) = chunks else { return Ok(None) };
            read.insert(content.digest, chunks.concat().into());
        }
        let part = |digest: &Digest| read.remove(digest).ok_or_else(|| format!("part {digest} is named twice"));
        Ok(Some(Written { manifest: parts::decode(&bytes, part).map_err(unusable)?, parts }))
    }

    /// Brings the contents of a manifest that are not here.
    pub(crate) async fn bring(self: &Arc<Self>, manifest: &Manifest) -> Result<(), ServerError> {
        let contents = manifest.entries().filter_map(|entry| match entry.kind {
            EntryKind::File { digest, size } => Some((digest, (size, entry.path.to_string()))),
            _ => None,
        });
        self.bring_these(contents.collect()).await
    }

    /// Brings those contents that are not here.
    pub(super) async fn bring_these(self: &Arc<Self>, wanted: BTreeMap<Digest, (u64, String)>) -> Result<(), ServerError> {
        let local = self.local.clone();
        let find =
            move || -> BTreeMap<Digest, (u64, String)> { wanted.into_iter().filter(|(digest, _)| !local.has(digest)).collect() };
        let missing = blocking::run(find).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let fetched = fetch(&self.client(), &self.name, &self.local, &missing).await;
        fetched.map(drop).map_err(|unfetched| {
            self.leftovers.note(unfetched.of_no_use);
            self.unusable(unfetched.reason).into()
        })
    }
}
