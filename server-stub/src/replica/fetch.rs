//! Contents from another server, as far as there is room for them.

use std::collections::BTreeMap;

use direct_puppet_agent::fetch_as_replica;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Digest};
use direct_puppet_transport::{Client, Transport};
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::disk;
use crate::error::chain;
use crate::publish::STATE_BYTES;

/// Fetches contents that are not here; returns how many. What came stays for the next attempt, unless the disk is full: then it would
/// leave no room for a version that fits.
pub(crate) async fn fetch<T: Transport>(
    client: &Client<T>,
    name: &Certname,
    store: &Store,
    missing: &BTreeMap<Digest, (u64, String)>,
) -> Result<u64, String> {
    // What makes the version live has to fit too.
    let bytes = missing.values().map(|(size, _)| *size).fold(STATE_BYTES, u64::saturating_add);
    let here = store.clone();
    let free = blocking::run(move || here.free_bytes()).await.map_err(|error| error.to_string())?;
    let free = free.map_err(|error| chain(&error))?;
    if bytes > free {
        return Err(format!("{bytes} bytes from {} have no space here, where {free} are free", client.transport().endpoint()));
    }
    let never = CancellationToken::new();
    let error = match fetch_as_replica(client, name, store, missing, &never).await {
        Ok(received) => return Ok(received),
        Err(error) => error,
    };
    if disk::is_full(&error) {
        let (store, digests): (Store, Vec<Digest>) = (store.clone(), missing.keys().copied().collect());
        let discard = move || digests.iter().try_for_each(|digest| store.discard(digest));
        if let Ok(Err(error)) = blocking::run(discard).await {
            tracing::warn!("{}", chain(&error));
        }
    }
    Err(chain(&error))
}
