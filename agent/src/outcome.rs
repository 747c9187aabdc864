//! What a run did, in numbers and events.

use std::sync::Arc;

use direct_puppet_transport::protocol::report::Event;
use direct_puppet_transport::protocol::{CatalogId, CodeId, Report, RunStatus, VersionCounter};
use serde::{Serialize, Serializer};

use crate::tree::ScanCounters;

/// Where the catalog of a run came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Answer {
    /// The server said that the one on disk is current.
    Current,
    /// The server sent one.
    Catalog,
    /// The one on disk was used without the server's word.
    Cached,
    /// It was given to the run: [`RunOptions::catalog`](crate::RunOptions::catalog).
    Given,
}

/// Resources by what became of them. A recursive file counts once for each file that it generates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ResourceCounters {
    /// In the catalog, or generated.
    pub total: u64,
    /// Not as the catalog wants it.
    pub out_of_sync: u64,
    /// Changed.
    pub changed: u64,
    /// Could not be checked or changed.
    pub failed: u64,
    /// Passed over: a failed dependency, tags, cancellation.
    pub skipped: u64,
    /// Changed because of drift.
    pub corrective_change: u64,
    /// Refreshed because of a notification.
    pub restarted: u64,
    /// Failed to refresh.
    pub failed_to_restart: u64,
}

/// What went over the transport in one run; bytes are those of message bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WireCounters {
    /// Calls made.
    pub requests: u64,
    /// Bytes of request bodies.
    pub bytes_sent: u64,
    /// Bytes of response bodies.
    pub bytes_received: u64,
    /// Distinct contents asked for.
    pub contents_requested: u64,
    /// Contents received and verified.
    pub contents_received: u64,
    /// Contents asked for once more, because what came packed was not them: mostly a file that changed since it was scanned.
    pub contents_repeated: u64,
    /// Of those received: put together from pieces of what the node had, which was asked of no catalog.
    pub contents_pieced: u64,
}

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// How it ended.
    pub status: RunStatus,
    /// Random id of the run, 32 hexadecimal digits.
    pub transaction_uuid: String,
    /// The catalog applied.
    pub catalog_id: Option<CatalogId>,
    /// The code that made it.
    pub code_id: Option<CodeId>,
    /// Where that code stands.
    pub version: Option<VersionCounter>,
    /// Where the catalog came from.
    pub answer: Option<Answer>,
    /// Nothing was to be changed.
    pub noop: bool,
    /// What became of the resources.
    pub resources: ResourceCounters,
    /// What the scan cost.
    pub scan: ScanCounters,
    /// What the transport carried.
    pub wire: WireCounters,
    /// How many Ruby processes were started, for types that only Ruby has.
    pub ruby_started: u64,
    /// Warnings and errors for people, in order.
    pub messages: Vec<String>,
    /// The report, as it was or will be sent; its events are serialised, as `events`, and [`Outcome::pending_refreshes`] after them.
    #[serde(rename = "events", serialize_with = "events_of")]
    pub report: Arc<Report>,
    /// Unified diffs by resource, where asked for.
    #[serde(skip)]
    pub diffs: Vec<(String, String)>,
}

impl Outcome {
    /// Returns one event per change, made, failed or (in noop) pending, by resource.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.report.resource_statuses.iter().flat_map(|status| &status.events)
    }

    /// Returns the refreshes that there would have been of what is in noop, as events without a property: Puppet has no events of these.
    pub fn pending_refreshes(&self) -> impl Iterator<Item = &Event> {
        pending_refreshes(&self.report)
    }

    /// Returns whether something was changed, or in noop would have been.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        match self.noop {
            // A refresh may follow from what is only audited.
            true => self.resources.out_of_sync > 0 || self.pending_refreshes().next().is_some(),
            false => self.resources.changed > 0 || self.resources.restarted > 0,
        }
    }

    /// Returns Puppet's detailed exit code: 0 nothing, 2 changes, 4 failures, 6 both.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let is_failed = matches!(self.status, RunStatus::Failed);
        let failed = is_failed || self.resources.failed > 0 || self.resources.failed_to_restart > 0;
        (if self.has_changes() { 2 } else { 0 }) + (if failed { 4 } else { 0 })
    }
}

fn pending_refreshes(report: &Report) -> impl Iterator<Item = &Event> {
    report.resource_statuses.iter().filter_map(|status| status.pending_refresh.as_deref())
}

/// A run that changes tens of thousands of files has as many events; they are not copied for this.
fn events_of<S: Serializer>(report: &Arc<Report>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(report.resource_statuses.iter().flat_map(|status| &status.events).chain(pending_refreshes(report)))
}
