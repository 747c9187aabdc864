//! The `User` type: users of the managed root's `/etc/passwd`, through the commands of the `passwd` package.
//!
//! What differs, and why:
//!
//! * Password hashes go through a pipe to `chpasswd`, and are hidden everywhere, sensitive or not.
//! * `forcelocal` asks no name service, and needs no libuser.
//! * Below another root the commands get that root; users of the running system are not touched then.
//! * Keys are purged by this resource itself, not by resources that it generates; reports name them as such.

mod apply;
mod compare;
mod instances;
mod keys;
mod parameters;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::accounts::{AccountFiles, Tools, User};
use super::file::{blocking, errors};
use super::instances::listed;
use super::record::applied;
use super::{Applied, Autorequirer, Change, Checked, Context, Provider, ProviderError, named};
use compare::{Account, Found};
use parameters::{Parameters, PrimaryGroup, PurgeKeys};

/// Manages users.
#[derive(Debug, Clone, Default)]
pub(super) struct UserProvider {
    files: Arc<AccountFiles>,
}

impl UserProvider {
    /// Finds out what there is: in the files, else from the name services of the running system.
    async fn found(&self, context: &Context, resource: &Arc<Resource>) -> Result<Found, ProviderError> {
        let reference = resource.reference();
        let failed = |error: crate::fs::FsError| errors::failed(&reference, "read the accounts", error);
        let (files, of, resource) = (Arc::clone(&self.files), context.clone(), Arc::clone(resource));
        let parameters = Parameters::parse(&resource)?;
        let load = move || {
            let parameters = Parameters::parse(&resource)?;
            let reference = resource.reference();
            Found::load(&of, &files, &parameters).map_err(|error| errors::failed(&reference, "read the accounts", error))
        };
        let mut found = blocking(reference.clone(), load).await?;
        if found.account.is_none() && !parameters.force_local {
            let tools = Tools::new(context).map_err(|reason| errors::failed(&reference, "ask for the user", reason))?;
            let user = tools.ask("passwd", &parameters.name).await.and_then(|line| User::parse(&line));
            let account = user.map(|user| Account::of(context, &self.files, user));
            found.account = account.transpose().map_err(failed)?;
        }
        Ok(found)
    }
}

impl UserProvider {
    /// Returns the users that nobody manages and that may go, by name and number, as resources that shall be absent. Blocking.
    pub(super) fn unmanaged(&self, context: &Context, may_go: impl Fn(&str, u32) -> bool) -> Result<Vec<Resource>, String> {
        let users = self.files.users(context).map_err(|error| errors::chain(&error))?;
        let managed = context.resources_of("User").map(|resource| Parameters::parse(resource).map(|wanted| wanted.name));
        let managed = managed.collect::<Result<Vec<_>, _>>().map_err(|error| errors::chain(&error))?;
        let strangers = users.iter().filter(|user| !managed.contains(&user.name) && may_go(&user.name, user.uid));
        Ok(strangers.map(|user| Resource::new("User", user.name.as_str()).with("ensure", "absent")).collect())
    }
}

/// Returns the groups that a user is to be a member of: these come first.
fn groups_before(parameters: &Parameters, by_number: impl Fn(u32) -> Option<ResourceRef>) -> Vec<ResourceRef> {
    let group = |title: String| ResourceRef { resource_type: "Group".to_owned(), title };
    let primary = match &parameters.gid {
        Some(PrimaryGroup::Name(name)) => Some(group(name.clone())),
        Some(PrimaryGroup::Id(gid)) => by_number(*gid),
        None => None,
    };
    primary.into_iter().chain(parameters.groups.iter().flatten().cloned().map(group)).collect()
}

#[async_trait]
impl Provider for UserProvider {
    fn resource_type(&self) -> &str {
        "User"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, catalog: &Catalog) -> Vec<ResourceRef> {
        named(|names| self.autorequirer(catalog)(resource, names))
    }

