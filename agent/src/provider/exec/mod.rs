//! The `Exec` type: commands, with the conditions under which they run.
//!
//! A command is an argument list, or text. Text that means something to a shell is run by `/bin/sh`, other text is split into
//! words, by the rule of Ruby, which runs Puppet's commands; `provider => shell` always uses the shell. Commands run on this
//! machine also when the managed root is not `/`: they start in that root, and `cwd`, `creates` and accounts are looked up below
//! it. A command that takes too long is killed with its whole process group; at most 64 KiB of its output are kept.

mod parameters;
mod program;
mod relations;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::difference::{Differences, Shown};
use super::file::errors;
use super::{Applied, Autorequirer, Change, Checked, Context, Provider, ProviderError, named};
use crate::tree::{Seen, Witness};
use parameters::Parameters;
use run::Created;

/// Runs commands.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecProvider;

impl ExecProvider {
    /// Returns the provider.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Parameters {
    /// Returns what a check found when what the command creates is there.
    fn was_created(&self, created: Created) -> Checked {
        // A later one of several has others looked at before it, and what a link leads to is not at the path.
        let is_all = self.creates.first() == Some(&created.path) && !created.by_link;
        let witnesses = is_all.then(|| vec![Witness { path: created.path, seen: Seen::Present }]);
        Checked { resources: 1, witnesses, ..Checked::default() }
    }
}

#[async_trait]
impl Provider for ExecProvider {
    fn resource_type(&self) -> &str {
        "Exec"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        named(|names| relations::name_before(resource, names))
    }

    fn autorequirer<'a>(&'a self, _catalog: &'a Catalog) -> Autorequirer<'a> {
        Box::new(relations::name_before)
    }

    fn settles(&self) -> Option<&str> {
        Some("exec 1")
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let mut checked = Checked { resources: 1, ..Checked::default() };
        if parameters.refresh_only {
            checked.witnesses = Some(Vec::new());
        } else if let Some(created) = parameters.created(context).await? {
            checked = parameters.was_created(created);
        } else if parameters.commands_let(context).await? {
            let mut found = Differences::of(resource);
            let returns = parameters.returns.iter().map(i32::to_string).collect();
            found.add("returns", &Shown::Text("notrun".to_owned()), &Shown::Joined(returns));
            checked.changes = found.into_changes();
            for change in &mut checked.changes {
                change.redacted = parameters.sensitive;
                if let Some(wording) = &mut change.wording {
                    "executed successfully".clone_into(&mut wording.done);
                }
            }
        }
        Ok(checked)
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let parameters = match Parameters::parse(resource) {
            Ok(parameters) => parameters,
            Err(error) => return Some(Err(error)),
        };
        if parameters.refresh_only {
            return Some(Ok(Checked { resources: 1, witnesses: Some(Vec::new()), ..Checked::default() }));
        }
        // Without it, there are commands to run.
        parameters.created_now(context).transpose().map(|created| Ok(parameters.was_created(created?)))
    }

    fn checks_by_commands(&self, resource: &Resource) -> bool {
        ["unless", "onlyif"].iter().any(|name| resource.parameter(name).is_some())
    }

    fn hides_secrets(&self) -> bool {
        true
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let mut applied = Applied::default();
        if !changes.is_empty()
            && let Err(reason) = parameters.run_wanted(context, &parameters.command).await?
        {
            applied.failures.insert(0, reason);
        }
        Ok(applied)
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        if !parameters.is_due(context).await? {
            // It was heard all the same.
            return Ok(true);
        }
        let command = parameters.refresh.as_ref().unwrap_or(&parameters.command);
        let failed = |reason: String| errors::failed(&resource.reference(), "run the command of a refresh", reason);
        parameters.run_wanted(context, command).await?.map(|()| true).map_err(failed)
    }
}
