//! Contents for a fetch by place: small ones together, large ones in parts, compressed against what the node has.
//!
//! Nothing of it is kept: what two nodes ask for is packed twice.

use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::store::Stored;
use direct_puppet_transport::protocol::compress::{compress, compress_alike};
use direct_puppet_transport::protocol::limits::{MAX_PACK_BASE_BYTES, MAX_PACK_BYTES};
use direct_puppet_transport::protocol::{Catalog, Digest, Encoding, Pack, PackBase, PackedFetch};
use direct_puppet_transport::{FetchItem, FetchItems};
use tokio::sync::Semaphore;

use super::contents::{Source, WHOLE_BYTES};
use super::parts::Parts;
use super::turns::{self, Turns};

/// A pack is full after this many bytes of contents: by measurement, larger ones are no smaller in sum.
const PACK_BYTES: u64 = 512 * 1024;
/// Where the node has something instead of each, as many as a receiver takes in: little is left of them, and the less the headers should be.
const ALIKE_BYTES: u64 = MAX_PACK_BYTES;
/// A pack is also full after this many contents.
const PACK_CONTENTS: u32 = 1024;
/// What is read in one turn, in bytes: a full pack with what it is compressed against. A receiver that is slow has no more than that waiting here.
const TURN_BYTES: u64 = MAX_PACK_BYTES + MAX_PACK_BASE_BYTES;

/// One content that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    /// What the node has instead, and how long that is.
    pub(super) base: Option<(Digest, u64)>,
}

/// Why a request cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

/// Looks up in the node's catalogs what it asks for.
pub(super) fn wanted(request: &PackedFetch, catalog: &Catalog, base: Option<&Catalog>) -> Result<Vec<Wanted>, OutOfRange> {
    let contents: Vec<(Digest, u64)> = catalog.contents().collect();
    let bases: Vec<(Digest, u64)> = base.map(|base| base.contents().collect()).unwrap_or_default();
    // Said before anything is allocated for it: spans are short, and what they say may be long.
    if request.count() > contents.len() as u64 {
        return Err(OutOfRange);
    }
    let at = |list: &[(Digest, u64)], place: u64| usize::try_from(place).ok().and_then(|place| list.get(place).copied());
    let wanted = |(place, base): (u64, Option<u64>)| {
        let (digest, _) = at(&contents, place).ok_or(OutOfRange)?;
        Ok(Wanted { digest, base: base.and_then(|place| at(&bases, place)) })
    };
    request.places().map(wanted).collect()
}

/// Where a fetch stands.
struct Progress {
    source: Arc<Source>,
    wanted: Vec<Wanted>,
    /// The number of the next content.
    next: usize,
    accepts_zstd: bool,
    /// A large content of which some is sent.
    open: Option<Parts>,
    /// What did not fit into the pack before.
    gathered: Gathered,
}

/// Streams what is asked for, as far as the source allows it; the rest is missing.
pub(super) fn stream(source: Arc<Source>, wanted: Vec<Wanted>, accepts_zstd: bool, permits: Arc<Semaphore>) -> FetchItems {
    turns::stream(Progress { source, wanted, next: 0, accepts_zstd, open: None, gathered: Gathered::default() }, permits)
}

impl Turns for Progress {
    fn is_over(&self) -> bool {
        self.open.is_none() && self.gathered.count == 0 && self.next >= self.wanted.len()
    }

    fn turn(&mut self) -> io::Result<Vec<FetchItem>> {
        let (mut items, mut read_bytes) = (Vec::new(), 0);
        if let Some(parts) = &mut self.open {
            if parts.next(&mut items)? {
                self.open = None;
            }
            return Ok(items);
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        while let Some(&wanted) = self.wanted.get(self.next)
            && gathered.has_room()
            && read_bytes < TURN_BYTES
            && items.len() < PACK_CONTENTS as usize
        {
            let number = u32::try_from(self.next).map_err(io::Error::other)?;
            let Some((file, size)) = open(&self.source, &wanted.digest)? else {
                gathered.finish(self.accepts_zstd, &mut items);
                items.push(FetchItem::Missing(wanted.digest));
                self.next += 1;
                continue;
            };
            let base = wanted.base.filter(|_| self.accepts_zstd);
            if size > WHOLE_BYTES || base.is_some_and(|(_, size)| size > WHOLE_BYTES) {
                gathered.finish(self.accepts_zstd, &mut items);
                // What is not a base that can be had is none.
                let base = base.and_then(|(digest, _)| open_base(&self.source, &digest));
                self.open =
                    Some(Parts::new(file, number, wanted.digest, size, base, self.accepts_zstd, Arc::clone(&self.source)));
                self.next += 1;
                break;
            }
            let content = read(file, size)?;
            if !wanted.digest.verifies(&content) {
                self.source.quarantine(&wanted.digest);
                gathered.finish(self.accepts_zstd, &mut items);
                items.push(FetchItem::Missing(wanted.digest));
                self.next += 1;
                continue;
            }
            let base = base.and_then(|(digest, _)| read_base(&self.source, &digest));
            read_bytes += content.len() as u64 + base.as_ref().map_or(0, |base| base.len() as u64);
            self.next += 1;
            if !gathered.is_alike(base.is_some()) {
                gathered.finish(self.accepts_zstd, &mut items);
            } else if !gathered.fits(&content, base.as_deref()) {
                self.gathered.add(number, &content, base.as_deref());
                break;
            }
            gathered.add(number, &content, base.as_deref());
        }
        gathered.finish(self.accepts_zstd, &mut items);
        debug_assert!(items.iter().map(size_of).sum::<u64>() <= 2 * TURN_BYTES, "too much for one turn");
        Ok(items)
    }
}

fn open(source: &Source, digest: &Digest) -> io::Result<Option<(Stored, u64)>> {
    Ok(source.open(digest)?.map(|stored| {
        let size = stored.size();
        (stored, size)
    }))
}

fn read(mut stored: Stored, size: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(size).map_err(io::Error::other)?);
    stored.read_to_end(&mut content)?;
    Ok(content)
}

