//! The ids that owner and group stand for, and the attributes that a path shall have.

use std::sync::Arc;

use direct_puppet_transport::protocol::Resource;

use super::desired::SourceAttributes;
use super::mode::{NEW_DIRECTORY_MODE, NEW_FILE_MODE};
use super::owner::{AccountCache, AccountKind, Accounts};
use super::parameters::{Account, Parameters, SourcePermissions};
use super::witnesses::Gathered;
use crate::fs::{Attributes, FileKind, Stat};
use crate::provider::{Context, Ownership, ProviderError};

/// The wanted owner or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// Nobody in particular.
    Any,
    Id(u32),
    /// A name that no account has yet; only noop runs get this far.
    Unknown(String),
}

/// Owner and group of a resource.
#[derive(Debug)]
pub(super) struct Identities {
    pub(super) user: Identity,
    pub(super) group: Identity,
    users: Arc<Accounts>,
    groups: Arc<Accounts>,
    managed: bool,
}

impl Identities {
    /// Looks the accounts of a resource up. Blocking.
    ///
    /// # Errors
    ///
    /// When there is no such account, unless nothing is going to be applied.
    pub(super) fn load(
        context: &Context,
        cache: &AccountCache,
        resource: &Resource,
        parameters: &Parameters,
        witnesses: &mut Gathered,
    ) -> Result<Self, ProviderError> {
        let managed = context.options().ownership == Ownership::Managed;
        let mut look = |kind: AccountKind, account: Option<&Account>| match account.filter(|_| managed) {
            None => Ok((Identity::Any, Arc::default())),
            Some(account) => {
                let loaded = cache.load(context, kind).map_err(|error| {
                    super::errors::failed(&resource.reference(), format!("look up the {} {}", kind.name(), shown(account)), error)
                })?;
                let accounts = &loaded.accounts;
                if matches!(account, Account::Name(_)) {
                    witnesses.add_accounts(kind, loaded.path.as_ref(), loaded.stat.as_ref());
                }
                let identity = match (accounts.id(account), account) {
                    (Some(id), _) => Identity::Id(id),
                    (None, account) if context.options().noop => Identity::Unknown(shown(account)),
                    (None, account) => {
                        let parameter = if kind == AccountKind::User { "owner" } else { "group" };
                        let reason = format!(
                            "there is no {} {} in {} of the managed root: create it first, or give its number",
                            kind.name(),
                            shown(account),
                            kind.file()
                        );
                        return Err(super::read::fail(resource, parameter, reason));
                    }
                };
                Ok((identity, Arc::clone(accounts)))
            }
        };
        let (user, users) = look(AccountKind::User, parameters.owner.as_ref())?;
        let (group, groups) = look(AccountKind::Group, parameters.group.as_ref())?;
        Ok(Self { user, group, users, groups, managed })
    }

    /// Returns what a user id is shown as.
    pub(super) fn user_name(&self, id: u32) -> String {
        self.users.name(id)
    }

    /// Returns what a group id is shown as.
    pub(super) fn group_name(&self, id: u32) -> String {
        self.groups.name(id)
    }

    /// Returns the owner and group that a path shall have, given what is there; names that are not known are left out.
    pub(super) fn wanted_ids(
        &self,
        parameters: &Parameters,
        source: SourceAttributes,
        is_new: bool,
    ) -> (Option<u32>, Option<u32>) {
        let owner = source.owner.filter(|_| self.managed && source_counts(parameters, is_new));
        let pick = |identity: &Identity, from_source: Option<u32>| match identity {
            Identity::Id(id) => Some(*id),
            Identity::Unknown(_) => None,
            Identity::Any => from_source,
        };
        (pick(&self.user, owner.map(|(user, _)| user)), pick(&self.group, owner.map(|(_, group)| group)))
    }

    /// Returns the attributes of an object that is put where there was nothing, or something of another kind.
    pub(super) fn of_new(&self, parameters: &Parameters, source: SourceAttributes, kind: FileKind) -> Attributes {
        let is_directory = kind == FileKind::Directory;
        let default = if is_directory { NEW_DIRECTORY_MODE } else { NEW_FILE_MODE };
        let mode = match &parameters.mode {
            Some(mode) => mode.resolve_new(is_directory),
            None => source.mode.filter(|_| source_counts(parameters, true)).unwrap_or(default),
        };
        let (uid, gid) = self.wanted_ids(parameters, source, true);
        Attributes { mode: Some(mode).filter(|_| kind != FileKind::Link), uid, gid }
    }

    /// Returns the attributes of new content for a file that is there: what is not managed stays as it is.
    pub(super) fn of_replacement(&self, parameters: &Parameters, source: SourceAttributes, old: &Stat) -> Attributes {
        let (uid, gid) = self.wanted_ids(parameters, source, false);
        let keep = |id| Some(id).filter(|_| self.managed);
        Attributes {
            mode: Some(wanted_mode(parameters, source, old).unwrap_or_else(|| old.permissions())),
            uid: uid.or_else(|| keep(old.uid)),
            gid: gid.or_else(|| keep(old.gid)),
        }
    }

    /// Returns the attributes to be changed on what is there: only those that differ.
    pub(super) fn of_existing(&self, parameters: &Parameters, source: SourceAttributes, old: &Stat) -> Attributes {
        let (uid, gid) = self.wanted_ids(parameters, source, false);
        Attributes {
            mode: wanted_mode(parameters, source, old).filter(|&mode| mode != old.permissions()),
            uid: uid.filter(|&uid| uid != old.uid),
            gid: gid.filter(|&gid| gid != old.gid),
        }
    }
}

/// Returns the permissions that what is there shall have; `None` when they are not managed, as those of links.
pub(super) fn wanted_mode(parameters: &Parameters, source: SourceAttributes, old: &Stat) -> Option<u32> {
    if old.kind() == FileKind::Link {
        return None;
    }
    match &parameters.mode {
        Some(mode) => Some(mode.resolve(old.permissions(), old.kind() == FileKind::Directory)),
        None => source.mode.filter(|_| source_counts(parameters, false)),
    }
}

fn source_counts(parameters: &Parameters, is_new: bool) -> bool {
    match parameters.source_permissions {
        SourcePermissions::Ignore => false,
        SourcePermissions::Use => true,
        SourcePermissions::UseWhenCreating => is_new,
    }
}

fn shown(account: &Account) -> String {
    match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    }
}
