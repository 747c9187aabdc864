//! What a scan proved, and for how long.

use std::time::Duration;

use direct_puppet_transport::protocol::TreePath;

use super::super::cache::StatCache;
use super::super::record::Nanos;
use super::super::scan::{ContentState, Scan, WantedContent};
use super::contents::ProvedContent;

/// What a scan would find again as long as nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proofs {
    pub(super) listed: u64,
    pub(super) stat_proved: u64,
    /// When the first file is to be proved by digest again.
    pub(super) due_at: Nanos,
    /// The contents, by path.
    pub(super) contents: Vec<(TreePath, ProvedContent)>,
}

impl Proofs {
    /// Returns what `scan` proved; `None` when the next one would have to open a file, or to do something about one.
    pub(crate) fn of(wanted: &[WantedContent], scan: &Scan, cache: &StatCache, interval: Duration) -> Option<Self> {
        let mut proofs = Self { listed: wanted.len() as u64, stat_proved: 0, due_at: Nanos::MAX, contents: Vec::new() };
        for want in wanted {
            let scanned = scan.files.get(&want.path)?;
            match scanned.content {
                ContentState::Same => {
                    let due_at = cache.due_at(want, scanned.stat.as_ref()?, interval)?;
                    proofs.due_at = proofs.due_at.min(due_at);
                    proofs.stat_proved += 1;
                    // One that is not replaced is not read either, whatever is to be verified.
                    if want.replace {
                        let content = ProvedContent { digest: want.digest, fingerprint: cache.fingerprint_of(want) };
                        proofs.contents.push((want.path.clone(), content));
                    }
                }
                ContentState::Different(_) | ContentState::OtherKind if !want.replace => {}
                _ => return None,
            }
        }
        Some(proofs)
    }
}
