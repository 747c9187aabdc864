//! What is told of a resource: its events, what its commands said, its place in the counters.

use std::borrow::Cow;

use direct_puppet_transport::protocol::report::{Event, EventStatus, Log, LogLevel, ResourceStatus};
use direct_puppet_transport::protocol::{Resource, Value};

use super::engine::Engine;
use super::prior::LeftValues;
use super::reasons::Reasons;
use super::statuses::Statuses;
use crate::event::RunEvent;
use crate::provider::secrets::REDACTED;
use crate::provider::{Applied, Change, Provider, Said, Wording};
use crate::puppet_report::level_name;
use crate::system::unix_nanos;

impl Engine<'_> {
    /// Takes down what became of the changes of a resource; `applied` is `None` in noop.
    pub(super) fn record(
        &mut self,
        (resource, loglevel): (&Resource, Option<LogLevel>),
        changes: Vec<Change>,
        mut applied: Option<Applied>,
        statuses: &mut Statuses,
    ) {
        let provider = self.providers.get(&resource.resource_type).map(|provider| &**provider);
        let tells_parameters = provider.is_none_or(|provider| provider.tells_parameters());
        for (at, mut change) in changes.into_iter().enumerate() {
            if let Some(message) = applied.as_mut().and_then(|applied| applied.messages.remove(&at))
                && let Some(wording) = &mut change.wording
            {
                wording.done = message;
            }
            if !change.redacted && resource.parameter(&change.property).is_some_and(Value::is_sensitive) {
                redact(&mut change);
            }
            let failure = applied.as_ref().and_then(|applied| applied.failures.get(&at));
            if let Some(reason) = failure {
                self.result.messages.push(format!("{}: {}: {reason}", change.resource, change.property));
            }
            let status = statuses.of(&change.resource, resource);
            let diff = change.diff.take();
            let others_agree = |before: &Resource| self.others_agree(provider, &change.property, before, resource);
            let left = self.prior.value_left(resource, &change, tells_parameters, &others_agree).map(Cow::into_owned);
            let event = Event { loglevel, ..self.event(resource, change, left.as_deref(), applied.is_none(), failure) };
            if event.status != EventStatus::Success {
                let value = left.unwrap_or_else(|| event.previous_value.to_string());
                let unknown = || LeftValues::unknown(&event.resource, resource);
                let left = self.result.left.entry(event.resource.clone()).or_insert_with(unknown);
                left.values.insert(event.property.to_string(), value);
            }
            if let Some(diff) = diff {
                self.result.diffs.push((event.resource.clone(), diff));
            }
            status.out_of_sync = true;
            status.failed |= event.status == EventStatus::Failure;
            status.changed |= event.status == EventStatus::Success;
            status.corrective_change |= event.corrective_change;
            self.sink.send_with(|| RunEvent::Change(Box::new(event.clone())));
            // Nearly all have one, and there may be very many.
            status.events.reserve_exact(1);
            status.events.push(event);
        }
    }

    /// Whether the others that say what a resource wants of a property say what those of the catalog before did.
    fn others_agree(&self, provider: Option<&dyn Provider>, property: &str, before: &Resource, declared: &Resource) -> bool {
        let mut all_before = self.prior.resources.values().map(|resource| &**resource);
        let mut all = self.resources.iter().map(|resource| &**resource);
        provider.is_none_or(|provider| provider.others_agree(property, (before, &mut all_before), (declared, &mut all)))
    }

    /// Makes the event of a change; `left` is what the last run left there.
    fn event(&self, resource: &Resource, change: Change, left: Option<&str>, noop: bool, failure: Option<&String>) -> Event {
        let converges = self.providers.get(&resource.resource_type).is_none_or(|provider| provider.converges());
        let (status, message): (_, Cow<'static, str>) = match (noop, failure, &change.wording) {
            (true, _, Some(words)) => {
                (EventStatus::Noop, format!("current_value {}, should be {} (noop)", words.previous, words.desired).into())
            }
            (true, _, None) => {
                let words = format!("current_value '{}', should be '{}' (noop)", change.previous, change.desired);
                (EventStatus::Noop, words.into())
            }
            (false, Some(reason), Some(words)) => {
                (EventStatus::Failure, format!("change from {} to {} failed: {reason}", words.previous, words.desired).into())
            }
            (false, Some(reason), None) => {
                let words = format!("change from '{}' to '{}' failed: {reason}", change.previous, change.desired);
                (EventStatus::Failure, words.into())
            }
            (false, None, Some(words)) => (EventStatus::Success, words.done.clone().into()),
            (false, None, None) => (EventStatus::Success, done_message(&change)),
        };
        Event {
            resource: change.resource.to_string(),
            corrective_change: converges && !change.redacted && left.is_some_and(|left| left != change.previous),
            property: change.property,
            previous_value: change.previous,
            desired_value: change.desired,
            message,
            status,
            redacted: change.redacted,
            loglevel: None,
            time_unix_nanos: unix_nanos(self.system.now()),
        }
    }

    /// Tells what commands of a resource said meanwhile.
    pub(super) fn tell(&mut self, provider: &dyn Provider, (at, resource): (usize, &Resource)) {
        let said = self.context.take_said();
        if said.is_empty() {
            return;
        }
        let path = self.places.of(at).path_of(&resource.reference().to_string());
        let reasons = Reasons::of(Some(provider), resource);
        let level = level_name(self.metaparameters[at].loglevel.unwrap_or(LogLevel::Notice));
        let time_unix_nanos = unix_nanos(self.system.now());
        for Said { property, line } in said {
            let (level, source) = (level.clone(), format!("{path}/{property}"));
            let log = Log { level, message: reasons.hide(line), source, time_unix_nanos };
            self.sink.send_with(|| RunEvent::Said(Box::new(log.clone())));
            self.result.said.push(log);
        }
    }

    /// Counts the resources that these are of.
    pub(super) fn count(&mut self, statuses: &[ResourceStatus]) {
        let counters = &mut self.result.counters;
        for status in statuses {
            counters.out_of_sync += u64::from(status.out_of_sync);
            counters.changed += u64::from(status.changed);
            counters.failed += u64::from(status.failed);
            counters.corrective_change += u64::from(status.corrective_change);
        }
    }

    /// Returns the event of a resource that could not be looked at: it has no property.
    pub(super) fn failure_event(&self, resource: &Resource, reason: String) -> Event {
        let event = refresh_event(resource, 0, unix_nanos(self.system.now()));
        Event { message: reason.into(), status: EventStatus::Failure, ..event }
    }

    /// Says at once, and in the report, what somebody should look at.
    pub(super) fn warn(&mut self, message: String) {
        self.sink.send(RunEvent::Warning(message.clone()));
        self.result.messages.push(message);
    }
}

