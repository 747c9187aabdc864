//! A client that fetches contents as the agent does, verifies them and keeps nothing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{bail, ensure};
use direct_puppet_transport::protocol::digest::Algorithm;
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{Digest, Fetch};
use direct_puppet_transport::{Client, ConnectOptions, connect};

use crate::bench::NODE;

/// Writes the digests of all files below a tree, each once, 32 bytes each.
pub(crate) fn write_digests(tree: &Path, digests: &Path) -> anyhow::Result<usize> {
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry?;
        if entry.file_type().is_file() {
            all.push(*blake3::hash(&std::fs::read(entry.path())?).as_bytes());
        }
    }
    all.sort_unstable();
    all.dedup();
    std::fs::write(digests, all.concat())?;
    Ok(all.len())
}

pub(crate) fn fetch(url: &str, digests: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(digests)?;
    let digests: Vec<Digest> = bytes.as_chunks::<32>().0.iter().map(|bytes| Digest::new(Algorithm::Blake3, *bytes)).collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fetch_all(url, digests))
}

async fn fetch_all(url: &str, digests: Vec<Digest>) -> anyhow::Result<()> {
    let client = Client::new(connect(url, &ConnectOptions::default())?);
    let count = digests.len();
    let mut stream = client.fetch(&Fetch { certname: NODE.parse()?, digests, offsets: BTreeMap::new(), packed: None }).await?;
    let (mut open, mut verified) = (None, 0);
    while let Some(event) = stream.next().await? {
        match event {
            FetchEvent::Blob { digest, .. } => open = Some((digest, digest.verifier())),
            FetchEvent::Data(data) => {
                if let Some((_, hasher)) = &mut open {
                    hasher.update(&data);
                }
            }
            FetchEvent::BlobEnd => {
                ensure!(
                    open.take().is_some_and(|(digest, hasher)| hasher.finish() == digest),
                    "a content is not what it was to be"
                );
                verified += 1;
            }
            FetchEvent::Missing(digest) => bail!("the server has no {digest} for this node"),
            _ => {}
        }
    }
    ensure!(verified == count, "{verified} contents of {count} came");
    Ok(())
}
