//! Removing contents from packs: a pack goes as a whole, after what is still wanted of it is in another.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use direct_puppet_transport::protocol::Digest;

use super::Pack;
use super::format::Entry;
use crate::fs::FsError;
use crate::store::Store;

/// From how many packs on the small ones are joined: each is looked into for every content.
const MAX_PACKS: usize = 16;

/// A pack, and what is wanted of it.
struct Sorted {
    pack: Arc<Pack>,
    wanted: Vec<(usize, Entry)>,
    wanted_bytes: u64,
    unwanted: u64,
    unwanted_bytes: u64,
}

impl Sorted {
    fn new(pack: Arc<Pack>, keep: &dyn Fn(&Digest) -> bool) -> Result<Self, FsError> {
        let (wanted, unwanted): (Vec<_>, Vec<_>) = pack.present()?.into_iter().partition(|(_, entry)| keep(&entry.digest()));
        let bytes = |entries: &[(usize, Entry)]| entries.iter().map(|(_, entry)| u64::from(entry.len)).sum();
        let (wanted_bytes, unwanted_bytes) = (bytes(&wanted), bytes(&unwanted));
        Ok(Self { pack, wanted, wanted_bytes, unwanted: unwanted.len() as u64, unwanted_bytes })
    }

    /// Whether more of it is to go than to stay.
    fn is_mostly_unwanted(&self) -> bool {
        self.wanted.is_empty() || self.unwanted_bytes > self.wanted_bytes
    }
}

impl Store {
    /// Removes contents that `keep` does not want; in packs of which more is wanted than not they stay. Returns count and bytes.
    pub(in crate::store) fn retain_packed(&self, keep: &dyn Fn(&Digest) -> bool, aside: &Path) -> Result<(u64, u64), FsError> {
        let sorted: Result<Vec<Sorted>, FsError> = self.packs().into_iter().map(|pack| Sorted::new(pack, keep)).collect();
        let (mut rewritten, mut kept): (Vec<_>, Vec<_>) = sorted?.into_iter().partition(Sorted::is_mostly_unwanted);
        if kept.len() > MAX_PACKS {
            kept.sort_by_key(|sorted| std::cmp::Reverse(sorted.wanted_bytes));
            rewritten.extend(kept.drain(MAX_PACKS / 2..));
        }
        let batch = self.batch();
        for Sorted { pack, wanted, .. } in &rewritten {
            for (place, entry) in wanted {
                let found = super::Packed { pack: Arc::clone(pack), place: *place, entry: *entry };
                let content = found.read()?;
                if entry.digest().verifies(&content) {
                    batch.append(entry.digest(), &content)?;
                } else {
                    found.move_aside(aside)?;
                }
            }
        }
        batch.finish()?;
        if rewritten.iter().any(|sorted| !sorted.wanted.is_empty()) {
            // Before what it takes the place of goes.
            self.sync()?;
        }
        let (mut count, mut bytes) = (0, 0);
        for Sorted { pack, unwanted, unwanted_bytes, .. } in rewritten {
            let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
            packs.retain(|other| !Arc::ptr_eq(other, &pack));
            drop(packs);
            pack.remove()?;
            count += unwanted;
            bytes += unwanted_bytes;
        }
        Ok((count, bytes))
    }
}
