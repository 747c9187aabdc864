//! The `Resources` type: takes away what is there of a type and is not in the catalog.
//!
//! Each that goes is told of, and taken away, as a resource of its own type with `ensure => absent`. What differs: only `cron`,
//! `host`, `mount`, `sshkey` and `user` can be purged; users that every system has are never purged.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use super::cron::CronProvider;
use super::file::{blocking, errors, read};
use super::host::HostProvider;
use super::mount::MountProvider;
use super::sshkey::SshkeyProvider;
use super::text_file::TextFile;
use super::user::UserProvider;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};

const KNOWN: &[&str] = &["purge", "unless_system_user", "unless_uid"];

/// Users that are never purged, as Puppet has them.
const SYSTEM_USERS: &[&str] = &["root", "nobody", "bin", "noaccess", "daemon", "sys"];

/// The highest number of a user of the system where `/etc/login.defs` does not say it; Puppet's.
const MAX_SYSTEM_UID: u32 = 499;

/// A type that can be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cron,
    Host,
    Mount,
    Sshkey,
    User,
}

/// What is said about users of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SystemUsers {
    /// All but those with the usual names may go.
    Purged,
    /// Those with numbers up to this stay; as `/etc/login.defs` says by default.
    Stay(Option<u32>),
}

/// All parameters of one resource.
#[derive(Debug, Clone)]
struct Parameters {
    kind: Kind,
    purge: bool,
    system_users: SystemUsers,
    unless_uid: Vec<u32>,
}

impl Parameters {
    fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let purge = read::boolean(resource, "purge", false)?;
        let kind = match read::name(resource)?.to_ascii_lowercase().as_str() {
            "cron" => Kind::Cron,
            "host" => Kind::Host,
            "mount" => Kind::Mount,
            "sshkey" => Kind::Sshkey,
            "user" => Kind::User,
            "ssh_authorized_key" => {
                return Err(read::fail(resource, "name", "ssh_authorized_key: keys are purged by purge_ssh_keys of their users"));
            }
            // Without purge, there is nothing to do, whatever it is.
            _ if !purge => Kind::Host,
            other => {
                let reason = format!("{other} cannot be purged: only cron, host, mount, sshkey and user can");
                return Err(read::fail(resource, "name", reason));
            }
        };
        let number = |name: &str, value: &Value| {
            let number = read::number(value).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| read::fail(resource, name, "must be numbers of users"))
        };
        let system_users = match resource.parameter("unless_system_user") {
            None => SystemUsers::Stay(None),
            Some(value) => match value.as_bool() {
                Some(true) => SystemUsers::Stay(None),
                Some(false) => SystemUsers::Purged,
                None => SystemUsers::Stay(Some(number("unless_system_user", value)?)),
            },
        };
        let unless_uid = resource.parameter("unless_uid").map(Value::as_list).unwrap_or_default();
        let unless_uid =
            unless_uid.iter().flat_map(Value::as_list).map(|value| number("unless_uid", value)).collect::<Result<_, _>>()?;
        Ok(Self { kind, purge, system_users, unless_uid })
    }

    /// Returns the highest number of a user of the system. Blocking.
    fn max_system_uid(&self, context: &Context) -> Result<Option<u32>, String> {
        match self.system_users {
            SystemUsers::Purged => Ok(None),
            SystemUsers::Stay(Some(max)) => Ok(Some(max)),
            SystemUsers::Stay(None) => {
                let path = TreePath::from_bytes(b"etc/login.defs").unwrap_or_default();
                let file = TextFile::load(context, &path).map_err(|error| errors::chain(&error))?;
                let text = String::from_utf8_lossy(&file.text);
                let minimum = text.lines().find_map(|line| {
                    let mut words = line.split_whitespace();
                    (words.next() == Some("UID_MIN")).then(|| words.next()?.parse::<u32>().ok()).flatten()
                });
                Ok(Some(minimum.map_or(MAX_SYSTEM_UID, |minimum| minimum.saturating_sub(1))))
            }
        }
    }
}

