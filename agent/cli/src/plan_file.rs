//! Saved plans: what a run would change, in a file, so that exactly that is applied later, or nothing.
//!
//! The file is JSON of mode 0600: `format`, `version`, a BLAKE3 `checksum` of the plan, and the `plan`. It holds no catalog, and values as reports have
//! them: what is secret is redacted. Applying it asks the same source again, and refuses when that gives another catalog, or when the node would
//! now be changed otherwise than planned. The run that then applies it takes no catalog but the planned one, whatever is published meanwhile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use direct_puppet_agent::fs::write_state;
use direct_puppet_agent::{LineListener, Outcome, RunError, RunOptions};
use direct_puppet_transport::protocol::report::EventStatus;
use direct_puppet_transport::protocol::{Certname, Environment};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::options::Common;
use crate::{apply, connect, run};

/// What the file says that it is.
const FORMAT: &str = "direct-puppet plan";

/// The version that this program writes, and the only one that it reads.
const VERSION: u64 = 1;

/// The longest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// How many differences a refusal names.
const NAMED: usize = 5;

/// Where a catalog comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// The server of this URL; `None` for the one that the options name.
    Server(Option<String>),
    /// A site directory.
    Site(PathBuf),
    /// A catalog of Puppet's.
    Catalog(PathBuf),
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    source: Source,
    node: Certname,
    environment: Environment,
    root: PathBuf,
    state_dir: PathBuf,
    tags: Vec<String>,
    catalog_id: String,
    changes: BTreeSet<Change>,
}

/// One change that is planned; one without a property is a refresh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    resource: String,
    property: String,
    previous: String,
    desired: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.property.is_empty() {
            return write!(f, "{}: a refresh", self.resource);
        }
        write!(f, "{}/{}: {} -> {}", self.resource, self.property, self.previous, self.desired)
    }
}

fn changes(outcome: &Outcome) -> BTreeSet<Change> {
    let planned = outcome.events().filter(|event| event.status == EventStatus::Noop).chain(outcome.pending_refreshes());
    let change = planned.map(|event| Change {
        resource: event.resource.clone(),
        property: event.property.to_string(),
        previous: event.previous_value.to_string(),
        desired: event.desired_value.to_string(),
    });
    // What is made is not only that it is made.
    let made = outcome.report.resource_statuses.iter().flat_map(|status| {
        status.planned.iter().map(|done| Change {
            resource: status.resource.clone(),
            property: "content".to_owned(),
            previous: "absent".to_owned(),
            desired: done.clone(),
        })
    });
    change.chain(made).collect()
}

/// Says which resources could not be looked at.
fn unlooked(outcome: &Outcome) -> String {
    let failed = outcome.report.resource_statuses.iter().filter(|status| status.failed).map(|status| {
        let reason = status.events.iter().find(|event| event.status == EventStatus::Failure);
        reason.map_or_else(|| status.resource.clone(), |event| format!("{}: {}", status.resource, event.message))
    });
    let names: Vec<String> = failed.take(NAMED).collect();
    let count = outcome.resources.failed;
    let more = if count > NAMED as u64 { ", and others" } else { "" };
    format!("{count} resources could not be looked at ({}{more})", names.join("; "))
}

impl Plan {
    /// Makes a plan of what a noop run found.
    pub(crate) fn of(common: &Common, source: Source, tags: Vec<String>, outcome: &Outcome) -> anyhow::Result<Self> {
        if outcome.resources.failed > 0 {
            bail!(
                "no plan is written, as {}, so not all is known that would be changed: mend what they need, or leave them out with --tags, and \
                 plan again",
                unlooked(outcome)
            );
        }
        let catalog_id = outcome.catalog_id.context("no plan is written: the run had no catalog")?;
        Ok(Self {
            source,
            node: outcome.report.host.clone(),
            environment: outcome.report.environment.clone(),
            root: common.root()?,
            state_dir: common.state_dir()?,
            tags,
            catalog_id: catalog_id.to_string(),
            changes: changes(outcome),
        })
    }

