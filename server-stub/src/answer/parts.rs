//! A large content in parts: what stands in the node's base is not sent at all, what is near it is compressed against that place.

use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::store::Stored;
use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::compress::compress;
use direct_puppet_transport::protocol::{Digest, Encoding, Hasher, Pack, PackBase};
use memchr::memmem;

use super::contents::Source;
use super::packs::item;

/// How much is looked at, and compressed, at a time. Each part costs some 100 bytes, what is unchanged around an edit nearly nothing.
const PART_BYTES: usize = 256 * 1024;
/// How far around its place a part's base reaches: what was put in or taken out between two places may be as long as that.
const MARGIN_BYTES: u64 = 256 * 1024;
/// How much is looked at before the peer is given what there is, and others get their turn.
const TURN_BYTES: u64 = 16 * 1024 * 1024;
/// How many bytes at the end of a part say where in the base the next one is.
const ANCHOR_BYTES: usize = 64;
/// How often the whole base is searched for an anchor, per content: for what was moved further than the margin. After parts of which
/// nothing was found, twice as many must follow before the next search, so a long stretch that is new does not use them up.
const MAX_SEARCHES: u32 = 24;
const SEARCH_BYTES: usize = 1024 * 1024;

/// Where a large content stands.
pub(super) struct Parts {
    stored: Stored,
    number: u32,
    digest: Digest,
    size: u64,
    at: u64,
    hasher: Hasher,
    base: Option<Base>,
    accepts_zstd: bool,
    /// Bytes before `at` that stand in the base and were not told yet.
    same: u64,
    source: Arc<Source>,
}

struct Base {
    stored: Stored,
    size: u64,
    /// How much further on in the base the next bytes are thought to be.
    shift: i64,
    searches: u32,
    /// Parts since something was last found.
    misses: u32,
}