/// Opens what the node has. That it cannot be had here makes no difference to the node but in bytes.
fn open_base(source: &Source, digest: &Digest) -> Option<(Stored, u64)> {
    match open(source, digest) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%digest, %error, "a content that a node has could not be read here: the new one goes whole");
            None
        }
    }
}

fn read_base(source: &Source, digest: &Digest) -> Option<Vec<u8>> {
    let (file, size) = open_base(source, digest)?;
    let base = read(file, size).ok()?;
    if !digest.verifies(&base) {
        source.quarantine(digest);
        return None;
    }
    Some(base)
}

/// Small contents on their way into one pack.
#[derive(Default)]
struct Gathered {
    first: u32,
    count: u32,
    contents: Vec<u8>,
    bases: Vec<u8>,
    has_bases: bool,
}

impl Gathered {
    fn has_room(&self) -> bool {
        let most = if self.has_bases { ALIKE_BYTES } else { PACK_BYTES };
        self.count < PACK_CONTENTS && (self.contents.len() as u64) < most && (self.bases.len() as u64) < MAX_PACK_BASE_BYTES
    }

    /// Whether a content with, or without, a base may join: those in a pack all have one or none has.
    const fn is_alike(&self, has_base: bool) -> bool {
        self.count == 0 || self.has_bases == has_base
    }

    /// Whether a receiver takes in so much at once.
    fn fits(&self, content: &[u8], base: Option<&[u8]>) -> bool {
        let with = |bytes: &[u8], more: &[u8]| bytes.len() as u64 + more.len() as u64;
        with(&self.contents, content) <= MAX_PACK_BYTES && with(&self.bases, base.unwrap_or_default()) <= MAX_PACK_BASE_BYTES
    }

    fn add(&mut self, number: u32, content: &[u8], base: Option<&[u8]>) {
        if self.count == 0 {
            self.first = number;
            self.has_bases = base.is_some();
        }
        self.count += 1;
        self.contents.extend_from_slice(content);
        self.bases.extend_from_slice(base.unwrap_or_default());
    }

    /// Packs what was gathered, if anything was, and begins anew.
    fn finish(&mut self, accepts_zstd: bool, items: &mut Vec<FetchItem>) {
        let Self { first, count, contents, bases, has_bases } = std::mem::take(self);
        if count > 0 {
            let size = contents.len() as u64;
            let packed = match (accepts_zstd, has_bases) {
                (false, _) => None,
                (true, false) => compress(&contents, b""),
                (true, true) => compress_alike(&contents, &bases),
            };
            let base = has_bases.then_some(PackBase { at: 0, size: bases.len() as u64 });
            items.push(item(
                Pack { first, count, at: 0, size, length: size, encoding: Encoding::Identity, base },
                packed,
                contents,
            ));
        }
    }
}

/// Returns how many bytes of contents an item is.
const fn size_of(item: &FetchItem) -> u64 {
    match item {
        FetchItem::Pack(pack, _) => pack.size,
        _ => 0,
    }
}

/// Returns the item for a pack whose bytes are `packed`, or else `plain`.
pub(super) fn item(pack: Pack, packed: Option<Vec<u8>>, plain: Vec<u8>) -> FetchItem {
    match packed {
        Some(packed) => FetchItem::Pack(Pack { length: packed.len() as u64, encoding: Encoding::Zstd, ..pack }, packed.into()),
        None => FetchItem::Pack(Pack { encoding: Encoding::Identity, base: None, ..pack }, Bytes::from(plain)),
    }
}
