//! Providers: the code that manages one type of resource.

#[cfg(feature = "providers")]
mod accounts;
#[cfg(all(test, feature = "providers"))]
mod ahead_tests;
#[cfg(feature = "providers")]
mod anchor;
#[cfg(feature = "providers")]
mod augeas;
#[cfg(feature = "providers")]
mod command;
#[cfg(feature = "providers")]
mod concat;
mod context;
#[cfg(feature = "providers")]
mod cron;
#[cfg(feature = "providers")]
mod difference;
#[cfg(feature = "providers")]
pub mod exec;
#[cfg(feature = "providers")]
pub mod executable;
#[cfg(feature = "providers")]
pub mod file;
#[cfg(feature = "providers")]
mod file_line;
#[cfg(feature = "providers")]
mod filebucket;
#[cfg(feature = "providers")]
mod group;
#[cfg(feature = "providers")]
mod host;
#[cfg(feature = "providers")]
mod ini_setting;
#[cfg(feature = "providers")]
mod instances;
#[cfg(feature = "providers")]
mod lines;
#[cfg(feature = "providers")]
mod mount;
#[cfg(feature = "providers")]
pub mod notify;
#[cfg(feature = "providers")]
mod package;
#[cfg(feature = "providers")]
mod programs;
#[cfg(feature = "providers")]
mod record;
#[cfg(feature = "providers")]
mod resources;
#[cfg(feature = "providers")]
pub mod ruby;
#[cfg(feature = "providers")]
mod ruby_regex;
#[cfg(feature = "providers")]
mod schedule;
pub(crate) mod secrets;
#[cfg(feature = "providers")]
mod service;
#[cfg(feature = "providers")]
mod ssh_authorized_key;
#[cfg(feature = "providers")]
mod sshkey;
#[cfg(feature = "providers")]
mod text_file;
#[cfg(feature = "providers")]
mod tidy;
#[cfg(feature = "providers")]
mod user;

pub(crate) use context::Said;
pub use context::{ApplyOptions, Context, ContextParts, Ownership};
#[cfg(feature = "providers")]
pub(crate) use difference::quote;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Catalog, Digest, Resource, ResourceRef, TreePath};

use crate::tree::{WantedContent, Witness};

/// Providers by type.
pub(crate) type Providers = HashMap<String, Arc<dyn Provider>, FastState>;

/// One difference between what is and what shall be, found by [`Provider::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The resource that is out of sync: the one checked, or one that it generates, as a file below a recursive one.
    pub resource: ResourceRef,
    /// The property, as `ensure`, `content`, `mode`.
    pub property: Cow<'static, str>,
    /// What is there, as text; already redacted if secret.
    pub previous: Cow<'static, str>,
    /// What is wanted, as text; already redacted if secret.
    pub desired: Cow<'static, str>,
    /// A unified diff, where one is to be shown.
    pub diff: Option<String>,
    /// Whether values are hidden.
    pub redacted: bool,
    /// How messages word the change, where its values alone do not say it.
    pub wording: Option<Box<Wording>>,
}

/// The words of one change, as Puppet's messages have them: values quoted, lists in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// What is there.
    pub previous: String,
    /// What is wanted.
    pub desired: String,
    /// The message once it is made, as `ip changed '10.0.0.1' to '10.0.0.2'`.
    pub done: String,
}

/// What [`Provider::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many resources were looked at: 1, plus those that the checked one generates.
    pub resources: u64,
    /// What is out of sync, in the order in which it will be changed.
    pub changes: Vec<Change>,
    /// Generated resources that could not be looked at, and why. The others are still applied.
    pub failures: Vec<(ResourceRef, String)>,
    /// What was left out and why, as an owner that an unprivileged run cannot set.
    pub skipped: Vec<(ResourceRef, String)>,
    /// Everything below the managed root that this answer follows from, besides the resource and the [`Context`]'s options;
    /// `None`, the default, when it follows from anything else too. While all witnesses hold, runs do not ask again: see
    /// [`Provider::settles`]. Only needed where [`ApplyOptions::settle`] is set and nothing is out of sync.
    pub witnesses: Option<Vec<Witness>>,
}

