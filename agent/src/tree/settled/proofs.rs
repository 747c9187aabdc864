//! What a scan proved, and for how long.

use std::time::Duration;

use super::super::cache::StatCache;
use super::super::record::Nanos;
use super::super::scan::{ContentState, Scan, WantedContent};

/// What a scan would find again as long as nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proofs {
    pub(super) listed: u64,
    pub(super) stat_proved: u64,
    /// When the first file is to be proved by digest again.
    pub(super) due_at: Nanos,
}

impl Proofs {
    /// Returns what `scan` proved; `None` when the next one would have to open a file, or to do something about one.
    pub(crate) fn of(wanted: &[WantedContent], scan: &Scan, cache: &StatCache, interval: Duration) -> Option<Self> {
        let mut proofs = Self { listed: wanted.len() as u64, stat_proved: 0, due_at: Nanos::MAX };
        for want in wanted {
            let scanned = scan.files.get(&want.path)?;
            match scanned.content {
                ContentState::Same => {
                    let due_at = cache.due_at(want, scanned.stat.as_ref()?, interval)?;
                    proofs.due_at = proofs.due_at.min(due_at);
                    proofs.stat_proved += 1;
                }
                ContentState::Different(_) | ContentState::OtherKind if !want.replace => {}
                _ => return None,
            }
        }
        Some(proofs)
    }
}