/// Takes away what nobody manages.
#[derive(Debug, Clone, Default)]
pub(super) struct ResourcesProvider {
    crons: CronProvider,
    hosts: HostProvider,
    mounts: MountProvider,
    sshkeys: SshkeyProvider,
    users: UserProvider,
}

impl ResourcesProvider {
    fn provider(&self, kind: Kind) -> &dyn Provider {
        match kind {
            Kind::Cron => &self.crons,
            Kind::Host => &self.hosts,
            Kind::Mount => &self.mounts,
            Kind::Sshkey => &self.sshkeys,
            Kind::User => &self.users,
        }
    }

    /// Returns what is there and not in the catalog, as resources that shall be absent.
    async fn strangers(
        &self,
        context: &Context,
        resource: &Resource,
        of: &Parameters,
    ) -> Result<Vec<Arc<Resource>>, ProviderError> {
        if !of.purge {
            return Ok(Vec::new());
        }
        let failed = |reason: String| errors::failed(&resource.reference(), "list what is there", reason);
        let mut strangers = if of.kind == Kind::Cron {
            self.crons.unmanaged(context).await.map_err(failed)?
        } else {
            let (this, context, of, reference) = (self.clone(), context.clone(), of.clone(), resource.reference());
            let list = move || match of.kind {
                Kind::Host => this.hosts.unmanaged(&context),
                Kind::Mount => this.mounts.unmanaged(&context),
                Kind::Sshkey => this.sshkeys.unmanaged(&context),
                Kind::User | Kind::Cron => {
                    let max_system_uid = of.max_system_uid(&context)?;
                    this.users.unmanaged(&context, |name, uid| {
                        let is_of_system = SYSTEM_USERS.contains(&name) || max_system_uid.is_some_and(|max| uid <= max);
                        !is_of_system && !of.unless_uid.contains(&uid)
                    })
                }
            };
            blocking(reference, move || Ok(list())).await?.map_err(failed)?
        };
        // The whole resource is not to be applied, nor are they.
        for stranger in &mut strangers {
            stranger.file.clone_from(&resource.file);
            stranger.line = resource.line;
        }
        Ok(strangers.into_iter().map(Arc::new).collect())
    }
}

#[async_trait]
impl Provider for ResourcesProvider {
    fn resource_type(&self) -> &str {
        "Resources"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let provider = self.provider(parameters.kind);
        let mut checked = Checked { resources: 1, ..Checked::default() };
        for stranger in self.strangers(context, resource, &parameters).await? {
            checked.resources += 1;
            match provider.check(context, &stranger).await {
                Ok(found) => checked.changes.extend(found.changes),
                Err(error) => checked.failures.push((stranger.reference(), errors::chain(&error))),
            }
        }
        Ok(checked)
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let provider = self.provider(parameters.kind);
        let mut strangers: HashMap<String, Vec<Arc<Resource>>> = HashMap::new();
        for stranger in self.strangers(context, resource, &parameters).await?.into_iter().rev() {
            strangers.entry(stranger.title.clone()).or_default().push(stranger);
        }
        let mut applied = Applied::default();
        for (at, change) in changes.iter().enumerate() {
            if context.cancel().is_cancelled() {
                applied.failures.insert(at, "the run was cancelled".to_owned());
                continue;
            }
            // What is not there any more has gone by itself.
            let Some(stranger) = strangers.get_mut(&change.resource.title).and_then(Vec::pop) else { continue };
            match provider.apply(context, &stranger, std::slice::from_ref(change)).await {
                Ok(one) => applied.failures.extend(one.failures.into_values().next().map(|reason| (at, reason))),
                Err(error) => drop(applied.failures.insert(at, errors::chain(&error))),
            }
        }
        Ok(applied)
    }
}
