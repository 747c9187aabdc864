//! The metaparameter `audit`: properties are compared with what the last run saw, and never changed for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use direct_puppet_transport::protocol::report::{Event, EventStatus};
use direct_puppet_transport::protocol::{Resource, Value};

use super::engine::Engine;
use crate::provider::{Provider, ProviderError};

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// A property that holds something else than when it was last seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) property: Cow<'static, str>,
    previous: String,
    now: String,
    is_secret: bool,
}

impl Audit {
    /// Returns what is told of it: Puppet's words.
    pub(super) fn event(self, resource: &Resource, time_unix_nanos: i64) -> Event {
        let (previous, now) = match self.is_secret {
            true => (REDACTED.to_owned(), REDACTED.to_owned()),
            false => (self.previous, self.now),
        };
        Event {
            resource: resource.reference().to_string(),
            property: self.property,
            message: format!("audit change: previously recorded value '{previous}' has been changed to '{now}'").into(),
            previous_value: now.into(),
            desired_value: previous.into(),
            status: EventStatus::Audit,
            corrective_change: false,
            redacted: self.is_secret,
            loglevel: None,
            time_unix_nanos,
        }
    }
}

impl Engine<'_> {
    /// Looks at what `audit` names, takes it down for the next run, and returns what is not as it was.
    pub(super) async fn audit(
        &mut self,
        provider: &dyn Provider,
        (at, resource): (usize, &Arc<Resource>),
    ) -> Result<Vec<Audit>, ProviderError> {
        let wanted: Vec<&str> =
            resource.parameter("audit").map(Value::as_list).unwrap_or_default().iter().filter_map(Value::as_str).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // What is compared with an earlier run does not settle.
        self.result.witnesses = None;
        let reference = resource.reference().to_string();
        let Some(values) = self.limited(resource, provider.audited(self.context, resource)).await? else {
            let reason = format!("audit is left out: type {} does not tell its properties", resource.resource_type);
            self.say((at, &reference), &reason, reason.clone());
            return Ok(Vec::new());
        };
        let named: BTreeMap<Cow<'static, str>, String> =
            values.into_iter().filter(|(name, _)| wanted.iter().any(|wanted| wanted == name || *wanted == "all")).collect();
        for unknown in wanted.iter().filter(|wanted| **wanted != "all" && !named.contains_key(**wanted)) {
            let reason = format!("audit names {unknown}, which is no property that can be audited");
            self.say((at, &reference), &reason, reason.clone());
        }
        let before = self.remembered.audited.get(&reference);
        let mut audits = Vec::new();
        for (name, now) in &named {
            if let Some(previous) = before.and_then(|before| before.get(&**name)).filter(|previous| *previous != now) {
                audits.push(Audit {
                    property: name.clone(),
                    previous: previous.clone(),
                    now: now.clone(),
                    is_secret: resource.parameter(name).is_some_and(Value::is_sensitive),
                });
            }
        }
        let named = named.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        self.result.remembered.audited.insert(reference, named);
        Ok(audits)
    }
}
