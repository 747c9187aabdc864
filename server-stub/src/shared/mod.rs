//! Equal servers: what they agree on is in a store that they share, and each keeps a copy on its own disk to answer from.
//!
//! To a server the store is what a primary is to a replica: it confirms there which code is live, and brings what it has not. A publish is
//! made at any server: contents and manifest go into the store first, then one pointer is compared and swapped. Whoever comes second
//! brings what the first has made, and publishes on top of it.

mod catalogs;
mod collect;
mod commit;
mod heal;
mod history;
mod names;
mod primary;
mod records;
mod reports;
mod verify;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, CodeId, Digest};
use direct_puppet_transport::{Client, MemoryTransport, Request, Response, Transport, TransportError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::catalogs::Held;
pub(crate) use self::collect::Rules;
use self::primary::AsPrimary;
use crate::answer::Flights;
use crate::code::{Environments, Version};
use crate::disk;
use crate::error::ServerError;
use crate::nodes::Nodes;
use crate::replica::Leftovers;
use crate::role::Peers;
use crate::store::{Generation, SharedStore, StoreError};

/// The format of the records.
const FORMAT: u32 = 1;

/// A store, and the name of the server that shares it.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// The store.
    pub store: SharedStore,
    /// The name of this server; no other that shares the store has it.
    pub name: Certname,
}

/// A server's part in a store.
#[derive(Debug)]
pub(crate) struct Shared {
    store: SharedStore,
    name: Certname,
    /// This server's own copies.
    local: Store,
    leftovers: Arc<Leftovers>,
    environments: Arc<Environments>,
    nodes: Arc<Nodes>,
    flights: Flights,
    reports_per_node: usize,
    /// Which orders to make a node's catalogs anew were carried out here.
    recompiled: Mutex<HashMap<Certname, Generation>>,
    /// When this server last told of itself.
    told: Mutex<Option<Instant>>,
    /// Contents that this server asks the others to put again,
    wanted: Mutex<HashSet<Digest>>,
    /// and when it last looked for what they want.
    healed: Mutex<Option<Instant>>,
    /// Records in the store that are damaged.
    damaged: Mutex<records::Damaged>,
    /// How often it has asked what is live.
    confirmations: AtomicU64,
}

/// A publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VersionRecord {
    format: u32,
    #[serde(flatten)]
    version: Version,
    /// The content that is its manifest.
    manifest: Digest,
    /// What differs from the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<DeltaRecord>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct DeltaRecord {
    base: CodeId,
    /// The content that says it: a [`SyncManifestReply`](direct_puppet_transport::protocol::SyncManifestReply).
    content: Digest,
}

impl Shared {
    pub(crate) fn new(
        sharing: &Sharing,
        leftovers: Arc<Leftovers>,
        environments: Arc<Environments>,
        nodes: Arc<Nodes>,
        flights: Flights,
        reports_per_node: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: sharing.store.clone(),
            name: sharing.name.clone(),
            local: leftovers.store.clone(),
            leftovers,
            environments,
            nodes,
            flights,
            reports_per_node,
            recompiled: Mutex::default(),
            told: Mutex::default(),
            wanted: Mutex::default(),
            healed: Mutex::default(),
            damaged: Mutex::default(),
            confirmations: AtomicU64::default(),
        })
    }

    /// Returns the store as a primary that can be followed.
    pub(crate) fn peers(self: &Arc<Self>) -> Peers {
        Peers { name: self.name.clone(), transports: vec![Arc::new(self.transport())] }
    }

    fn transport(self: &Arc<Self>) -> StoreTransport {
        let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::new(AsPrimary(Arc::clone(self)));
        let endpoint = self.store.pointers.endpoint().to_owned();
        StoreTransport { inner: MemoryTransport::new(handler), endpoint }
    }

    fn client(self: &Arc<Self>) -> Client<StoreTransport> {
        Client::new(self.transport())
    }

    /// Decodes a record, and checks its checksum.
    fn decode<T: DeserializeOwned>(&self, name: &str, value: &Bytes) -> Result<T, StoreError> {
        let Some(text) = disk::unchecked(value) else {
            return Err(self.unusable(format!("{name} is damaged: its checksum differs")));
        };
        serde_json::from_slice(&text).map_err(|error| self.unusable(format!("{name} cannot be read: {error}")))
    }

    fn encode(&self, value: &impl Serialize) -> Result<Bytes, StoreError> {
        let text = serde_json::to_vec(value).map_err(|error| self.unusable(error.to_string()))?;
        Ok(disk::checked(text).into())
    }

    fn decode_version(&self, name: &str, value: &Bytes) -> Result<VersionRecord, StoreError> {
        let record: VersionRecord = self.decode(name, value)?;
        if record.format != FORMAT {
            let reason =
                format!("{name} is in format {}, which this program does not know: use the one that wrote it", record.format);
            return Err(self.unusable(reason));
        }
        Ok(record)
    }

    fn unusable(&self, reason: String) -> StoreError {
        StoreError::Unusable { endpoint: self.store.pointers.endpoint().to_owned(), reason }
    }

    fn unread(&self, error: std::io::Error) -> StoreError {
        let endpoint = self.store.pointers.endpoint().to_owned();
        StoreError::Failed { endpoint, act: "read a content", source: error.into() }
    }

    /// Sets a pointer, whatever it was.
    async fn set(&self, name: &str, value: &(impl Serialize + Sync)) -> Result<(), StoreError> {
        let value = self.encode(value)?;
        loop {
            let before = self.store.pointers.get(name).await?;
            if before.as_ref().is_some_and(|before| before.value == value) {
                return Ok(());
            }
            let generation = before.map(|before| before.generation);
            if self.store.pointers.swap(name, generation, Some(value.clone())).await? {
                return Ok(());
            }
        }
    }

    /// Removes a pointer, whatever it is.
    async fn unset(&self, name: &str) -> Result<(), StoreError> {
        loop {
            let Some(before) = self.store.pointers.get(name).await? else { return Ok(()) };
            if self.store.pointers.swap(name, Some(before.generation), None).await? {
                return Ok(());
            }
        }
    }
}

/// Waits for the store, on a thread for work that blocks.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, ServerError>>) -> Result<T, ServerError> {
    tokio::runtime::Handle::current().block_on(work)
}

/// A store in the place of a primary: calls stay in the process, and go by the store's address.
#[derive(Debug)]
struct StoreTransport {
    inner: MemoryTransport,
    endpoint: String,
}

#[async_trait]
impl Transport for StoreTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        self.inner.call(request).await
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}