/// A stretch of a base.
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Parts {
    pub(super) fn new(
        stored: Stored,
        number: u32,
        digest: Digest,
        size: u64,
        base: Option<(Stored, u64)>,
        accepts_zstd: bool,
        source: Arc<Source>,
    ) -> Self {
        let base = base.map(|(stored, size)| Base { stored, size, shift: 0, searches: 0, misses: 0 });
        Self { stored, number, digest, size, at: 0, hasher: digest.verifier(), base, accepts_zstd, same: 0, source }
    }

    /// Adds the next parts; returns whether those were the last. Blocking.
    ///
    /// # Errors
    ///
    /// When the content cannot be read, or is not what it is called: its last part is not sent then.
    pub(super) fn next(&mut self, items: &mut Vec<FetchItem>) -> io::Result<bool> {
        let until = self.at.saturating_add(TURN_BYTES);
        while self.at < until {
            let part = self.read()?;
            let is_last = self.at + part.len() as u64 >= self.size || part.is_empty();
            if is_last {
                self.verify(self.at + part.len() as u64)?;
            }
            if self.base.as_ref().is_some_and(|base| base.has(self.at, &part)) {
                self.same += part.len() as u64;
                self.at += part.len() as u64;
            } else {
                self.tell_same(items);
                let at = self.at;
                self.at += part.len() as u64;
                let item = self.pack(at, part);
                let is_large = matches!(&item, FetchItem::Pack(pack, _) if pack.length > PART_BYTES as u64 / 8);
                items.push(item);
                if is_large && !is_last {
                    // No more than this is held for a peer that takes nothing.
                    return Ok(false);
                }
            }
            if is_last {
                self.tell_same(items);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut part = Vec::with_capacity(PART_BYTES);
        (&mut self.stored).take(PART_BYTES as u64).read_to_end(&mut part)?;
        self.hasher.update(&part);
        Ok(part)
    }

    fn verify(&self, read: u64) -> io::Result<()> {
        if read != self.size || self.hasher.clone().finish() != self.digest {
            self.source.quarantine(&self.digest);
            return Err(io::Error::other(format!("content {} is damaged in the server's store", self.digest)));
        }
        Ok(())
    }

    /// Tells the peer to take from its base what was found to be the same.
    fn tell_same(&mut self, items: &mut Vec<FetchItem>) {
        let Some(base) = self.base.as_ref().filter(|_| self.same > 0) else { return };
        let (at, size) = (self.at - self.same, self.same);
        self.same = 0;
        let base = base.place_of(at).map(|at| PackBase { at, size });
        let pack = Pack { first: self.number, count: 1, at, size, length: 0, encoding: Encoding::Copy, base };
        items.push(FetchItem::Pack(pack, Bytes::new()));
    }

    /// Packs a part that does not stand in the base where it was looked for.
    fn pack(&mut self, at: u64, part: Vec<u8>) -> FetchItem {
        let size = part.len() as u64;
        let plain = Pack { first: self.number, count: 1, at, size, length: size, encoding: Encoding::Identity, base: None };
        if !self.accepts_zstd {
            return item(plain, None, part);
        }
        let near = self.base.as_mut().and_then(|base| base.near(at, &part));
        match near {
            Some((window, packed)) => {
                let base = Some(PackBase { at: window.at, size: window.bytes.len() as u64 });
                item(Pack { base, ..plain }, Some(packed), part)
            }
            None => item(plain, compress(&part, b""), part),
        }
    }
}

impl Base {
    /// Returns where in the base the byte `at` of the content is thought to be.
    fn place_of(&self, at: u64) -> Option<u64> {
        at.checked_add_signed(self.shift)
    }

    /// Whether a part stands in the base where it is thought to be.
    fn has(&self, at: u64, part: &[u8]) -> bool {
        let Some(place) = self.place_of(at).filter(|place| place.saturating_add(part.len() as u64) <= self.size) else {
            return false;
        };
        let mut there = vec![0; part.len()];
        !part.is_empty() && self.stored.read_exact_at(&mut there, place).is_ok() && there == part
    }

    /// Compresses a part against what is around its place, or where else its end is found; `None` when that does not help.
    fn near(&mut self, at: u64, part: &[u8]) -> Option<(Window, Vec<u8>)> {
        let window = self.window(at, part.len() as u64)?;
        let packed = compress(part, &window.bytes).filter(|packed| packed.len() < part.len() / 2);
        let end = at + part.len() as u64;
        if let Some(packed) = packed {
            self.misses = 0;
            self.follow(&window, end, part);
            return Some((window, packed));
        }
        let anchor = part.get(part.len().checked_sub(ANCHOR_BYTES)?..)?;
        self.misses += 1;
        if self.searches >= MAX_SEARCHES || !self.misses.is_power_of_two() {
            return None;
        }
        self.searches += 1;
        let place = self.search(anchor)?;
        self.shift = shift(end, place + ANCHOR_BYTES as u64)?;
        self.misses = 0;
        let window = self.window(at, part.len() as u64)?;
        let packed = compress(part, &window.bytes)?;
        Some((window, packed))
    }

    /// Reads what is around the place of a part.
    fn window(&self, at: u64, size: u64) -> Option<Window> {
        let from = i128::from(at) + i128::from(self.shift) - i128::from(MARGIN_BYTES);
        let from = u64::try_from(from.max(0)).ok()?.min(self.size);
        let to = i128::from(at) + i128::from(self.shift) + i128::from(size) + i128::from(MARGIN_BYTES);
        let to = u64::try_from(to.max(0)).ok()?.min(self.size);
        let mut bytes = vec![0; usize::try_from(to.checked_sub(from).filter(|&length| length > 0)?).ok()?];
        self.stored.read_exact_at(&mut bytes, from).ok()?;
        Some(Window { at: from, bytes })
    }

    /// Finds out where the base goes on after a part: where the part's end is, if that is not at its old place.
    fn follow(&mut self, window: &Window, end: u64, part: &[u8]) {
        let Some(anchor) = part.len().checked_sub(ANCHOR_BYTES).and_then(|from| part.get(from..)) else { return };
        let expected = self.place_of(end).and_then(|end| end.checked_sub(ANCHOR_BYTES as u64));
        let there = expected.and_then(|place| usize::try_from(place.checked_sub(window.at)?).ok());
        if there.and_then(|at| window.bytes.get(at..at.checked_add(ANCHOR_BYTES)?)) == Some(anchor) {
            return;
        }
        if let Some(found) = memmem::find(&window.bytes, anchor) {
            let place = window.at + (found + ANCHOR_BYTES) as u64;
            self.shift = shift(end, place).unwrap_or(self.shift);
        }
    }

    /// Returns where in the base `anchor` first is.
    fn search(&self, anchor: &[u8]) -> Option<u64> {
        let finder = memmem::Finder::new(anchor);
        let mut piece = vec![0; SEARCH_BYTES];
        let mut at = 0;
        while at < self.size {
            let length = usize::try_from(self.size - at).unwrap_or(SEARCH_BYTES).min(SEARCH_BYTES);
            self.stored.read_exact_at(&mut piece[..length], at).ok()?;
            if let Some(found) = finder.find(&piece[..length]) {
                return Some(at + found as u64);
            }
            // What lies across two pieces is seen in the second.
            at += (length.saturating_sub(anchor.len() - 1).max(1)) as u64;
            if length < anchor.len() {
                break;
            }
        }
        None
    }
}

/// Returns how much further on `place` in the base is than `at` in the content.
fn shift(at: u64, place: u64) -> Option<i64> {
    i64::try_from(i128::from(place) - i128::from(at)).ok()
}
