//! Reports, and what is known of nodes.

use direct_puppet_transport::protocol::Report;

use super::{Shared, names};
use crate::nodes::NodeSummary;
use crate::store::StoreError;

impl Shared {
    /// Keeps a report once; returns whether it had been kept before.
    pub(crate) async fn keep_report(&self, report: &Report) -> Result<bool, StoreError> {
        let prefix = names::reports(&report.host);
        let name = format!("{prefix}{:020}-{}", report.time_unix_nanos.max(0), report.transaction_uuid);
        let is_new = self.store.pointers.swap(&name, None, Some(self.encode(report)?)).await?;
        if is_new {
            let names = self.store.pointers.names(&prefix).await?;
            for old in &names[..names.len().saturating_sub(self.reports_per_node)] {
                self.unset(old).await?;
            }
        }
        Ok(!is_new)
    }

    /// Tells what is known here of a node.
    pub(crate) async fn keep_summary(&self, summary: &NodeSummary) -> Result<(), StoreError> {
        self.set(&names::node(&summary.certname), summary).await
    }

    /// Returns what is known of every node.
    pub(crate) async fn summaries(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let found = self.store.pointers.list(names::NODES).await?;
        found.iter().map(|(name, pointer)| self.decode(name, &pointer.value)).collect()
    }
}
