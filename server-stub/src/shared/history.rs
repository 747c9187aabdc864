//! What was published at other servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{CodeId, Digest, EntryKind, Environment, Manifest, codec};

use super::{Shared, names};
use crate::blocking;
use crate::code::Version;
use crate::error::ServerError;
use crate::replica::fetch;
use crate::store::StoreError;

impl Shared {
    /// Returns every publish of an environment, oldest first.
    pub(crate) async fn history(&self, environment: &Environment) -> Result<Vec<Version>, StoreError> {
        let found = self.store.pointers.list(&names::versions(environment)).await?;
        found.iter().map(|(name, pointer)| Ok(self.decode_version(name, &pointer.value)?.version)).collect()
    }

    /// Returns what is in a code; `None` when it was collected.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        environment: &Environment,
        code_id: CodeId,
    ) -> Result<Option<Manifest>, ServerError> {
        let Some(record) = self.record(environment, code_id).await? else { return Ok(None) };
        let Some(bytes) = self.read(record.manifest, MAX_MANIFEST_BYTES).await? else { return Ok(None) };
        let manifest: Manifest = codec::decode(&bytes, MAX_MANIFEST_BYTES)?;
        if manifest.code_id() == code_id {
            Ok(Some(manifest))
        } else {
            Err(self.unusable(format!("the manifest of {environment} does not add up to {code_id}")).into())
        }
    }

    /// Brings the contents of a manifest that are not here.
    pub(crate) async fn bring(self: &Arc<Self>, manifest: &Manifest) -> Result<(), ServerError> {
        let contents = manifest.entries().iter().filter_map(|entry| match entry.kind {
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
        fetched.map(drop).map_err(|reason| self.unusable(reason).into())
    }
}
