//! The server's decision about a check-in, in this process: decode, look the node up, compare, encode.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use direct_puppet_benches::{make_environment, server, staged};
use direct_puppet_server_stub::Server;
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, Environment, Held, Operation, ProtocolVersion, SubmitFacts, codec,
};
use direct_puppet_transport::{Client, Handler, MemoryTransport, Peer, Request, dispatch};
use futures::StreamExt as _;

use super::once::own_cpu_ms;

/// Nodes that have a catalog and are asked for, spread over all that are known: a catalog each for a million would be files for hours.
const ASKED: usize = 1000;

/// Longest reply that says "current".
const MAX_REPLY_BYTES: u64 = 4096;

/// Makes `nodes` known and decides `check_ins` of them; returns microseconds of CPU for each. What was published and compiled in `dir`
/// before is used again.
pub(crate) fn decide(dir: &Path, nodes: usize, check_ins: usize) -> anyhow::Result<f64> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (server, requests) = known(dir, nodes).await?;
        let begun = own_cpu_ms()?;
        for number in 0..check_ins {
            let (peer, body) = &requests[number % requests.len()];
            let request = Request { operation: Operation::CheckIn, body: body.clone() };
            let mut response = dispatch(&*server, peer, request).await;
            let body = response.body.next().await.context("an empty reply")??;
            if !matches!(codec::decode(&body, MAX_REPLY_BYTES)?, CatalogReply::Current { .. }) {
                bail!("a node was not told that its catalog is current");
            }
        }
        Ok((own_cpu_ms()? - begun) * 1e3 / check_ins.max(1) as f64)
    })
}

type Asked = (Peer, bytes::Bytes);

/// Returns a server that knows so many nodes, and what is asked of it.
async fn known(dir: &Path, nodes: usize) -> anyhow::Result<(Arc<Server>, Vec<Asked>)> {
    let is_new = !dir.join("data").exists();
    let environment = make_environment(&dir.join("staging"))?;
    std::fs::write(environment.join("modules/app/files/tree/file"), "content\n")?;
    let server = server(&dir.join("data"), &dir.join("staging"));
    if is_new {
        staged(&server).await;
    }
    let handler: Arc<dyn Handler> = Arc::<Server>::clone(&server);
    let client = Client::new(MemoryTransport::new(handler));
    let mut requests = Vec::new();
    // Steps that leave no part of the names out.
    let step = nodes.div_ceil(ASKED).max(1);
    for number in 0..nodes {
        let certname = name(number)?;
        let check_in = first_check_in(certname);
        if number % step != 0 {
            server.check_in(&Peer::InProcess, check_in).await?;
            continue;
        }
        let held = take_catalog(&client, &check_in).await?;
        let body = codec::encode(&CheckIn { held: Some(held), ..check_in })?;
        requests.push((Peer::InProcess, body.into()));
    }
    Ok((server, requests))
}

fn name(number: usize) -> anyhow::Result<Certname> {
    Ok(format!("node{number:07}.example.com").parse()?)
}

/// Returns the check-in of a node that holds nothing.
pub(crate) fn first_check_in(certname: Certname) -> CheckIn {
    CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname,
        environment: Environment::default(),
        held: None,
        features: Vec::new(),
        wait_seconds: 0,
        at_least: None,
    }
}

/// Has a catalog compiled for a node and returns what it then holds.
pub(crate) async fn take_catalog<T: direct_puppet_transport::Transport>(
    client: &Client<T>,
    check_in: &CheckIn,
) -> anyhow::Result<Held> {
    let facts = SubmitFacts { check_in: check_in.clone(), facts: BTreeMap::new() };
    match client.submit_facts(&facts).await? {
        CatalogReply::Catalog { catalog_id, code_id, version, .. } => Ok(Held { catalog_id, code_id, version }),
        other => bail!("no catalog: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_hold_the_live_catalog_are_told_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(decide(dir.path(), 3, 10).unwrap() > 0.0);
        // Again, without anything to publish or compile.
        assert!(decide(dir.path(), 3, 10).unwrap() > 0.0);
    }
}
