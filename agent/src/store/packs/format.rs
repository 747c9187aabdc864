//! How a pack lies on disk.
//!
//! ```text
//! magic                     8 bytes
//! contents                  one after the other
//! heads                     16 bytes each: the first half of each digest, in order
//! tails                     28 bytes each, in the same order: the second half, offset (u64 LE), length (u32 LE)
//! count, offset of heads    u64 LE each
//! BLAKE3 of the heads       32 bytes
//! magic                     8 bytes
//! ```
//!
//! Heads are proved when a pack is opened; a tail is proved by the content that is read with its help. When heads are damaged, contents
//! are found by the tails alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use direct_puppet_transport::protocol::{Algorithm, Digest};

pub(super) const MAGIC: [u8; 8] = *b"DPPACK\x01\n";
const HEAD_BYTES: usize = 16;
const TAIL_BYTES: usize = 28;
const FOOTER_BYTES: usize = 56;

/// Where a content lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Its BLAKE3 digest.
    pub(super) digest: [u8; 32],
    /// From the beginning of the pack.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u32,
}

/// What is held of a pack: the first halves of its digests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// In order.
    sorted: Vec<u128>,
    /// Where tails begin.
    tails_at: u64,
}

impl Entry {
    pub(super) fn digest(&self) -> Digest {
        Digest::new(Algorithm::Blake3, self.digest)
    }
}

/// Returns what follows the contents, which end at `end`, and what is held of it.
pub(super) fn encode(entries: &mut [Entry], end: u64) -> (Vec<u8>, Heads) {
    entries.sort_unstable();
    let mut bytes = Vec::with_capacity(entries.len() * (HEAD_BYTES + TAIL_BYTES) + FOOTER_BYTES);
    bytes.extend(entries.iter().flat_map(|entry| &entry.digest[..HEAD_BYTES]));
    let hash = blake3::hash(&bytes);
    for entry in &*entries {
        bytes.extend_from_slice(&entry.digest[HEAD_BYTES..]);
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.len.to_le_bytes());
    }
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&end.to_le_bytes());
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(&MAGIC);
    let sorted = entries.iter().map(|entry| head(&entry.digest)).collect();
    (bytes, Heads { sorted, tails_at: end + (entries.len() * HEAD_BYTES) as u64 })
}

/// Reads the end of a pack and proves it.
pub(super) fn read_heads(file: &File) -> io::Result<Heads> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let len = file.metadata()?.len();
    let mut footer = [0; FOOTER_BYTES];
    let footer_at = len.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("it is cut off"))?;
    file.read_exact_at(&mut footer, footer_at)?;
    let (numbers, rest) = footer.split_at(16);
    let (hash, magic) = rest.split_at(32);
    if magic != MAGIC {
        return Err(damaged("it does not end as a pack does"));
    }
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().unwrap_or_default());
    let (count, heads_at) = (number(0), number(8));
    let entry_bytes = (HEAD_BYTES + TAIL_BYTES) as u64;
    let is_whole = count.checked_mul(entry_bytes).and_then(|bytes| bytes.checked_add(heads_at)) == Some(footer_at);
    let head_bytes = count.checked_mul(HEAD_BYTES as u64).and_then(|bytes| usize::try_from(bytes).ok());
    let (true, Some(head_bytes)) = (is_whole, head_bytes) else {
        return Err(damaged("its length is not what it says"));
    };
    let mut heads = vec![0; head_bytes];
    file.read_exact_at(&mut heads, heads_at)?;
    if blake3::hash(&heads).as_bytes() != hash {
        return Err(damaged("its index is damaged"));
    }
    let sorted: Vec<u128> = heads.as_chunks::<HEAD_BYTES>().0.iter().map(|head| u128::from_be_bytes(*head)).collect();
    Ok(Heads { sorted, tails_at: heads_at + head_bytes as u64 })
}

/// What a tail says: the second half of a digest, and where the content lies.
pub(super) type Tail = ([u8; HEAD_BYTES], u64, u32);