/// What [`Provider::apply`] did, when it got as far as trying each change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// By index into the changes given: those that failed, and why. All others were made and are durable.
    pub failures: BTreeMap<usize, String>,
    /// By index, what is told of changes that were made, where [`Wording::done`] could not say it before.
    pub messages: BTreeMap<usize, String>,
}

/// Why a resource could not be validated, checked or applied as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A parameter that makes no sense; nothing was done.
    #[error("{resource}: parameter {parameter}: {reason}")]
    Parameter {
        /// The resource.
        resource: ResourceRef,
        /// The parameter.
        parameter: String,
        /// What is wrong with it and what it may be.
        reason: String,
    },
    /// The state could not be read or changed.
    #[error("{resource}: {attempt}")]
    Failed {
        /// The resource.
        resource: ResourceRef,
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is wrong, in the words of what manages the resource; nothing is put before it.
    #[error("{message}")]
    Said {
        /// All that is told.
        message: String,
    },
    /// It took longer than resources may; what it was doing was given up.
    #[error("{resource}: took longer than {limit:?} and was given up")]
    TimedOut {
        /// The resource.
        resource: ResourceRef,
        /// How long it may take.
        limit: Duration,
    },
    /// The run was cancelled before the end; what was reported as done is done.
    #[error("{resource}: cancelled")]
    Cancelled {
        /// The resource.
        resource: ResourceRef,
    },
}

/// What a resource is ordered by without being asked, besides what comes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutoRelation {
    /// It comes before another (autobefore).
    Before(ResourceRef),
    /// It comes before another, which hears of its changes (autonotify).
    Notify(ResourceRef),
    /// It comes after another, and hears of its changes (autosubscribe).
    Subscribe(ResourceRef),
}

/// Paths of the resources of a catalog that stand for one by themselves.
pub type ManagedPaths = HashSet<TreePath, FastState>;

/// Is told the types and titles of resources, one by one.
pub type Names<'a> = dyn FnMut(&str, &str) + 'a;

/// What [`Provider::autorequirer`] returns: it names what comes before a resource.
pub type Autorequirer<'a> = Box<dyn Fn(&Resource, &mut Names<'_>) + 'a>;

