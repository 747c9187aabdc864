//! How a large content is cut, and the bytes of those stretches that a node lacks.
//!
//! Nobody's own content is needed for that, so it is the same for every node that asks: how a whole content is cut coarsely is kept.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use direct_puppet_agent::store::Stored;
use direct_puppet_transport::protocol::compress::compress;
use direct_puppet_transport::protocol::{Digest, Encoding, Grain, Hasher, Pack, Part, Piece};
use direct_puppet_transport::{FetchItem, FetchItems};
use tokio::sync::Semaphore;

use super::contents::Source;
use super::packs::item;
use super::turns::{self, Turns};

/// How much of a content is read and cut at a time.
const TURN_BYTES: u64 = 8 * 1024 * 1024;
/// A pack of stretches is full after this many bytes.
const PACK_BYTES: usize = 512 * 1024;
/// How many bytes of cuts are kept: those of some 20 GiB of contents,
const KEPT_BYTES: usize = 4 * 1024 * 1024;
/// of contents of this length, in bytes: shorter ones are cut as soon as they are looked up, and what longer ones take is not gathered,
const KEPT: RangeInclusive<u64> = 1 << 20..=16 << 30;
/// and what one of them takes in memory beside its packs, about.
const ENTRY_BYTES: usize = 256;

/// How a content is cut, as it travels.
type Packs = Vec<(Pack, Bytes)>;

/// Coarse cuts of whole contents that were asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_digest: HashMap<Digest, Arc<[(Pack, Bytes)]>>,
    /// The oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Cuts {
    fn get(&self, digest: &Digest) -> Option<Arc<[(Pack, Bytes)]>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).by_digest.get(digest).cloned()
    }

    fn keep(&self, digest: Digest, packs: Packs) {
        let length = |packs: &[(Pack, Bytes)]| {
            packs.iter().map(|(_, bytes)| bytes.len() + size_of::<(Pack, Bytes)>()).sum::<usize>() + ENTRY_BYTES
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let added = length(&packs);
        if added > KEPT_BYTES || kept.by_digest.contains_key(&digest) {
            return;
        }
        kept.bytes += added;
        kept.order.push_back(digest);
        kept.by_digest.insert(digest, packs.into());
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.by_digest.remove(&oldest).map_or(0, |packs| length(&packs));
        }
    }
}

/// What is asked for, and from where.
pub(super) struct Question {
    pub(super) source: Arc<Source>,
    pub(super) digest: Digest,
    pub(super) part: Part,
    pub(super) accepts_zstd: bool,
    pub(super) cuts: Arc<Cuts>,
}

/// Where an answer stands.
struct Progress {
    question: Question,
    stored: Option<Stored>,
    /// The stretch that is being answered, and how much of it is.
    stretch: usize,
    done: u64,
    /// How many bytes of stretches are answered in all.
    told: u64,
    /// Proves a content that is cut as a whole, and gathers its cuts, unless they are too many to be kept.
    whole: Option<(Hasher, Option<Packs>)>,
    is_over: bool,
}

/// Answers with packs of the number 0; what is not there, or not for this node, or shorter than was thought, is missing.
pub(super) fn stream(question: Question, permits: Arc<Semaphore>) -> FetchItems {
    let progress = Progress { question, stored: None, stretch: 0, done: 0, told: 0, whole: None, is_over: false };
    turns::stream(progress, permits)
}

impl Turns for Progress {
    fn is_over(&self) -> bool {
        self.is_over
    }

    fn turn(&mut self) -> io::Result<Vec<FetchItem>> {
        let Some(stored) = self.stored.take() else { return self.begin() };
        let item = match self.question.part.grain {
            Some(grain) => self.cut(&stored, grain)?,
            None => self.pack(&stored)?,
        };
        self.stored = Some(stored);
        Ok(vec![item])
    }
}

impl Progress {
    fn begin(&mut self) -> io::Result<Vec<FetchItem>> {
        let Question { source, digest, part, cuts, .. } = &self.question;
        let stored = source.open(digest)?;
        let end = part.stretches.last().map_or(0, |(at, size)| at + size);
        let Some(stored) = stored.filter(|stored| end <= stored.size()) else {
            self.is_over = true;
            return Ok(vec![FetchItem::Missing(*digest)]);
        };
        if part.grain == Some(Grain::Coarse) && part.stretches == [(0, stored.size())] {
            if let Some(kept) = cuts.get(digest) {
                self.is_over = true;
                return Ok(kept.iter().map(|(pack, bytes)| FetchItem::Pack(*pack, bytes.clone())).collect());
            }
            let is_kept = KEPT.contains(&stored.size());
            self.whole = Some((digest.verifier(), is_kept.then(Vec::new)));
        }
        self.stored = Some(stored);
        Ok(Vec::new())
    }

