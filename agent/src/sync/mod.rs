//! Between knowing what is missing and having it: counted calls, and the all-or-nothing fetch.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Certname, Digest};
use direct_puppet_transport::{Client, Transport};
use tokio_util::sync::CancellationToken;

use crate::error::RunError;
use crate::event::EventSink;
use crate::store::Store;

mod alike;
mod fetch;
mod packed;
mod unpack;
mod wire;
mod write;

pub(crate) use alike::LARGE_BYTES;
pub(crate) use fetch::{Asking, FetchRequest, Fetched, fetch};
pub(crate) use packed::{Base, Packing};
pub(crate) use wire::Counted;

/// Fetches contents of published code into a store, as a server that follows another does: every one verified and durable, or an
/// error; what came stays for the next attempt. `missing` gives for each its size in bytes and, for errors, a path that has it. Returns how
/// many were received.
///
/// # Errors
///
/// When the server cannot be asked, does not have a content, or sends another; or when the disk does not take it.
///
/// # Cancel safety
///
/// Safe: what came stays.
pub async fn fetch_as_replica<T: Transport>(
    client: &Client<T>,
    replica: &Certname,
    store: &Store,
    missing: &BTreeMap<Digest, (u64, String)>,
    cancel: &CancellationToken,
) -> Result<u64, RunError> {
    let mut fetched = Fetched::default();
    let sink = EventSink::new();
    let (asking, packing) = (Asking::AsReplica, None);
    let request = FetchRequest { client, asking, certname: replica, store, missing, packing, cancel, sink: &sink };
    fetch(request, &mut fetched).await?;
    Ok(fetched.received)
}