/// Returns the event of a refresh: it has no property.
pub(super) fn refresh_event(resource: &Resource, causes: u64, time_unix_nanos: i64) -> Event {
    let plural = if causes == 1 { "" } else { "s" };
    Event {
        resource: resource.reference().to_string(),
        property: "".into(),
        previous_value: "".into(),
        desired_value: "".into(),
        message: format!("Triggered 'refresh' from {causes} event{plural}").into(),
        status: EventStatus::Success,
        corrective_change: false,
        redacted: false,
        loglevel: None,
        time_unix_nanos,
    }
}

/// Hides the values of a change.
fn redact(change: &mut Change) {
    let hidden = || REDACTED.to_owned();
    let wording = Wording { previous: hidden(), desired: hidden(), done: format!("changed {REDACTED} to {REDACTED}") };
    (change.previous, change.desired) = (REDACTED.into(), REDACTED.into());
    (change.diff, change.redacted, change.wording) = (None, true, Some(Box::new(wording)));
}

fn done_message(change: &Change) -> Cow<'static, str> {
    match (&*change.property, &*change.previous, &*change.desired) {
        ("ensure", "absent", _) => "created".into(),
        ("ensure", _, "absent") => "removed".into(),
        (property, previous, desired) => format!("{property} changed '{previous}' to '{desired}'").into(),
    }
}