    /// Reads what comes next of a stretch, at most so many bytes; says whether that is its end.
    fn read(&self, stored: &Stored, most: u64) -> io::Result<(Vec<u8>, bool)> {
        let (at, size) = self.question.part.stretches[self.stretch];
        let count = (size - self.done).min(most);
        let mut bytes = vec![0; usize::try_from(count).map_err(io::Error::other)?];
        stored.read_exact_at(&mut bytes, at + self.done)?;
        Ok((bytes, self.done + count == size))
    }

    fn went_on(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.told += bytes as u64;
        if self.done == self.question.part.stretches[self.stretch].1 {
            (self.stretch, self.done) = (self.stretch + 1, 0);
            self.is_over = self.stretch == self.question.part.stretches.len();
        }
    }

    /// Cuts what comes next, many short stretches together.
    fn cut(&mut self, stored: &Stored, grain: Grain) -> io::Result<FetchItem> {
        let (at, mut pieces) = (self.told, Vec::new());
        // As much again may be read at the most: the pieces of that are far fewer bytes than a pack may have.
        while self.told - at < TURN_BYTES / 2 && !self.is_over {
            let (bytes, is_end) = self.read(stored, TURN_BYTES)?;
            let cut = grain.cut(&bytes, is_end);
            let size: usize = cut.iter().map(|piece| piece.size as usize).sum();
            if let Some((hasher, _)) = &mut self.whole {
                hasher.update(&bytes[..size]);
            }
            pieces.extend(cut);
            self.went_on(size);
        }
        let encoded = Bytes::from(Piece::encode(&pieces));
        let (size, length) = (self.told - at, encoded.len() as u64);
        let pack = Pack { first: 0, count: 1, at, size, length, encoding: Encoding::Pieces, base: None };
        if let Some((_, Some(packs))) = &mut self.whole {
            packs.push((pack, encoded.clone()));
        }
        if self.is_over
            && let Some((hasher, packs)) = self.whole.take()
        {
            let Question { source, digest, cuts, .. } = &self.question;
            if hasher.finish() != *digest {
                source.quarantine(digest);
                return Err(io::Error::other(format!("content {digest} is damaged in the server's store")));
            }
            if let Some(packs) = packs {
                cuts.keep(*digest, packs);
            }
        }
        Ok(FetchItem::Pack(pack, encoded))
    }

    /// Packs the bytes of stretches, many short ones together.
    fn pack(&mut self, stored: &Stored) -> io::Result<FetchItem> {
        let (at, mut content) = (self.told, Vec::new());
        while content.len() < PACK_BYTES && !self.is_over {
            let (bytes, _) = self.read(stored, (PACK_BYTES - content.len()) as u64)?;
            content.extend_from_slice(&bytes);
            self.went_on(bytes.len());
        }
        let size = content.len() as u64;
        let packed = if self.question.accepts_zstd { compress(&content, &[]) } else { None };
        Ok(item(Pack { first: 0, count: 1, at, size, length: size, encoding: Encoding::Identity, base: None }, packed, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_cuts_go_when_there_are_too_many() {
        let cuts = Cuts::default();
        let digest = |number: u8| Digest::of(&[number]);
        let packs = |bytes: usize| {
            let pack = Pack { first: 0, count: 1, at: 0, size: 1, length: 0, encoding: Encoding::Pieces, base: None };
            vec![(pack, Bytes::from(vec![0; bytes - ENTRY_BYTES - size_of::<(Pack, Bytes)>()]))]
        };
        cuts.keep(digest(0), packs(KEPT_BYTES + 1));
        assert!(cuts.get(&digest(0)).is_none(), "one that is too long for all is kept");
        for number in 1..=8 {
            cuts.keep(digest(number), packs(KEPT_BYTES / 4));
            cuts.keep(digest(number), packs(KEPT_BYTES / 4));
        }
        let kept: Vec<u8> = (0..=8).filter(|number| cuts.get(&digest(*number)).is_some()).collect();
        assert_eq!(kept, [5, 6, 7, 8]);
        assert_eq!(cuts.kept.lock().unwrap().bytes, KEPT_BYTES);
    }
}
