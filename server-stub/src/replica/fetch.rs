//! Contents from another server, as far as there is room for them.

use std::collections::BTreeMap;

use direct_puppet_agent::fetch_as_replica;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Digest};
use direct_puppet_transport::{Client, Transport};
use tokio_util::sync::CancellationToken;

use super::room::Unfetched;
use crate::blocking;
use crate::disk;
use crate::error::chain;
use crate::publish::STATE_BYTES;

/// Fetches contents that are not here; returns how many. What came stays for the next attempt; where the disk is full, the error says what
/// that was.
pub(crate) async fn fetch<T: Transport>(
    client: &Client<T>,
    name: &Certname,
    store: &Store,
    missing: &BTreeMap<Digest, (u64, String)>,
) -> Result<u64, Unfetched> {
    // What makes the version live has to fit too.
    let bytes = missing.values().map(|(size, _)| *size).fold(STATE_BYTES, u64::saturating_add);
    let here = store.clone();
    let free = blocking::run(move || here.free_bytes()).await.map_err(|error| error.to_string())?;
    let free = free.map_err(|error| chain(&error))?;
    if bytes > free {
        let from = client.transport().endpoint();
        return Err(format!("{bytes} bytes from {from} have no space here, where {free} are free").into());
    }
    let never = CancellationToken::new();
    let fetched = fetch_as_replica(client, name, store, missing, &never).await;
    fetched.map_err(|error| {
        let of_no_use = if disk::is_full(&error) { missing.keys().copied().collect() } else { Vec::new() };
        Unfetched { reason: chain(&error), of_no_use }
    })
}