/// Tails that are read at once.
const TAILS_AT_ONCE: u64 = 4096;

/// Reads the tails of a pack of which something else of the index is damaged; of the two numbers that say how many there are, one is
/// enough. Nothing of what is passed to `each` is proved.
pub(super) fn read_tails<E>(file: &File, mut each: impl FnMut(Tail) -> Result<(), E>) -> io::Result<Result<(), E>> {
    let len = file.metadata()?.len();
    let Some(footer_at) = len.checked_sub(FOOTER_BYTES as u64) else { return Ok(Ok(())) };
    let mut numbers = [0; 16];
    file.read_exact_at(&mut numbers, footer_at)?;
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().unwrap_or_default());
    let by_place = footer_at.checked_sub(number(8)).map(|bytes| bytes / (HEAD_BYTES + TAIL_BYTES) as u64);
    let mut counts = vec![number(0)];
    counts.extend(by_place.filter(|count| *count != number(0)));
    for count in counts {
        let Some(begin) = count.checked_mul(TAIL_BYTES as u64).and_then(|bytes| footer_at.checked_sub(bytes)) else { continue };
        let mut left = count;
        while left > 0 {
            let some = left.min(TAILS_AT_ONCE);
            let mut tails = vec![0; usize::try_from(some).unwrap_or_default() * TAIL_BYTES];
            let read = file.read_exact_at(&mut tails, begin + (count - left) * TAIL_BYTES as u64);
            left -= some;
            if let Err(error) = read {
                tracing::debug!(%error, "a part of a pack's index cannot be read");
                continue;
            }
            for tail in tails.as_chunks::<TAIL_BYTES>().0 {
                let entry = join(0, tail);
                let mut second = [0; HEAD_BYTES];
                second.copy_from_slice(&entry.digest[HEAD_BYTES..]);
                if let Err(error) = each((second, entry.offset, entry.len)) {
                    return Ok(Err(error));
                }
            }
        }
    }
    Ok(Ok(()))
}

/// Returns the first half of a digest.
fn head(digest: &[u8; 32]) -> u128 {
    let mut head = [0; HEAD_BYTES];
    head.copy_from_slice(&digest[..HEAD_BYTES]);
    u128::from_be_bytes(head)
}

impl Heads {
    /// How many contents there are.
    pub(super) const fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Returns the places of contents whose digests begin as this one: one, unless somebody made two such digests.
    pub(super) fn places(&self, digest: &[u8; 32]) -> std::ops::Range<usize> {
        let head = head(digest);
        let first = self.sorted.partition_point(|other| *other < head);
        let count = self.sorted[first..].iter().take_while(|other| **other == head).count();
        first..first + count
    }

    /// Reads the entry at a place.
    pub(super) fn entry(&self, file: &File, place: usize) -> io::Result<Entry> {
        let mut tail = [0; TAIL_BYTES];
        file.read_exact_at(&mut tail, self.tails_at + (place * TAIL_BYTES) as u64)?;
        Ok(join(self.sorted[place], &tail))
    }

    /// Reads all entries.
    pub(super) fn entries(&self, file: &File) -> io::Result<Vec<Entry>> {
        let mut tails = vec![0; self.len() * TAIL_BYTES];
        file.read_exact_at(&mut tails, self.tails_at)?;
        Ok(self.sorted.iter().zip(tails.as_chunks::<TAIL_BYTES>().0).map(|(head, tail)| join(*head, tail)).collect())
    }
}

fn join(head: u128, tail: &[u8; TAIL_BYTES]) -> Entry {
    let mut digest = [0; 32];
    digest[..HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
    digest[HEAD_BYTES..].copy_from_slice(&tail[..16]);
    let mut offset = [0; 8];
    offset.copy_from_slice(&tail[16..24]);
    let mut len = [0; 4];
    len.copy_from_slice(&tail[24..]);
    Entry { digest, offset: u64::from_le_bytes(offset), len: u32::from_le_bytes(len) }
}
