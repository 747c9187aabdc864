//! Reports of nodes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use direct_puppet_agent::fs::{ensure_private_dir, write_state};
use direct_puppet_transport::protocol::{Certname, Report};

use super::{Node, Nodes};
use crate::disk;
use crate::error::ServerError;
use crate::server::now;

/// Reports that a node may send at once, after it has been quiet for long.
const MOST_REPORTS: f64 = 600.0;

/// Reports that it may send in a second over time.
const REPORTS_PER_SECOND: f64 = 1.0;

/// How many reports a node may send now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// Takes one, if there is one, at a time not before that of the last call.
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * REPORTS_PER_SECOND;
        *self = Self { left: (self.left + gained).min(MOST_REPORTS), at: now };
        let is_one = self.left >= 1.0;
        if is_one {
            self.left -= 1.0;
        }
        is_one
    }
}

impl Nodes {
    /// Whether a node may send a report now; counts it.
    pub(crate) fn may_report(&self, certname: &Certname) -> bool {
        let now = Instant::now();
        let mut nodes = self.lock();
        let node = nodes.entry(certname.clone()).or_insert_with(|| Node::new(certname));
        node.reports.get_or_insert(Allowance { left: MOST_REPORTS, at: now }).take(now)
    }

    /// Keeps a report once; returns whether it had been kept before. Blocking.
    pub(crate) fn report(&self, report: &Report) -> Result<bool, ServerError> {
        let certname = &report.host;
        let dir = self.node_dir(certname);
        // The id names a file: only hexadecimal digits get this far.
        let path = dir.join("reports").join(format!("{:020}-{}.json", report.time_unix_nanos.max(0), report.transaction_uuid));
        if path.exists() {
            return Ok(true);
        }
        let text = disk::json_of(&path, report)?;
        let taken = self.room.take(&dir, text.len() as u64)?;
        let _turn = self.turn(certname);
        ensure_private_dir(&dir)?;
        ensure_private_dir(&dir.join("reports"))?;
        if path.exists() {
            return Ok(true);
        }
        write_state(&path, &text, 0o600)?;
        taken.written();
        let file = {
            let mut nodes = self.lock();
            let node = nodes.entry(certname.clone()).or_insert_with(|| Node::new(certname));
            node.file.last_seen_unix_seconds = now();
            node.file.status = Some(report.status);
            node.file.environment = Some(report.environment.clone());
            node.file.catalog_id = report.catalog_id.or(node.file.catalog_id);
            node.file.code_id = report.code_id.or(node.file.code_id);
            node.file.clone()
        };
        disk::write_json_cache(&dir.join("node.json"), &file)?;
        self.prune_reports(&dir);
        Ok(false)
    }

    /// Removes the oldest reports of the node in `dir` that are too many; their names begin with their time.
    fn prune_reports(&self, dir: &Path) {
        let list = std::fs::read_dir(dir.join("reports"));
        let mut paths: Vec<PathBuf> = list.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in &paths[..paths.len().saturating_sub(self.reports_per_node)] {
            let bytes = path.metadata().map_or(0, |found| found.len());
            match std::fs::remove_file(path) {
                Ok(()) => self.room.removed(dir, bytes),
                Err(error) => tracing::debug!(path = %path.display(), %error, "an old report stays"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_sends_too_many_is_slowed_and_who_was_quiet_may_again() {
        let begin = Instant::now();
        let mut node = Allowance { left: MOST_REPORTS, at: begin };
        let mut taken = |after: u64, times: u32| (0..times).filter(|_| node.take(begin + Duration::from_secs(after))).count();
        assert_eq!(taken(0, 5_000), 600);
        assert_eq!(taken(30, 5_000), 30);
        assert_eq!(taken(30 + 86_400, 5_000), 600);
    }
}
