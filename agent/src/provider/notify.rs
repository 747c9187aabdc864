//! The `Notify` type: a message in every run's report.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, Value};

use super::{Applied, Change, Checked, Context, Provider, ProviderError, Wording};

/// What stands for a secret message.
const REDACTED: &str = "[redacted]";

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

/// Returns the message as text, redacted if it is a secret.
fn message(resource: &Resource) -> Result<String, ProviderError> {
    match resource.parameter("message") {
        None => Ok(resource.title.clone()),
        Some(value) if value.is_sensitive() => Ok(REDACTED.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Boolean(value)) => Ok(value.to_string()),
        Some(Value::Integer(value)) => Ok(value.to_string()),
        Some(Value::Float(value)) => Ok(value.to_string()),
        Some(value @ (Value::Array(_) | Value::Hash(_))) => Ok(format!("{value:?}")),
        Some(_) => Err(ProviderError::Parameter {
            resource: resource.reference(),
            parameter: "message".to_owned(),
            reason: "must be text, a number, a boolean, an array or a hash".to_owned(),
        }),
    }
}

#[async_trait]
impl Provider for NotifyProvider {
    fn resource_type(&self) -> &str {
        "Notify"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        message(resource).map(drop)
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let (redacted, desired) = (resource.parameter("message").is_some_and(Value::is_sensitive), message(resource)?);
        let is_text = resource.parameter("message").is_none_or(|message| message.as_str().is_some());
        let shown = if is_text && !redacted { format!("'{desired}'") } else { desired.clone() };
        let done = match redacted {
            true => format!("changed {REDACTED} to {REDACTED}"),
            false => format!("defined 'message' as {shown}"),
        };
        let change = Change {
            resource: resource.reference(),
            property: "message".into(),
            previous: "absent".into(),
            desired: desired.into(),
            diff: None,
            redacted,
            wording: Some(Box::new(Wording { previous: "'absent'".to_owned(), desired: shown, done })),
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

    #[test]
    fn messages() {
        let resource = Resource::new("Notify", "title");
        assert_eq!(message(&resource).unwrap(), "title");
        assert_eq!(message(&resource.clone().with("message", "hello")).unwrap(), "hello");
        assert_eq!(message(&resource.clone().with("message", vec![Value::Integer(1), "a".into()])).unwrap(), "[1, \"a\"]");
        let secret = Value::Sensitive(Box::new("hunter2".into()));
        assert_eq!(message(&resource.clone().with("message", secret)).unwrap(), REDACTED);
        assert!(NotifyProvider::new().validate(&resource.with("message", Value::Binary(vec![1]))).is_err());
    }
}
