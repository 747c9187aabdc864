//! Why something failed, without the secrets of the resource.

use direct_puppet_transport::protocol::Resource;

use super::engine::error_chain;
use crate::provider::secrets::{REDACTED, Secrets};
use crate::provider::{Applied, Provider, ProviderError};

/// Takes secrets out of what is said of one resource.
pub(super) struct Reasons<'a> {
    resource: &'a Resource,
    secrets: Secrets,
    /// Whether what the provider says has no part of a secret: whole ones are cut out all the same.
    hides_secrets: bool,
}

impl<'a> Reasons<'a> {
    pub(super) fn of(provider: Option<&dyn Provider>, resource: &'a Resource) -> Self {
        let hides_secrets = provider.is_some_and(Provider::hides_secrets);
        Self { resource, secrets: Secrets::of(resource), hides_secrets }
    }

    /// Returns text without the secrets that stand in it.
    pub(super) fn hide(&self, text: String) -> String {
        if self.secrets.are_there() { self.secrets.hide(text) } else { text }
    }

    /// Returns why something failed.
    pub(super) fn of_reason(&self, reason: String) -> String {
        match (self.secrets.are_there(), self.hides_secrets) {
            (false, _) => reason,
            (true, true) => self.secrets.hide(reason),
            (true, false) => REDACTED.to_owned(),
        }
    }

    /// Returns why a resource was refused: what names it stays.
    pub(super) fn of_refusal(&self, reason: &str) -> String {
        let name = format!("{}: ", self.resource.reference());
        match reason.strip_prefix(&name) {
            Some(rest) => name + &self.hide(rest.to_owned()),
            None => self.hide(reason.to_owned()),
        }
    }

    /// Returns an error with all its causes, as one line. Of one that may hold a part of a secret, what was attempted stays.
    pub(super) fn of_error(&self, error: &ProviderError) -> String {
        if !self.secrets.are_there() {
            return error_chain(error);
        }
        match error {
            ProviderError::Parameter { resource, parameter, reason } => {
                format!("{resource}: parameter {parameter}: {}", self.hide(reason.clone()))
            }
            ProviderError::Failed { resource, attempt, source } => {
                format!("{resource}: {}: {}", self.hide(attempt.clone()), self.of_reason(error_chain(&**source)))
            }
            ProviderError::Said { message } => self.of_reason(message.clone()),
            other => error_chain(other),
        }
    }

    /// Takes secrets out of what became of changes.
    pub(super) fn clean(&self, applied: &mut Applied) {
        if !self.secrets.are_there() {
            return;
        }
        applied.failures.values_mut().for_each(|reason| *reason = self.of_reason(std::mem::take(reason)));
        applied.messages.values_mut().for_each(|message| *message = self.hide(std::mem::take(message)));
    }
}