    fn autorequirer<'a>(&'a self, catalog: &'a Catalog) -> Autorequirer<'a> {
        let mut by_number: HashMap<i64, &Resource> = HashMap::new();
        for group in catalog.resources.iter().filter(|resource| resource.resource_type == "Group") {
            if let Some(gid) = group.parameter("gid").and_then(super::file::read::number) {
                by_number.entry(gid).or_insert(group);
            }
        }
        Box::new(move |resource, names| {
            let find = |gid: u32| by_number.get(&gid.into()).map(|group| group.reference());
            let before = Parameters::parse(resource).map(|parameters| groups_before(&parameters, find));
            for group in before.unwrap_or_default() {
                names(&group.resource_type, &group.title);
            }
        })
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let found = self.found(context, resource).await?;
        let mut changes = parameters.compare(resource, &found);
        if parameters.purge_keys != PurgeKeys::No {
            let (context, resource) = (context.clone(), Arc::clone(resource));
            let purged = blocking(resource.reference(), move || {
                let user = found.account.as_ref().map(|account| &account.user);
                keys::check(&context, &resource, &parameters, user)
                    .map_err(|error| errors::failed(&resource.reference(), "look for keys", error))
            });
            changes.extend(purged.await?);
        }
        let left_out = parameters::ELSEWHERE.iter().filter(|name| resource.parameters.contains_key(**name));
        let left_out = left_out.map(|name| (resource.reference(), format!("{name} is for other systems and left alone")));
        let resources = 1 + changes.iter().filter(|change| change.resource != resource.reference()).count();
        let resources = u64::try_from(resources).unwrap_or(u64::MAX);
        Ok(Checked { resources, changes, skipped: left_out.collect(), ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let parameters = Parameters::parse(resource).ok()?;
        let is_plain = !parameters::ELSEWHERE.iter().any(|name| resource.parameters.contains_key(*name));
        // Keys, what is not there and what cannot be read are for a check of its own.
        let found = Found::load(context, &self.files, &parameters).ok().filter(|found| found.account.is_some())?;
        let is_plain = is_plain && parameters.purge_keys == PurgeKeys::No;
        is_plain.then(|| Ok(Checked { resources: 1, changes: parameters.compare(resource, &found), ..Checked::default() }))
    }

    fn hides_secrets(&self) -> bool {
        true
    }

    async fn instances(&self, context: &Context, name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        if let Some(name) = name {
            let found = self.found(context, &Arc::new(Resource::new("User", name))).await?;
            return Ok(Some(found.account.iter().map(instances::describe).collect()));
        }
        let (files, of) = (Arc::clone(&self.files), context.clone());
        listed("User", move || instances::list(&of, &files).map_err(|error| errors::chain(&error))).await
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let found = self.found(context, resource).await?;
        let tools = match Tools::new(context) {
            Ok(tools) => tools,
            Err(reason) => return Ok(applied(changes, Err(reason))),
        };
        let reference = resource.reference();
        let mut result = Applied::default();
        for (at, change) in changes.iter().enumerate().filter(|(_, change)| change.resource == reference) {
            if let Err(reason) = apply::change(context, &tools, &parameters, &found, &change.property).await {
                result.failures.insert(at, reason);
            }
        }
        let purged: Vec<(usize, String)> = changes
            .iter()
            .enumerate()
            .filter(|(_, change)| change.resource != reference)
            .map(|(at, change)| (at, change.resource.title.clone()))
            .collect();
        if !purged.is_empty() {
            let names: Vec<String> = purged.iter().map(|(_, name)| name.clone()).collect();
            let of = context.clone();
            let removed = blocking(reference, move || {
                let user = found.account.as_ref().map(|account| &account.user);
                Ok(keys::remove(&of, &parameters, user, &names))
            });
            if let Err(reason) = removed.await? {
                result.failures.extend(purged.into_iter().map(|(at, _)| (at, reason.clone())));
            }
        }
        Ok(result)
    }
}
