//! The `Group` type: groups of the managed root's `/etc/group`, through the commands of the `passwd` package.
//!
//! What differs: `members` are managed everywhere, not only where libuser is installed; `forcelocal` asks no name service, and
//! needs no libuser either. Below another root the commands get that root; groups of the running system are not touched then.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::Resource;

use super::accounts::{self, AccountFiles, Tool, Tools, is_valid_name};
use super::difference::{Differences, Shown};
use super::file::{blocking, errors, read};
use super::instances::{listed, texts};
use super::record::{Ensure, applied};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "gid",
    "members",
    "auth_membership",
    "allowdupe",
    "system",
    "forcelocal",
    "attributes",
    "attribute_membership",
    "ia_load_module",
    "provider",
];

/// Manages groups.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupProvider {
    files: Arc<AccountFiles>,
}

/// All parameters of one resource.
#[derive(Debug)]
struct Parameters {
    ensure: Ensure,
    name: String,
    gid: Option<u32>,
    members: Option<Vec<String>>,
    /// `auth_membership`: nobody else is a member.
    is_exclusive: bool,
    allow_duplicate: bool,
    system: bool,
    force_local: bool,
}

impl Parameters {
    fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let name = read::name(resource)?;
        if !is_valid_name(&name) {
            return Err(read::fail(resource, "name", "must be the name of a group"));
        }
        let gid = match read::integer(resource, "gid")?.map(u32::try_from) {
            Some(Err(_)) => return Err(read::fail(resource, "gid", "must be a number from 0 to 4294967295")),
            Some(Ok(gid)) => Some(gid),
            None => None,
        };
        let members = read::texts(resource, "members")?.map(|members| {
            members.iter().flat_map(|member| member.split(',')).map(|member| member.trim().to_owned()).collect::<Vec<_>>()
        });
        if members.iter().flatten().any(|member| !is_valid_name(member)) {
            return Err(read::fail(resource, "members", "must be names of users"));
        }
        Ok(Self {
            ensure: Ensure::read(resource)?,
            name,
            gid,
            members,
            is_exclusive: read::boolean(resource, "auth_membership", false)?,
            allow_duplicate: read::boolean(resource, "allowdupe", false)?,
            system: read::boolean(resource, "system", false)?,
            force_local: read::boolean(resource, "forcelocal", false)?,
        })
    }

    /// Returns all members that there shall be, given those that there are; `None` when that is left alone.
    fn wanted_members(&self, current: &[String]) -> Option<Vec<String>> {
        let wanted = self.members.as_ref()?;
        let others = current.iter().filter(|_| !self.is_exclusive);
        let all: BTreeSet<&String> = wanted.iter().chain(others).collect();
        Some(all.into_iter().cloned().collect())
    }

    fn compare(&self, resource: &Resource, current: Option<&accounts::Group>) -> Vec<Change> {
        let mut found = Differences::of(resource);
        match (self.ensure, current) {
            (Ensure::Absent, None) => {}
            (Ensure::Absent, Some(_)) => found.add_ensure("present", "absent"),
            (Ensure::Present, None) => found.add_ensure("absent", "present"),
            (Ensure::Present, Some(group)) => {
                let number = |gid: u32| Shown::Number(gid.into());
                found.compare("gid", &number(group.gid), self.gid.map(number).as_ref());
                let members: BTreeSet<&String> = group.members.iter().collect();
                let wanted = self.wanted_members(&group.members);
                if let Some(wanted) = wanted.filter(|wanted| !members.iter().copied().eq(wanted)) {
                    found.add("members", &Shown::Bare(group.members.join(",")), &Shown::Bare(wanted.join(",")));
                }
            }
        }
        found.into_changes()
    }

    async fn set_members(&self, tools: &Tools<'_>, current: &[String]) -> Result<(), String> {
        match self.wanted_members(current) {
            Some(members) => tools.run(Tool::GroupPassword, &["-M".to_owned(), members.join(","), self.name.clone()]).await,
            None => Ok(()),
        }
    }

    async fn create(&self, tools: &Tools<'_>) -> Result<(), String> {
        let mut arguments = Vec::new();
        if let Some(gid) = self.gid {
            arguments.extend(["-g".to_owned(), gid.to_string()]);
        }
        arguments.extend((self.allow_duplicate && self.gid.is_some()).then(|| "-o".to_owned()));
        arguments.extend(self.system.then(|| "-r".to_owned()));
        arguments.push(self.name.clone());
        tools.run(Tool::GroupAdd, &arguments).await?;
        self.set_members(tools, &[]).await
    }

    async fn change(&self, tools: &Tools<'_>, property: &str, current: Option<&accounts::Group>) -> Result<(), String> {
        match (property, self.ensure) {
            ("ensure", Ensure::Present) => self.create(tools).await,
            ("ensure", Ensure::Absent) => tools.run(Tool::GroupDel, std::slice::from_ref(&self.name)).await,
            ("gid", _) => {
                let mut arguments = vec!["-g".to_owned(), self.gid.unwrap_or_default().to_string()];
                arguments.extend(self.allow_duplicate.then(|| "-o".to_owned()));
                arguments.push(self.name.clone());
                tools.run(Tool::GroupMod, &arguments).await
            }
            _ => self.set_members(tools, current.map(|group| &group.members[..]).unwrap_or_default()).await,
        }
    }
}

/// Returns a group as a resource.
fn describe(group: &accounts::Group) -> Resource {
    let resource = Resource::new("Group", &group.name).with("ensure", "present").with("gid", i64::from(group.gid));
    resource.with("members", texts(&group.members)).with("provider", "groupadd")
}

