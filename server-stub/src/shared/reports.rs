//! Reports, and what is known of nodes.

use direct_puppet_transport::protocol::{Certname, Environment, Report};

use super::records::is_damaged;
use super::{Shared, names};
use crate::error::chain;
use crate::nodes::NodeSummary;
use crate::server::now;
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

    /// Tells what is known here of a node, but for how often a catalog was compiled for it.
    pub(crate) async fn keep_summary(&self, summary: NodeSummary) -> Result<(), StoreError> {
        let certname = summary.certname.clone();
        self.change_summary(&certname, |before| match before {
            Some(before) => {
                let environment = summary.environment.clone().or(before.environment);
                NodeSummary { compiles: before.compiles, environment, ..summary.clone() }
            }
            None => NodeSummary { compiles: 0, ..summary.clone() },
        })
        .await
    }

    /// Counts a compile for a node, and tells what it said here when it checked in.
    pub(super) async fn count_compile(&self, certname: &Certname, environment: &Environment) -> Result<(), StoreError> {
        let here = self.nodes.summary(certname);
        self.change_summary(certname, |before| {
            let compiles = before.as_ref().map_or(0, |before| before.compiles) + 1;
            let known = match (here.clone(), before) {
                (Some(here), Some(before)) => {
                    let (catalog_id, code_id) = (before.catalog_id, before.code_id);
                    let known = here.joined(before);
                    // One that has not said here what it has still has what it said elsewhere.
                    match known.code_id {
                        Some(_) => known,
                        None => NodeSummary { catalog_id, code_id, ..known },
                    }
                }
                (Some(known), None) | (None, Some(known)) => known,
                (None, None) => NodeSummary {
                    certname: certname.clone(),
                    environment: None,
                    catalog_id: None,
                    code_id: None,
                    compiles,
                    last_seen: now(),
                    status: None,
                },
            };
            let environment = known.environment.clone().unwrap_or_else(|| environment.clone());
            NodeSummary { compiles, environment: Some(environment), ..known }
        })
        .await
    }

    async fn change_summary(
        &self,
        certname: &Certname,
        change: impl Fn(Option<NodeSummary>) -> NodeSummary + Send + Sync,
    ) -> Result<(), StoreError> {
        let name = names::node(certname);
        loop {
            let before = self.store.pointers.get(&name).await?;
            let generation = before.as_ref().map(|before| before.generation);
            // What cannot be read is written anew.
            let summary = before.and_then(|before| self.decode(&name, &before.value).ok());
            let value = self.encode(&change(summary))?;
            if self.store.pointers.swap(&name, generation, Some(value)).await? {
                return Ok(());
            }
        }
    }

    /// Returns what is known of a node.
    pub(super) async fn summary(&self, certname: &Certname) -> Result<Option<NodeSummary>, StoreError> {
        let name = names::node(certname);
        let found = self.store.pointers.get(&name).await?;
        found.map(|found| self.decode(&name, &found.value)).transpose()
    }

    /// Returns what is known of every node, but for those whose record is damaged: it is written anew when they are heard of.
    pub(crate) async fn readable_summaries(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let mut all = Vec::new();
        for (name, pointer) in self.store.pointers.list(names::NODES).await? {
            match self.decode(&name, &pointer.value) {
                Ok(summary) => all.push(summary),
                Err(error) if is_damaged(&pointer.value) => tracing::error!("{}", chain(&error)),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Returns what is known of every node.
    pub(super) async fn summaries(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let found = self.store.pointers.list(names::NODES).await?;
        found.iter().map(|(name, pointer)| self.decode(name, &pointer.value)).collect()
    }
}
