//! Catalogs: one for each node and code, whichever server compiled it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{Catalog, Certname, CodeId, Digest, Environment};
use serde::{Deserialize, Serialize};

use super::records::is_damaged;
use super::{FORMAT, Shared, names};
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::nodes::CompiledCatalog;
use crate::server::now;
use crate::store::{Pointer, StoreError};

/// How often a catalog is offered until it, or that of another server, is the one.
const ATTEMPTS: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CatalogRecord {
    format: u32,
    #[serde(flatten)]
    pub(super) compiled: CompiledCatalog,
    /// The content that is its canonical bytes.
    pub(super) content: Digest,
}

/// Held while a catalog and its contents are brought: no collection here takes contents before the catalog is kept.
pub(crate) type Held = Arc<tokio::sync::OwnedRwLockReadGuard<()>>;

impl Shared {
    /// Brings the catalog that another server has compiled, with its contents; that there is none is no error. One that was made with other
    /// extensions than these ([`CompiledCatalog::holds_for`]) is none. What is brought stays while somebody has `held`.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        certname: &Certname,
        environment: &Environment,
        code_id: CodeId,
        extensions: Option<Digest>,
        held: &Held,
    ) -> Result<Option<CompiledCatalog>, ServerError> {
        let name = names::catalog(certname, environment, code_id);
        match self.store.pointers.get(&name).await? {
            Some(pointer) if self.holds_for(&name, &pointer, extensions)? => {
                self.adopt_this(certname, &name, &pointer, Some(held)).await
            }
            _ => Ok(None),
        }
    }

    /// Decodes the record of a catalog; `None` when it is damaged: then the catalog is made again.
    pub(super) fn catalog_record(&self, name: &str, pointer: &Pointer) -> Result<Option<CatalogRecord>, StoreError> {
        match self.decode(name, &pointer.value) {
            Err(error) if is_damaged(&pointer.value) => {
                tracing::error!("a catalog is compiled again: {}", chain(&error));
                Ok(None)
            }
            decoded => decoded.map(Some),
        }
    }

    /// Whether a catalog in the store is for one whose certificate says this; one that is damaged is for nobody.
    fn holds_for(&self, name: &str, pointer: &Pointer, extensions: Option<Digest>) -> Result<bool, ServerError> {
        Ok(self.catalog_record(name, pointer)?.is_some_and(|record| record.compiled.holds_for(extensions)))
    }

    /// Returns the catalogs that any server has compiled for a node.
    pub(crate) async fn catalogs(&self, certname: &Certname) -> Result<Vec<CompiledCatalog>, StoreError> {
        let found = self.store.pointers.list(&names::catalogs(certname)).await?;
        let compiled =
            |(name, pointer): (&String, &Pointer)| Ok(self.catalog_record(name, pointer)?.map(|record| record.compiled));
        found.iter().filter_map(|found| compiled((&found.0, &found.1)).transpose()).collect()
    }

    /// Reads a catalog of a node and keeps nothing of it here; `None` when the store does not have it any more, or it is damaged.
    pub(crate) async fn look_into(
        self: &Arc<Self>,
        certname: &Certname,
        compiled: &CompiledCatalog,
    ) -> Result<Option<Catalog>, ServerError> {
        let name = names::catalog(certname, &compiled.environment, compiled.code_id);
        let Some(pointer) = self.store.pointers.get(&name).await? else { return Ok(None) };
        let Some(record) = self.catalog_record(&name, &pointer)? else { return Ok(None) };
        if record.compiled.catalog_id != compiled.catalog_id {
            return Ok(None);
        }
        Ok(self.read_catalog(&record).await?.map(|(_, catalog)| catalog))
    }

    /// Brings the catalog that a node has, as far as the store knows: that of `live` if there is one, else of the code that it said it has, else
    /// the last that was compiled for it.
    pub(crate) async fn adopt_held(
        self: &Arc<Self>,
        certname: &Certname,
        environment: &Environment,
        live: CodeId,
        brought: &Held,
    ) -> Result<(), ServerError> {
        let mut catalogs = self.catalogs(certname).await?;
        catalogs.retain(|compiled| compiled.environment == *environment);
        let said = self.summary(certname).await?.and_then(|known| known.code_id);
        let of = |code_id| catalogs.iter().find(|compiled: &&CompiledCatalog| Some(compiled.code_id) == code_id);
        let history = self.history(environment).await?;
        // Several may have been compiled in one second.
        let place = |code_id: CodeId| history.iter().rposition(|version| version.code_id == code_id);
        let last = || catalogs.iter().max_by_key(|compiled| (compiled.time_unix_seconds, place(compiled.code_id)));
        let held = of(Some(live)).or_else(|| of(said)).or_else(last);
        match held {
            Some(held) => self.adopt(certname, environment, held.code_id, None, brought).await.map(drop),
            None => Ok(()),
        }
    }

    /// Brings every catalog of a node that is not here: it fetches contents of one that another server gave it.
    pub(crate) async fn adopt_all(self: &Arc<Self>, certname: &Certname, held: &Held) -> Result<(), ServerError> {
        for (name, pointer) in self.store.pointers.list(&names::catalogs(certname)).await? {
            let Some(record) = self.catalog_record(&name, &pointer)? else { continue };
            let CompiledCatalog { environment, code_id, .. } = &record.compiled;
            let here = self.nodes.catalog(certname, environment, *code_id);
            if here.is_none_or(|here| here.catalog_id != record.compiled.catalog_id) {
                self.adopt_this(certname, &name, &pointer, Some(held)).await?;
            }
        }
        Ok(())
    }

    /// Without `held` a compile goes on, beside which nothing is collected.
    async fn adopt_this(
        self: &Arc<Self>,
        certname: &Certname,
        name: &str,
        pointer: &Pointer,
        held: Option<&Held>,
    ) -> Result<Option<CompiledCatalog>, ServerError> {
        let Some(record) = self.catalog_record(name, pointer)? else {
            self.store.pointers.swap(name, Some(pointer.generation), None).await?;
            return Ok(None);
        };
        if record.format != FORMAT {
            return Err(self.unusable(format!("{name} is in format {}: use the program that wrote it", record.format)).into());
        }
        let Some((bytes, catalog)) = self.read_catalog(&record).await? else {
            // Then it is made again, once.
            tracing::error!(name, "a catalog in the store is gone or damaged: it is compiled again");
            self.store.pointers.swap(name, Some(pointer.generation), None).await?;
            return Ok(None);
        };
        self.bring_these(catalog.contents().map(|(digest, size)| (digest, (size, String::new()))).collect()).await?;
        let (nodes, certname, compiled) = (Arc::clone(&self.nodes), certname.clone(), record.compiled.clone());
        let held = held.cloned();
        let keep = move || {
            // To the end, though nobody waits for it any more.
            let _held = held;
            nodes.adopt(&certname, compiled, &bytes)
        };
        blocking::run(keep).await??;
        Ok(Some(record.compiled))
    }

    /// Reads a catalog; `None` when it is gone or damaged.
    async fn read_catalog(self: &Arc<Self>, record: &CatalogRecord) -> Result<Option<(Bytes, Catalog)>, StoreError> {
        let Some(bytes) = self.read(record.content, MAX_CATALOG_BYTES).await? else { return Ok(None) };
        Ok(Catalog::decode(&bytes, record.compiled.catalog_id).ok().map(|catalog| (bytes, catalog)))
    }

    /// Offers a catalog that was compiled here, whose contents are here. Returns the catalog that all servers have from now on: this,
    /// or that of another one which was faster. One that was made with other extensions, of a certificate that the node had before, gives way.
    pub(crate) async fn offer(
        self: &Arc<Self>,
        certname: &Certname,
        compiled: &CompiledCatalog,
        bytes: &Bytes,
        contents: HashMap<Digest, u64>,
    ) -> Result<CompiledCatalog, ServerError> {
        self.upload(contents).await?;
        let content = self.put_bytes(bytes.clone()).await?;
        let name = names::catalog(certname, &compiled.environment, compiled.code_id);
        let value = self.encode(&CatalogRecord { format: FORMAT, compiled: compiled.clone(), content })?;
        for _ in 0..ATTEMPTS {
            if self.store.pointers.swap(&name, None, Some(value.clone())).await? {
                self.count_compile(certname, &compiled.environment).await?;
                return Ok(compiled.clone());
            }
            let Some(pointer) = self.store.pointers.get(&name).await? else { continue };
            if !self.holds_for(&name, &pointer, compiled.extensions)? {
                self.store.pointers.swap(&name, Some(pointer.generation), None).await?;
            } else if let Some(faster) = self.adopt_this(certname, &name, &pointer, None).await? {
                return Ok(faster);
            }
        }
        Err(self.unusable(format!("{name} changes all the time")).into())
    }

    /// Has a node's catalogs compiled again, at all servers.
    pub(crate) async fn recompile(&self, certname: &Certname) -> Result<(), StoreError> {
        for name in self.store.pointers.names(&names::catalogs(certname)).await? {
            self.unset(&name).await?;
        }
        // Another value each time, so that it is another generation.
        self.set(&names::recompile(certname), &(now(), rand()?)).await
    }
}

fn rand() -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| StoreError::Unusable { endpoint: "this machine".to_owned(), reason: error.to_string() })?;
    Ok(u64::from_le_bytes(bytes))
}
