//! Contents from another server, as far as there is room for them.

use std::collections::BTreeMap;

use direct_puppet_agent::fetch_as_replica;
use direct_puppet_agent::fs::FsError;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Digest};
use direct_puppet_transport::{Client, Transport};
use tokio_util::sync::CancellationToken;

use super::room::Unfetched;
use crate::blocking;
use crate::disk;
use crate::error::chain;
use crate::publish::STATE_BYTES;

/// Fetches contents that are not here; returns how many. What came stays for the next attempt; where there is no room for all, the error
/// says what that may have been.
pub(crate) async fn fetch<T: Transport>(
    client: &Client<T>,
    name: &Certname,
    store: &Store,
    missing: &BTreeMap<Digest, (u64, String)>,
) -> Result<u64, Unfetched> {
    let here = store.clone();
    let look = blocking::run(move || Ok::<_, FsError>((here.free_bytes()?, here.partials()?))).await;
    let (free, partials) = look.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    let to_come =
        missing.iter().map(|(digest, (size, _))| size.saturating_sub(partials.get(digest).copied().unwrap_or_default()));
    // What makes the version live has to fit too.
    let bytes = to_come.fold(STATE_BYTES, u64::saturating_add);
    if bytes > free {
        let from = client.transport().endpoint();
        let reason = format!("{bytes} bytes from {from} have no space here, where {free} are free");
        return Err(Unfetched { reason, of_no_use: missing.keys().copied().collect() });
    }
    let never = CancellationToken::new();
    let fetched = fetch_as_replica(client, name, store, missing, &never).await;
    fetched.map_err(|error| {
        let of_no_use = if disk::is_full(&error) { missing.keys().copied().collect() } else { Vec::new() };
        Unfetched { reason: chain(&error), of_no_use }
    })
}
