//! Types that exist only in Ruby: their resources are handed to a Ruby process with Puppet's own library.
//!
//! [`AgentBuilder::ruby`](crate::AgentBuilder::ruby) switches it on. When a catalog has resources of types that no other provider manages, and
//! Ruby with Puppet's library is there, one process is started for the run. It makes the resources, says what is wrong with them and what
//! they are ordered by, and then checks, changes and refreshes each in its turn, with the type and the provider that Puppet would take:
//! properties are compared and changed as Puppet's transaction does, providers are prefetched once and flushed after each resource. Without
//! Ruby, or without the library, such resources fail, as without this.
//!
//! # What holds
//!
//! * A catalog without such types starts nothing.
//! * The process has a group of its own and an environment with nothing but `PATH`, `LC_ALL` and `HOME`. What types write to standard output or
//!   error is read and let go; what is said to the agent goes over a pipe that they do not have.
//! * When a resource takes longer than it may, or half a minute more when the run is cancelled, the process is killed with its group. Whenever it ends,
//!   that one resource fails, and the next one gets a new process. At the end of a run, what types have left running goes on.
//! * Neither the program nor a library directory may be one that anybody can write to.
//! * Values and messages from Ruby are text of bounded length in UTF-8. Secrets are cut out of them; why a resource with a secret failed is
//!   not told at all.
//!
//! # What does not
//!
//! Types see other resources of the catalog only when these are in Ruby too; of others they see that they are there. Resources that generate others fail.
//! A resource whose provider is not usable yet when its turn comes fails; Puppet tries it again at the end. `self_refresh` is not looked at,
//! and `resources` does not purge such types. They manage the running system: with another root than `/` they are not there.

mod frame;
mod message;
mod options;
mod trust;
mod types;
mod worker;

pub use options::RubyOptions;
pub(crate) use types::{Handed, RubyTypes, Run, hand_over};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, Value};

use super::file::errors;
use super::secrets::{REDACTED, Secrets};
use super::{Applied, AutoRelation, Change, Checked, Context, Provider, ProviderError, Wording};
use message::{Answer, Found, Relation, RelationKind};
use worker::WorkerError;

/// Manages one type that exists only in Ruby, in one run.
#[derive(Debug)]
pub(crate) struct RubyProvider {
    resource_type: String,
    refreshes: bool,
    types: Arc<RubyTypes>,
}

impl RubyProvider {
    fn new(resource_type: &str, refreshes: bool, types: Arc<RubyTypes>) -> Self {
        Self { resource_type: resource_type.to_owned(), refreshes, types }
    }

    async fn ask(&self, context: &Context, resource: &Resource, call: &'static str) -> Result<Answer, ProviderError> {
        let attempt = || format!("could not {call} it with Ruby");
        match self.types.ask(call, resource, context.cancel()).await {
            Ok(answer) => Ok(answer),
            Err(WorkerError::Cancelled) => Err(ProviderError::Cancelled { resource: resource.reference() }),
            Err(error) => {
                let reason = Secrets::of(resource).hide_reason(errors::chain(&error));
                Err(errors::failed(&resource.reference(), attempt(), reason))
            }
        }
    }

    fn relations(&self, resource: &Resource) -> impl Iterator<Item = &Relation> {
        self.types.loaded(resource).into_iter().flat_map(|loaded| &loaded.relations)
    }
}

/// Returns a change in the words of the type.
fn change(resource: &Resource, found: &Found, secrets: &Secrets) -> Change {
    let is_secret = found.secret || resource.parameter(&found.property).is_some_and(Value::is_sensitive);
    let said = |text: &str| if is_secret { REDACTED.to_owned() } else { secrets.hide(text.to_owned()) };
    let done = match is_secret {
        true => format!("changed {REDACTED} to {REDACTED}"),
        // What is told once it is made comes with the answer to `apply`.
        false => format!("{} changed {} to {}", found.property, said(&found.is), said(&found.should)),
    };
    Change {
        resource: resource.reference(),
        property: found.property.clone().into(),
        previous: said(&found.previous).into(),
        desired: said(&found.desired).into(),
        diff: None,
        redacted: is_secret,
        wording: Some(Box::new(Wording { previous: said(&found.is), desired: said(&found.should), done })),
    }
}