/// Parameters for another system.
const FOR_AIX: [&str; 2] = ["attributes", "ia_load_module"];

impl GroupProvider {
    async fn current(
        &self,
        context: &Context,
        resource: &Arc<Resource>,
        parameters: &Parameters,
    ) -> Result<Option<accounts::Group>, ProviderError> {
        let (files, of, reference, name) =
            (Arc::clone(&self.files), context.clone(), resource.reference(), parameters.name.clone());
        let local = blocking(resource.reference(), move || {
            let groups = files.groups(&of).map_err(|error| errors::failed(&reference, "read the groups", error))?;
            Ok(groups.get(&name).cloned())
        });
        let local = local.await?;
        if local.is_some() || parameters.force_local {
            return Ok(local);
        }
        let tools = Tools::new(context).map_err(|reason| errors::failed(&resource.reference(), "ask for the group", reason))?;
        Ok(tools.ask("group", &parameters.name).await.and_then(|line| accounts::Group::parse(&line)))
    }
}

#[async_trait]
impl Provider for GroupProvider {
    fn resource_type(&self) -> &str {
        "Group"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let current = self.current(context, resource, &parameters).await?;
        let left_out = FOR_AIX.into_iter().filter(|name| resource.parameters.contains_key(*name));
        let left_out = left_out.map(|name| (resource.reference(), format!("{name} is for AIX and left alone")));
        let changes = parameters.compare(resource, current.as_ref());
        Ok(Checked { resources: 1, changes, skipped: left_out.collect(), ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let parameters = Parameters::parse(resource).ok()?;
        // What is not there, cannot be read, or is not for this system, is told by a check of its own.
        let groups = self.files.groups(context).ok()?;
        let changes = parameters.compare(resource, Some(groups.get(&parameters.name)?));
        let is_plain = !FOR_AIX.iter().any(|name| resource.parameters.contains_key(*name));
        is_plain.then(|| Ok(Checked { resources: 1, changes, ..Checked::default() }))
    }

    async fn instances(&self, context: &Context, name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        if let Some(name) = name {
            let probe = Arc::new(Resource::new("Group", name));
            let group = self.current(context, &probe, &Parameters::parse(&probe)?).await?;
            return Ok(Some(group.iter().map(describe).collect()));
        }
        let (files, of) = (Arc::clone(&self.files), context.clone());
        let list = move || Ok(files.groups(&of).map_err(|error| errors::chain(&error))?.iter().map(describe).collect());
        listed("Group", list).await
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let current = self.current(context, resource, &parameters).await?;
        let tools = match Tools::new(context) {
            Ok(tools) => tools,
            Err(reason) => return Ok(applied(changes, Err(reason))),
        };
        let mut result = Applied::default();
        for (at, change) in changes.iter().enumerate() {
            if let Err(reason) = parameters.change(&tools, &change.property, current.as_ref()).await {
                result.failures.insert(at, reason);
            }
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::Value;

    use super::*;
    use crate::provider::file::tests::World;

    fn group(name: &str) -> Resource {
        Resource::new("Group", name)
    }

    async fn found(world: &World, resource: Resource) -> Vec<String> {
        let checked = GroupProvider::default().check(&world.context(), &Arc::new(resource)).await.unwrap();
        checked.changes.into_iter().map(|change| change.wording.unwrap().done).collect()
    }

    fn names(names: &[&str]) -> Value {
        Value::Array(names.iter().map(|name| Value::from(*name)).collect())
    }

    #[tokio::test]
    async fn differences() {
        let world = World::new();
        world.write("/etc/group", "web:x:1001:b,a\n");
        assert_eq!(found(&world, group("web").with("gid", "1001")).await, [""; 0]);
        assert_eq!(found(&world, group("web").with("gid", 1002)).await, ["gid changed 1001 to 1002"]);
        assert_eq!(found(&world, group("db")).await, ["created"]);
        assert_eq!(found(&world, group("web").with("ensure", "absent")).await, ["removed"]);
        assert_eq!(found(&world, group("db").with("ensure", "absent")).await, [""; 0]);
        assert_eq!(found(&world, group("web").with("members", names(&["a"]))).await, [""; 0]);
        assert_eq!(found(&world, group("web").with("members", names(&["c"]))).await, ["members changed b,a to a,b,c"]);
        let only = group("web").with("members", names(&["a"])).with("auth_membership", true);
        assert_eq!(found(&world, only).await, ["members changed b,a to a"]);
    }

    #[tokio::test]
    async fn groups_are_listed() {
        let world = World::new();
        world.write("/etc/group", "web:x:1001:b,a\n+nis\nempty:x:5:\n");
        let (provider, context) = (GroupProvider::default(), world.context());
        let all = provider.instances(&context, None).await.unwrap().unwrap();
        let web = group("web").with("ensure", "present").with("gid", 1001).with("members", names(&["b", "a"]));
        assert_eq!((all.len(), &all[0]), (2, &web.with("provider", "groupadd")));
        assert_eq!(provider.instances(&context, Some("web")).await.unwrap().unwrap(), all[..1]);
        assert_eq!(provider.instances(&context, Some("db")).await.unwrap().unwrap(), []);
        assert!(provider.instances(&context, Some("a b")).await.is_err());
    }

    #[test]
    fn parameters_are_checked() {
        for (name, value, valid) in [
            ("gid", Value::from("x"), false),
            ("gid", (-1).into(), false),
            ("members", "a b".into(), false),
            ("members", "a,b".into(), true),
            ("name", "-r".into(), false),
            ("system", "perhaps".into(), false),
            ("uid", 1.into(), false),
        ] {
            let result = GroupProvider::default().validate(&group("web").with(name, value.clone()));
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
    }
}