/// Returns what is named.
#[cfg(feature = "providers")]
pub(crate) fn named(tell: impl FnOnce(&mut Names<'_>)) -> Vec<ResourceRef> {
    let mut all = Vec::new();
    tell(&mut |resource_type, title| {
        all.push(ResourceRef { resource_type: resource_type.to_owned(), title: title.to_owned() });
    });
    all
}

/// A resource, with all resources of its catalog in any order.
pub type Among<'a, 'i> = (&'a Resource, &'i mut dyn Iterator<Item = &'a Resource>);

/// Code that manages one type of resource.
///
/// # Obligations
///
/// * [`validate`](Provider::validate) looks at parameters only: no I/O.
/// * [`check`](Provider::check) changes nothing on the machine; the engine calls it in noop runs too.
/// * One [`apply`](Provider::apply) of what `check` found converges the resource or says what failed. It is never called in
///   noop runs. What it reports as done is durable.
/// * Whatever may touch the machine comes in the [`Context`]; nothing global is read.
/// * Secrets never appear in a [`Change`], an error or a log.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    /// Returns the type that it manages, capitalised, as `File`.
    fn resource_type(&self) -> &str;

    /// Checks the parameters of a resource.
    ///
    /// # Errors
    ///
    /// Names the parameter and what it may be.
    fn validate(&self, resource: &Resource) -> Result<(), ProviderError>;

    /// Returns resources that come before this one if they are in the catalog, without being asked for (autorequire). Those
    /// that are not in it are passed over; each is looked up by title, then by [`Provider::alias`].
    fn autorequire(&self, _resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        Vec::new()
    }

    /// Returns what answers as [`Provider::autorequire`] does, for all resources of a catalog: a type that would look through the catalog for
    /// each does so once, and one that has the names at hand need not copy them.
    fn autorequirer<'a>(&'a self, catalog: &'a Catalog) -> Autorequirer<'a> {
        Box::new(|resource, names| {
            for before in self.autorequire(resource, catalog) {
                names(&before.resource_type, &before.title);
            }
        })
    }

    /// Returns what else the resource is ordered by without being asked. Each is looked up as by [`Provider::autorequire`].
    fn autorelations(&self, _resource: &Resource) -> Vec<AutoRelation> {
        Vec::new()
    }

    /// Returns another title by which references may name the resource, as the path of a file whose title is something else.
    fn alias(&self, _resource: &Resource) -> Option<String> {
        None
    }

    /// Returns the contents that this resource will need on this node: what the scan compares and the run fetches. `managed`
    /// are the paths of all `File` resources of the catalog: what recursion finds there is not this resource's.
    ///
    /// # Errors
    ///
    /// When parameters make no sense, as [`Provider::validate`].
    fn wanted(&self, _resource: &Resource, _managed: &ManagedPaths) -> Result<Vec<WantedContent>, ProviderError> {
        Ok(Vec::new())
    }

    /// Validates a resource and returns what [`Provider::wanted`] does: a type that reads all parameters for both does so once.
    ///
    /// # Errors
    ///
    /// As [`Provider::validate`] and [`Provider::wanted`].
    fn validated(&self, resource: &Resource, managed: &ManagedPaths) -> Result<Vec<WantedContent>, ProviderError> {
        self.validate(resource)?;
        self.wanted(resource, managed)
    }

    /// Returns the contents, and their sizes in bytes, that this resource needs in the local store whatever is on this node: what it makes
    /// something else from. They are fetched with the others, before anything is touched, and stay in the store.
    fn needed(&self, _resource: &Resource) -> Vec<(Digest, u64)> {
        Vec::new()
    }

    /// Returns the contents that the resource itself carries. The run does not fetch them, though [`Provider::wanted`] names
    /// them: the provider has them.
    fn carried(&self, _resource: &Resource) -> Vec<Digest> {
        Vec::new()
    }

    /// Compares what is with what shall be.
    ///
    /// # Errors
    ///
    /// When the state cannot be found out; the resource then counts as failed.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError>;

    /// Compares as [`Provider::check`] does, where that needs files of the machine alone; `None`, the default, when it needs more, and nothing was
    /// found out. The engine calls it on a thread that may block, for several resources at once and before their turns, and throws the answers away
    /// once it changes anything: it must depend on nothing that other calls of this provider do.
    fn check_files(&self, _context: &Context, _resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        None
    }

    /// Returns whether [`Provider::check`] of this resource runs commands that the catalog, or a program of another, brings: nobody knows what
    /// these do, so that the engine throws away what [`Provider::check_files`] found of others before. Default: it does not.
    fn checks_by_commands(&self, _resource: &Resource) -> bool {
        false
    }

    /// Makes the changes that [`Provider::check`] found.
    ///
    /// # Errors
    ///
    /// When not even one change could be tried; single failures are in [`Applied`].
    ///
    /// # Cancel safety
    ///
    /// Look at [`Context::cancel`] between changes; a dropped future must leave each object old or new.
    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError>;

    /// Reacts to a change of a resource that notifies this one; returns whether it heard of it, also where there was nothing to do, as for a service that
    /// does not run: then it is told, and what this resource notifies hears of it too.
    ///
    /// # Errors
    ///
    /// When the reaction failed.
    async fn refresh(&self, _context: &Context, _resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        Ok(false)
    }

    /// Returns what properties hold now, by name: what the metaparameter `audit` compares between runs. `None`, the default, when this
    /// type cannot tell. Like [`Provider::check`], it changes nothing.
    ///
    /// # Errors
    ///
    /// When the state cannot be found out; the resource then counts as failed.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    async fn audited(
        &self,
        _context: &Context,
        _resource: &Arc<Resource>,
    ) -> Result<Option<BTreeMap<Cow<'static, str>, String>>, ProviderError> {
        Ok(None)
    }

    /// Returns what is there of this type, as resources whose parameters are the properties as they are, `ensure` among them; no secret is told.
    /// With a `name`, that one must be among them if it is there, whatever else is; by name more may be found than is listed. `None`, the
    /// default, when this type cannot tell. Like [`Provider::check`], it changes nothing.
    ///
    /// # Errors
    ///
    /// When that cannot be found out, or only one of a name can be.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    async fn instances(&self, _context: &Context, _name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        Ok(None)
    }

    /// Returns whether one call can change several resources of this type: [`Provider::together`] is then told of neighbours.
    fn joins(&self) -> bool {
        false
    }

    /// Learns, before the turn of the first, which resources of this type are to be applied right after each other: nothing of another type
    /// stands between them, and none comes after another because somebody said so. Empty before the turn of one that stands alone. What
    /// [`Provider::apply`] does for the first may do the work of the others; each is still checked and applied in its turn, and tells
    /// its own changes.
    fn together(&self, _resources: &[Arc<Resource>]) {}

    /// Returns whether [`Provider::refresh`] ever does something: what would have been refreshed in noop counts as a change that would have
    /// been made, for what it notifies.
    fn refreshes(&self) -> bool {
        false
    }

    /// Returns whether what this type says of a failure has no part of a secret. Of other types only what was attempted is told of a resource with a
    /// secret. What is a whole secret is cut out in any case. Default: it may have.
    fn hides_secrets(&self) -> bool {
        false
    }

    /// Returns the version of the rules by which [`Checked::witnesses`] decide, `None` when they never do. Another version makes
    /// all resources be checked once.
    fn settles(&self) -> Option<&str> {
        None
    }

    /// Returns whether a resource that was applied is in sync until somebody changes something, so that a difference found later is drift.
    /// What is never in sync, as a message, says no.
    fn converges(&self) -> bool {
        true
    }

    /// Returns whether changes tell values as parameters have them, so that what an earlier catalog wanted can be compared with what is there. Default:
    /// they do. Otherwise, what is found after a property was wanted otherwise is never drift.
    fn tells_parameters(&self) -> bool {
        true
    }

    /// Returns whether other resources that say with this one what a property shall be, as pieces say what a file holds, say what they said in the
    /// catalog before; each resource comes with all of its catalog. What is found where they do not is never drift. Asked only of what differs.
    /// Default: there are no others.
    fn others_agree(&self, _property: &str, _before: Among<'_, '_>, _now: Among<'_, '_>) -> bool {
        true
    }

    /// Returns whether applying this type may change files that belong to other resources, so that what was seen of them
    /// before is to be looked at again.
    fn disturbs_files(&self) -> bool {
        true
    }
}

