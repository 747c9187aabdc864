//! The `Notify` type: a message in every run's report.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, Value};

use super::difference::quote;
use super::file::read;
use super::secrets::REDACTED;
use super::{Applied, Change, Checked, Context, Provider, ProviderError, Wording};

const KNOWN: &[&str] = &["message", "withpath"];

/// Reports a message, as a change from `absent`: like Puppet's, it is never in sync.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotifyProvider;

impl NotifyProvider {
    /// Returns the provider.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// Returns what the message is: of a list the first element, as in Puppet; `None` of an empty one.
fn value(resource: &Resource) -> Option<Value> {
    match resource.parameter("message") {
        None => Some(resource.title.as_str().into()),
        Some(Value::Array(values)) => values.first().cloned(),
        Some(value) => Some(value.clone()),
    }
}

/// Returns the message as text and as messages about it have it; `None` when there is none.
fn message(resource: &Resource) -> Result<Option<(String, String)>, ProviderError> {
    let bare = |text: String| Ok(Some((text.clone(), text)));
    if resource.parameter("message").is_some_and(Value::is_sensitive) {
        return bare(REDACTED.to_owned());
    }
    match value(resource) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some((text.clone(), quote(&text)))),
        Some(Value::Boolean(value)) => bare(value.to_string()),
        Some(Value::Integer(value)) => bare(value.to_string()),
        Some(Value::Float(value)) => bare(value.to_string()),
        Some(value @ (Value::Array(_) | Value::Hash(_))) => bare(format!("{value:?}")),
        Some(_) => Err(read::fail(resource, "message", "must be text, a number, a boolean, an array or a hash")),
    }
}

#[async_trait]
impl Provider for NotifyProvider {
    fn resource_type(&self) -> &str {
        "Notify"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        read::only_known(resource, KNOWN)?;
        read::boolean(resource, "withpath", false)?;
        message(resource).map(drop)
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let Some((desired, shown)) = message(resource)? else {
            return Ok(Checked { resources: 1, ..Checked::default() });
        };
        let redacted = resource.parameter("message").is_some_and(Value::is_sensitive);
        let (previous, wording) = match redacted {
            true => {
                let hidden = || REDACTED.to_owned();
                (REDACTED, Wording { previous: hidden(), desired: hidden(), done: format!("changed {REDACTED} to {REDACTED}") })
            }
            false => {
                let done = format!("defined 'message' as {shown}");
                ("absent", Wording { previous: quote("absent"), desired: shown, done })
            }
        };
        let change = Change {
            resource: resource.reference(),
            property: "message".into(),
            previous: previous.into(),
            desired: desired.into(),
            diff: None,
            redacted,
            wording: Some(Box::new(wording)),
        };
        Ok(Checked { resources: 1, changes: vec![change], ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        // The change itself is the message.
        Ok(Applied::default())
    }

    fn converges(&self) -> bool {
        false
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    #[test]
    fn messages() {
        let resource = Resource::new("Notify", "it's");
        let of = |value: Value| message(&resource.clone().with("message", value)).unwrap();
        let both = |text: &str, shown: &str| Some((text.to_owned(), shown.to_owned()));
        assert_eq!(message(&resource).unwrap(), both("it's", "'it\\'s'"));
        assert_eq!(of("hello".into()), both("hello", "'hello'"));
        assert_eq!(of("a\nb".into()), both("a\nb", "\"a\\nb\""));
        assert_eq!(of(vec![Value::from("a"), "b".into()].into()), both("a", "'a'"));
        assert_eq!(of(vec![Value::Integer(1), "a".into()].into()), both("1", "1"));
        assert_eq!(of(Value::Array(Vec::new())), None);
        assert_eq!(of(Value::Sensitive(Box::new("hunter2".into()))), both(REDACTED, REDACTED));
        assert_eq!(of(vec![Value::Sensitive(Box::new("hunter2".into()))].into()), both(REDACTED, REDACTED));
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        let is_valid =
            |name: &str, value: Value| NotifyProvider::new().validate(&Resource::new("Notify", "a").with(name, value)).is_ok();
        assert!(is_valid("withpath", true.into()) && is_valid("loglevel", "info".into()));
        assert!(!is_valid("withpath", "maybe".into()) && !is_valid("massage", "a".into()));
        assert!(!is_valid("message", Value::Binary(vec![1])));
    }

    #[tokio::test]
    async fn a_secret_is_told_of_and_not_told() {
        let secret = Resource::new("Notify", "a").with("message", Value::Sensitive(Box::new("hunter2".into())));
        let checked = NotifyProvider::new().check(&World::new().context(), &Arc::new(secret)).await.unwrap();
        let change = &checked.changes[0];
        assert_eq!((&*change.previous, &*change.desired, change.redacted), (REDACTED, REDACTED, true));
        assert_eq!(change.wording.as_ref().unwrap().done, "changed [redacted] to [redacted]");
    }
}
