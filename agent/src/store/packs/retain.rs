//! Removing contents from packs: a pack goes as a whole, after what is still wanted of it is in another.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use direct_puppet_transport::protocol::Digest;

use super::format::Entry;
use super::{Pack, is_damage};
use crate::fs::{FsError, FsErrorKind};
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
    /// Removes packs of which nothing is wanted; returns count and bytes. It needs no room.
    pub(in crate::store) fn remove_unwanted_packs(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<(u64, u64), FsError> {
        let (mut count, mut bytes) = (0, 0);
        for sorted in self.sorted(keep).into_iter().filter(|sorted| sorted.wanted.is_empty()) {
            count += sorted.unwanted;
            bytes += sorted.unwanted_bytes;
            self.drop_pack(&sorted.pack)?;
        }
        Ok((count, bytes))
    }

    /// Removes contents that `keep` does not want from packs; of packs of which more is wanted than not they stay, and all of them where there is no
    /// room for what is wanted. Joins small packs when there are many. Returns count and bytes.
    pub(in crate::store) fn rewrite_packs(&self, keep: &dyn Fn(&Digest) -> bool, aside: &Path) -> Result<(u64, u64), FsError> {
        let (rewritten, mut kept): (Vec<_>, Vec<_>) = self.sorted(keep).into_iter().partition(Sorted::is_mostly_unwanted);
        // One after the other: each makes room for the next.
        let mut groups: Vec<Vec<Sorted>> = rewritten.into_iter().map(|sorted| vec![sorted]).collect();
        if kept.len() > MAX_PACKS {
            kept.sort_by_key(|sorted| std::cmp::Reverse(sorted.wanted_bytes));
            groups.push(kept.drain(MAX_PACKS / 2..).collect());
        }
        let (mut count, mut bytes) = (0, 0);
        for group in groups {
            if !self.rewrite(&group, aside)? {
                continue;
            }
            for Sorted { pack, unwanted, unwanted_bytes, .. } in group {
                self.drop_pack(&pack)?;
                count += unwanted;
                bytes += unwanted_bytes;
            }
        }
        Ok((count, bytes))
    }

    /// Puts what is wanted of packs elsewhere, durably; returns whether that was done, which needs room and a disk that reads.
    fn rewrite(&self, packs: &[Sorted], aside: &Path) -> Result<bool, FsError> {
        match self.copy_wanted(packs, aside) {
            Ok(()) => {}
            Err(error) if error.kind == FsErrorKind::Full || is_damage(&error.source) => {
                tracing::warn!(%error, "packs stay as they are");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        // Before what it takes the place of goes.
        self.sync()?;
        Ok(true)
    }

    fn copy_wanted(&self, packs: &[Sorted], aside: &Path) -> Result<(), FsError> {
        let batch = self.batch();
        for Sorted { pack, wanted, .. } in packs {
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
        batch.finish()
    }

    /// Returns all packs that can be listed; the others stay.
    fn sorted(&self, keep: &dyn Fn(&Digest) -> bool) -> Vec<Sorted> {
        let sort = |pack: Arc<Pack>| match Sorted::new(pack, keep) {
            Ok(sorted) => Some(sorted),
            Err(error) => {
                tracing::warn!(%error, "a pack stays");
                None
            }
        };
        self.packs().into_iter().filter_map(sort).collect()
    }

    fn drop_pack(&self, pack: &Arc<Pack>) -> Result<(), FsError> {
        self.packs.write().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, pack));
        pack.remove()
    }
}