    /// Writes the plan to a file.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let plan = serde_json::to_value(self)?;
        let whole = json!({"format": FORMAT, "version": VERSION, "checksum": checksum(&plan)?, "plan": plan});
        let text = serde_json::to_vec_pretty(&whole)?;
        write_state(path, &text, 0o600).with_context(|| format!("could not write the plan {}", path.display()))
    }

    /// Reads a plan from a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let length = std::fs::metadata(path).with_context(|| format!("could not read the plan {name}"))?.len();
        if length > MAX_BYTES {
            bail!("{name} has {length} bytes, and no plan has more than {MAX_BYTES}");
        }
        let text = std::fs::read(path).with_context(|| format!("could not read the plan {name}"))?;
        let mut whole: Json =
            serde_json::from_slice(&text).with_context(|| format!("{name} is no plan, or a damaged one: make a new one"))?;
        if whole["format"] != FORMAT {
            bail!("{name} is no plan of \"direct-puppet plan --out\"");
        }
        if whole["version"] != VERSION {
            bail!("the plan {name} has version {}, and this program reads version {VERSION}: make a new one", whole["version"]);
        }
        let plan = whole["plan"].take();
        if whole["checksum"] != checksum(&plan)? {
            bail!("the plan {name} is damaged, or was changed by hand: its checksum does not fit; make a new one");
        }
        serde_json::from_value(plan).with_context(|| format!("the plan {name} is damaged: make a new one"))
    }

    /// Applies exactly the plan, or refuses.
    pub(crate) async fn apply(self, common: &Common, options: RunOptions) -> anyhow::Result<Outcome> {
        let common = self.common(common)?;
        let options = RunOptions { tags: self.tags.clone(), ..options };
        // What it tells is told again by the run that follows, if one does.
        let look = RunOptions { noop: true, report: false, lines: LineListener::new(|_| {}), ..options.clone() };
        let now = self.source.run(&common, look).await.context("could not look whether the node is as it was planned for")?;
        if let Err(refusal) = self.check(&now) {
            now.messages.iter().for_each(|message| tracing::warn!("{message}"));
            return Err(refusal);
        }
        self.make(&common, options).await
    }

    /// Makes the run that applies the plan: its catalog, or nothing.
    async fn make(&self, common: &Common, options: RunOptions) -> anyhow::Result<Outcome> {
        let only = self.catalog_id.parse().context("the plan names no catalog: make a new one")?;
        let made = self.source.run(common, RunOptions { only_catalog: Some(only), ..options }).await;
        made.map_err(|error| match error.downcast_ref() {
            Some(RunError::OtherCatalog { found, wanted }) => anyhow::anyhow!(
                "the catalog has changed while the plan was looked at, from {wanted} to {found}: nothing was changed; make a new plan"
            ),
            _ => error,
        })
    }

    /// Returns the options with what the plan was made for, which none may contradict.
    fn common(&self, common: &Common) -> anyhow::Result<Common> {
        let refuse = |name: &str, planned: &dyn std::fmt::Display| {
            anyhow::anyhow!("the plan was made with --{name} {planned}: leave out --{name}, or make a new plan")
        };
        if common.root.is_some() && common.root()? != self.root {
            return Err(refuse("root", &self.root.display()));
        }
        if common.state_dir.is_some() && common.state_dir()? != self.state_dir {
            return Err(refuse("state-dir", &self.state_dir.display()));
        }
        if common.node.as_ref().is_some_and(|node| *node != self.node) {
            return Err(refuse("node", &self.node));
        }
        if common.environment.as_ref().is_some_and(|environment| *environment != self.environment) {
            return Err(refuse("environment", &self.environment));
        }
        Ok(Common {
            root: Some(self.root.clone()),
            state_dir: Some(self.state_dir.clone()),
            node: Some(self.node.clone()),
            environment: Some(self.environment.clone()),
            ..common.clone()
        })
    }

    fn check(&self, now: &Outcome) -> anyhow::Result<()> {
        let catalog_id = now.catalog_id.map(|id| id.to_string()).unwrap_or_default();
        if catalog_id != self.catalog_id {
            bail!("the catalog has changed since the plan was made, from {} to {catalog_id}: make a new plan", self.catalog_id);
        }
        let found = changes(now);
        if now.resources.failed == 0 && found == self.changes {
            return Ok(());
        }
        let gone = self.changes.difference(&found).map(|change| format!("no longer {change}"));
        let new = found.difference(&self.changes).map(|change| format!("now {change}"));
        let failed = (now.resources.failed > 0).then(|| unlooked(now));
        let all: Vec<String> = failed.into_iter().chain(gone).chain(new).collect();
        let more = if all.len() > NAMED { format!("; and {} more", all.len() - NAMED) } else { String::new() };
        bail!("the node has changed since the plan was made: {}{more}: make a new plan", all[..all.len().min(NAMED)].join("; "))
    }
}

fn checksum(plan: &Json) -> anyhow::Result<String> {
    // Keys of objects are sorted, so equal plans have equal bytes.
    Ok(direct_puppet_transport::protocol::Digest::of(&serde_json::to_vec(plan)?).to_string())
}

impl Source {
    /// Makes a run with a catalog from here.
    pub(crate) async fn run(&self, common: &Common, options: RunOptions) -> anyhow::Result<Outcome> {
        match self {
            Self::Server(url) => {
                let server = common.server.clone().or_else(|| url.clone());
                let common = Common { server, ..common.clone() };
                let (server, common) = connect::server(&common, connect::Asking::Now).await?;
                run::once(&common.agent(server)?, &options, common.json).await
            }
            Self::Site(site) => run::once(&common.agent(apply::embedded(common, site).await?)?, &options, common.json).await,
            Self::Catalog(file) => apply::apply_catalog(common, file, options).await,
        }
    }
}

#[cfg(test)]
mod tests;