fn reference(relation: &Relation) -> ResourceRef {
    let (resource_type, title) = relation.other.clone();
    ResourceRef { resource_type, title }
}

#[async_trait]
impl Provider for RubyProvider {
    fn resource_type(&self) -> &str {
        &self.resource_type
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        match self.types.loaded(resource).and_then(|loaded| loaded.error.clone()) {
            None => Ok(()),
            Some(reason) => {
                let reason = Secrets::of(resource).hide_reason(reason);
                Err(ProviderError::Said { message: format!("{}: {reason}", resource.reference()) })
            }
        }
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        self.relations(resource).filter(|relation| relation.kind == RelationKind::Require).map(reference).collect()
    }

    fn autorelations(&self, resource: &Resource) -> Vec<AutoRelation> {
        let relation = |relation: &Relation| match relation.kind {
            RelationKind::Require => None,
            RelationKind::Before => Some(AutoRelation::Before(reference(relation))),
            RelationKind::Subscribe => Some(AutoRelation::Subscribe(reference(relation))),
            RelationKind::Notify => Some(AutoRelation::Notify(reference(relation))),
        };
        self.relations(resource).filter_map(relation).collect()
    }

    fn alias(&self, resource: &Resource) -> Option<String> {
        self.types.loaded(resource)?.alias.clone()
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let answer = self.ask(context, resource, "check").await?;
        let secrets = Secrets::of(resource);
        if let Some(reason) = answer.error {
            let reason = secrets.hide_reason(reason);
            return Err(ProviderError::Said { message: format!("{}: Could not evaluate: {reason}", resource.reference()) });
        }
        let is_noop = context.options().noop || resource.parameter("noop").and_then(Value::as_bool) == Some(true);
        if let Some(broken) = answer.changes.iter().filter(|_| is_noop).find_map(|found| found.broken.clone()) {
            // What cannot be compared would not be changed either.
            let reason = secrets.hide_reason(broken);
            return Err(ProviderError::Said { message: format!("{}: Could not evaluate: {reason}", resource.reference()) });
        }
        let changes = answer.changes.iter().map(|found| change(resource, found, &secrets)).collect();
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn checks_by_commands(&self, _resource: &Resource) -> bool {
        true
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let answer = self.ask(context, resource, "apply").await?;
        let secrets = Secrets::of(resource);
        if let Some(reason) = answer.error {
            return Err(ProviderError::Said { message: secrets.hide_reason(reason) });
        }
        if answer.made.len() != changes.len() {
            let reason = format!("{} changes were to be made, and Ruby answered about {}", changes.len(), answer.made.len());
            return Err(ProviderError::Said { message: reason });
        }
        let mut applied = Applied::default();
        for (at, (made, change)) in answer.made.into_iter().zip(changes).enumerate() {
            // What was changed and not flushed is not known to be there.
            if let Some(reason) = made.failed.or_else(|| answer.flush.clone()) {
                applied.failures.insert(at, secrets.hide_reason(reason));
            } else if let Some(message) = made.message.filter(|_| !change.redacted) {
                applied.messages.insert(at, secrets.hide(message));
            }
        }
        Ok(applied)
    }

    /// Types make of their parameters what they like.
    fn tells_parameters(&self) -> bool {
        false
    }

    fn hides_secrets(&self) -> bool {
        true
    }

    fn refreshes(&self) -> bool {
        self.refreshes
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        let answer = self.ask(context, resource, "refresh").await?;
        match answer.error {
            Some(reason) => Err(ProviderError::Said { message: Secrets::of(resource).hide_reason(reason) }),
            None => Ok(answer.refreshed),
        }
    }

    async fn audited(
        &self,
        context: &Context,
        resource: &Arc<Resource>,
    ) -> Result<Option<BTreeMap<std::borrow::Cow<'static, str>, String>>, ProviderError> {
        let answer = self.ask(context, resource, "audit").await?;
        let secrets = Secrets::of(resource);
        match answer.error {
            Some(reason) => {
                let reason = secrets.hide_reason(reason);
                Err(ProviderError::Said { message: format!("{}: Could not evaluate: {reason}", resource.reference()) })
            }
            None => Ok(Some(answer.values.into_iter().map(|(name, value)| (name.into(), secrets.hide(value))).collect())),
        }
    }
}
