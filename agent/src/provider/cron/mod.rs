//! The `Cron` type: jobs in users' crontabs, through the `crontab` command.
//!
//! Jobs carry the mark that Puppet gives them, `# Puppet Name: …`, so that both can take turns.
//!
//! What differs, and why:
//!
//! * Lines of others stay as they are, byte for byte, and lines that are neither job, setting nor comment are no error. No
//!   header with the time of the run is written.
//! * A crontab that `crontab` refuses, and a job without a command, are failures; Puppet reports both as done.
//! * `environment => absent` takes the settings away; Puppet writes the word into the crontab.
//! * `user` and `target` that differ are refused.

mod crontab;
mod parameters;
mod spool;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::difference::Differences;
use super::file::{errors, read};
use super::instances::unlisted;
use super::record::{Ensure, applied};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use parameters::Parameters;
use spool::{Crontab, Spool};
use table::{Assigned, Table};

/// Manages jobs in crontabs.
#[derive(Debug, Clone, Default)]
pub(super) struct CronProvider {
    spool: Arc<Spool>,
}

fn compare(resource: &Resource, parameters: &Parameters, table: &Table, assigned: impl FnOnce() -> Arc<Assigned>) -> Vec<Change> {
    let mut found = Differences::of(resource);
    match (parameters.ensure, table.find(parameters, assigned)) {
        (Ensure::Absent, None) => {}
        (Ensure::Absent, Some(_)) => found.add_ensure("present", "absent"),
        (Ensure::Present, None) => found.add_ensure("absent", "present"),
        (Ensure::Present, Some(job)) => parameters.compare(job, &mut found),
    }
    if resource.parameters.values().any(|value| value.is_sensitive()) {
        ["command", "environment"].into_iter().for_each(|property| found.redact(property));
    }
    found.into_changes()
}

/// Returns whose crontab a resource means.
fn owner_of(parameters: &Parameters) -> &str {
    parameters.owner.as_deref().unwrap_or("root")
}

/// Returns the resources of the catalog that want something of the same crontab, in its order; what has bad parameters wants nothing.
fn of_crontab(context: &Context, one: &Parameters) -> Vec<Parameters> {
    let all = context.resources_of("Cron").filter_map(|resource| Parameters::parse(resource).ok());
    all.filter(|parameters| owner_of(parameters) == owner_of(one)).collect()
}

/// Which jobs without a name were assigned in this run, by whose crontab it is.
type AllAssigned = Mutex<HashMap<String, Arc<Assigned>>>;

/// Returns which jobs without a name resources have: as it was when the first of them was looked at, so that a job that one has taken away is
/// replaced by no other.
fn assigned(context: &Context, parameters: &Parameters, table: &Table) -> Arc<Assigned> {
    let of_run = context.of_run::<AllAssigned>();
    let mut all = of_run.lock().unwrap_or_else(PoisonError::into_inner);
    let assign = || Arc::new(table.assign(&of_crontab(context, parameters)));
    Arc::clone(all.entry(owner_of(parameters).to_owned()).or_insert_with(assign))
}

/// Returns the crontab as the resource wants it.
fn edit(parameters: &Parameters, text: &[u8], assigned: impl FnOnce() -> Arc<Assigned>) -> Result<Vec<u8>, String> {
    let mut table = Table::parse(text);
    let found = table.find(parameters, assigned).cloned();
    match (parameters.ensure, found) {
        (Ensure::Absent, None) => {}
        (Ensure::Absent, Some(job)) => table.remove(&job),
        (Ensure::Present, None) => table.add(&parameters.create()?),
        (Ensure::Present, Some(job)) => {
            let mut changed = job.clone();
            parameters.update(&mut changed);
            table.change(&job, &changed);
        }
    }
    Ok(table.print())
}

impl CronProvider {
    /// Returns all crontabs, and whose they are.
    async fn crontabs(&self, context: &Context) -> Result<Vec<(String, Arc<Crontab>)>, String> {
        let of = context.clone();
        let owners = tokio::task::spawn_blocking(move || spool::owners(&of)).await.map_err(|error| error.to_string())?;
        let mut crontabs = Vec::new();
        for owner in owners {
            let probe = Resource::new("Cron", "probe").with("user", owner.as_str()).with("command", "true");
            let Ok(parameters) = Parameters::parse(&probe) else { continue };
            let text = self.spool.read(context, &parameters).await.map_err(|error| format!("crontab of {owner}: {error}"))?;
            crontabs.push((owner, text));
        }
        Ok(crontabs)
    }

    /// Returns the jobs that nobody manages, as resources that shall be absent, named as Puppet names them.
    pub(super) async fn unmanaged(&self, context: &Context) -> Result<Vec<Resource>, String> {
        let managed = context.resources_of("Cron").map(|resource| Parameters::parse(resource));
        let managed = managed.collect::<Result<Vec<_>, _>>().map_err(|error| errors::chain(&error))?;
        let mut strangers = Vec::new();
        let mut unnamed = 0;
        for (owner, text) in self.crontabs(context).await? {
            let table = &text.table;
            let is_owners = |wanted: &&Parameters| owner_of(wanted) == owner;
            let of_crontab: Vec<Parameters> = managed.iter().filter(is_owners).cloned().collect();
            let assigned = Arc::new(table.assign(&of_crontab));
            let known: Vec<_> = of_crontab.iter().filter_map(|wanted| table.find(wanted, || Arc::clone(&assigned))).collect();
            for job in table.jobs() {
                unnamed += usize::from(job.name.is_none());
                if !known.contains(&job) {
                    strangers.push(job.absent(&owner, unnamed));
                }
            }
        }
        Ok(strangers)
    }
}

#[async_trait]
impl Provider for CronProvider {
    fn resource_type(&self) -> &str {
        "Cron"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        let user = read::string(resource, "user").ok().flatten();
        user.map(|user| ResourceRef { resource_type: "User".to_owned(), title: user.to_owned() }).into_iter().collect()
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let text = self.spool.read(context, &parameters).await;
        let text = text.map_err(|error| errors::failed(&resource.reference(), "read the crontab", error))?;
        let changes = compare(resource, &parameters, &text.table, || assigned(context, &parameters, &text.table));
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let parameters = Parameters::parse(resource).ok()?;
        // Others are asked for.
        let text = self.spool.unchanged(context, &parameters)?;
        Some(Ok(Checked {
            resources: 1,
            changes: compare(resource, &parameters, &text.table, || assigned(context, &parameters, &text.table)),
            ..Checked::default()
        }))
    }

    async fn instances(&self, context: &Context, _name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        let mut unnamed = 0;
        let mut jobs = Vec::new();
        for (owner, text) in self.crontabs(context).await.map_err(|reason| unlisted("Cron", reason))? {
            for job in text.table.jobs() {
                unnamed += usize::from(job.name.is_none());
                jobs.push(job.describe(&owner, unnamed));
            }
        }
        Ok(Some(jobs))
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let text = self.spool.read(context, &parameters).await;
        let text = text.map_err(|error| errors::failed(&resource.reference(), "read the crontab", error))?;
        let result = match edit(&parameters, &text.text, || assigned(context, &parameters, &text.table)) {
            Ok(new) if new == text.text => Ok(()),
            Ok(new) => self.spool.write(context, &parameters, new).await.map_err(|error| errors::chain(&*error)),
            Err(reason) => Err(reason),
        };
        Ok(applied(changes, result))
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}