/// Returns the providers that this crate brings.
#[cfg(feature = "providers")]
#[must_use]
pub fn builtin() -> Vec<Arc<dyn Provider>> {
    vec![
        Arc::new(file::FileProvider::new()),
        Arc::new(exec::ExecProvider),
        Arc::new(notify::NotifyProvider),
        Arc::new(anchor::AnchorProvider),
        Arc::new(augeas::AugeasProvider),
        Arc::new(concat::ConcatFileProvider::default()),
        Arc::new(concat::ConcatFragmentProvider),
        Arc::new(cron::CronProvider::default()),
        Arc::new(file_line::FileLineProvider),
        Arc::new(filebucket::FilebucketProvider),
        Arc::new(group::GroupProvider::default()),
        Arc::new(host::HostProvider::default()),
        Arc::new(ini_setting::IniSettingProvider),
        Arc::new(mount::MountProvider::default()),
        Arc::new(package::PackageProvider::default()),
        Arc::new(resources::ResourcesProvider::default()),
        Arc::new(schedule::ScheduleProvider),
        Arc::new(service::ServiceProvider::default()),
        Arc::new(ssh_authorized_key::SshAuthorizedKeyProvider::default()),
        Arc::new(sshkey::SshkeyProvider::default()),
        Arc::new(tidy::TidyProvider),
        Arc::new(user::UserProvider::default()),
    ]
}
