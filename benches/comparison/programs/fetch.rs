//! Clients that fetch contents as the agent does, verify them and keep nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use direct_puppet_transport::protocol::compress::decompress;
use direct_puppet_transport::protocol::digest::Algorithm;
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::pack::ZSTD;
use direct_puppet_transport::protocol::{Catalog, CatalogId, Digest, Encoding, Fetch, Pack, PackedFetch};
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

/// Fetches all contents of a catalog packed, as an agent does that holds it and is not on the server's machine: by their places in it.
pub(crate) fn fetch_packed(url: &str, catalog: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(catalog).with_context(|| format!("{} could not be read", catalog.display()))?;
    let id = CatalogId::of(&bytes);
    let catalog = Catalog::decode(&bytes, id)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fetch_places(url, id, &catalog))
}

async fn fetch_places(url: &str, catalog_id: CatalogId, catalog: &Catalog) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let named = (0_u32..).zip(catalog.contents());
    let (places, contents): (Vec<u32>, Vec<_>) = named.filter(|(_, (digest, _))| seen.insert(*digest)).unzip();
    let packed = PackedFetch {
        catalog_id,
        base_catalog_id: None,
        encodings: vec![ZSTD.to_owned()],
        spans: PackedFetch::spans(places.into_iter().map(|place| (place, None))),
        part: None,
    };
    let fetch = Fetch { certname: catalog.certname.clone(), digests: Vec::new(), offsets: BTreeMap::new(), packed: Some(packed) };
    let client = Client::new(connect(url, &ConnectOptions::default())?);
    let mut stream = client.fetch(&fetch).await?;
    let mut open: Option<(Pack, Vec<u8>)> = None;
    let mut verified = 0;
    while let Some(event) = stream.next().await? {
        match event {
            FetchEvent::Pack(pack) => open = Some((pack, Vec::with_capacity(usize::try_from(pack.length)?))),
            FetchEvent::Data(data) => {
                if let Some((_, bytes)) = &mut open {
                    bytes.extend_from_slice(&data);
                }
            }
            FetchEvent::BlobEnd => {
                let (pack, bytes) = open.take().context("the end of a pack that did not begin")?;
                verified += verify_pack(&pack, bytes, &contents)?;
            }
            FetchEvent::Missing(digest) => bail!("the server has no {digest} for this node"),
            _ => {}
        }
    }
    ensure!(verified == contents.len(), "{verified} contents of {} came", contents.len());
    Ok(())
}

/// Returns how many contents were in a pack; they are small, so that each is whole.
fn verify_pack(pack: &Pack, bytes: Vec<u8>, contents: &[(Digest, u64)]) -> anyhow::Result<usize> {
    let bytes = match pack.encoding {
        Encoding::Zstd => decompress(&bytes, &[], usize::try_from(pack.size)?)?,
        _ => bytes,
    };
    let first = usize::try_from(pack.first)?;
    let contents = contents.get(first..first + pack.count as usize).context("contents that were not asked for")?;
    let mut rest = bytes.as_slice();
    for (digest, size) in contents {
        let (content, behind) = rest.split_at_checked(usize::try_from(*size)?).context("a pack is too short")?;
        ensure!(digest.verifies(content), "a content is not what it was to be");
        rest = behind;
    }
    Ok(contents.len())
}
