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
use crate::puppet_report::{level_name, of_event, of_log};
use crate::system::unix_nanos;

/// How much of diffs a report has, in bytes: one that is too large, 64 MiB, is not taken.
const MAX_DIFF_BYTES: usize = 16 << 20;

/// What stands in the report for a diff beyond that.
const DIFF_LEFT_OUT: &str = "\ncontents differ; how is not in the report, which has 16 MiB of diffs already\n";

impl Engine<'_> {
    /// Takes down what became of the changes of a resource; `applied` is `None` in noop.
    pub(super) fn record(
        &mut self,
        (at, resource, loglevel): (usize, &Resource, Option<LogLevel>),
        changes: Vec<Change>,
        mut applied: Option<Applied>,
        statuses: &mut Statuses,
    ) {
        let provider = self.providers.get(&resource.resource_type).map(|provider| &**provider);
        let tells_parameters = provider.is_none_or(|provider| provider.tells_parameters());
        for (number, mut change) in changes.into_iter().enumerate() {
            if let Some(message) = applied.as_mut().and_then(|applied| applied.messages.remove(&number))
                && let Some(wording) = &mut change.wording
            {
                wording.done = message;
            }
            if !change.redacted && resource.parameter(&change.property).is_some_and(Value::is_sensitive) {
                redact(&mut change);
            }
            let failure = applied.as_ref().and_then(|applied| applied.failures.get(&number));
            if let Some(reason) = failure {
                self.result.messages.push(format!("{}: {}: {reason}", change.resource, change.property));
            }
            let status = statuses.of(&change.resource, resource);
            let is_made = applied.is_none() && change.property == "ensure" && !change.redacted;
            if let Some(wording) = change.wording.as_ref().filter(|_| is_made) {
                status.planned.push(wording.done.clone());
            }
            if let Some(diff) = change.diff.take() {
                self.show_diff((at, &change.resource.to_string()), (&change.property, loglevel), diff);
            }
            let others_agree = |before: &Resource| self.others_agree(provider, &change.property, before, resource);
            let left = self.prior.value_left(resource, &change, tells_parameters, &others_agree).map(Cow::into_owned);
            let event = Event { loglevel, ..self.event(resource, change, left.as_deref(), applied.is_none(), failure) };
            if event.status != EventStatus::Success {
                let value = left.unwrap_or_else(|| event.previous_value.to_string());
                let unknown = || LeftValues::unknown(&event.resource, resource);
                let left = self.result.left.entry(event.resource.clone()).or_insert_with(unknown);
                left.values.insert(event.property.to_string(), value);
            }
            self.tell_event(at, &event);
            status.out_of_sync = true;
            status.failed |= event.status == EventStatus::Failure;
            status.changed |= event.status == EventStatus::Success;
            status.corrective_change |= event.corrective_change;
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
        let reference = resource.reference().to_string();
        let path = self.places.of(at).path_of(&reference);
        let reasons = Reasons::of(Some(provider), resource);
        let level = level_name(self.metaparameters[at].loglevel.unwrap_or(LogLevel::Notice));
        let time_unix_nanos = unix_nanos(self.system.now());
        for Said { property, line } in said {
            let (level, source) = (level.clone(), format!("{path}/{property}"));
            let log = Log { level, message: reasons.hide(line), source, time_unix_nanos };
            self.sink.send_with(|| RunEvent::Said(Box::new(log.clone())));
            self.log((at, &reference), log);
        }
    }

    /// Tells of an event at once.
    pub(super) fn tell_event(&mut self, at: usize, event: &Event) {
        self.sink.send_with(|| RunEvent::Change(Box::new(event.clone())));
        if self.lines.is_there() {
            let status = self.placed(at, &event.resource);
            of_event(&status, event).for_each(|line| self.lines.hear(&line));
        }
    }

    /// Says at once, and in the report, what is no event of the resource at an index, or of one that it generates. People are told it by the name
    /// of the resource as `message`, the report has `words` by its path.
    pub(super) fn say(&mut self, (at, reference): (usize, &str), message: &str, words: String) {
        self.result.messages.push(format!("{reference}: {message}"));
        let source = self.places.of(at).path_of(reference);
        let (level, time_unix_nanos) = (level_name(LogLevel::Warning), unix_nanos(self.system.now()));
        self.log((at, reference), Log { level, message: words, source, time_unix_nanos });
    }

    /// Takes down what would have been refreshed, had nothing been in noop: a line, as in Puppet, and no event of the report.
    pub(super) fn would_refresh(&mut self, (at, resource): (usize, &Resource), causes: u64, statuses: &mut Statuses) {
        let reference = resource.reference();
        let refresh = refresh_event(resource, causes, unix_nanos(self.system.now()));
        let message = format!("Would have triggered 'refresh' from {causes} event{}", plural(causes));
        let event = Event { message: message.clone().into(), status: EventStatus::Noop, ..refresh };
        self.sink.send_with(|| RunEvent::Change(Box::new(event.clone())));
        let source = self.places.of(at).path_of(&event.resource);
        let (level, time_unix_nanos) = (level_name(LogLevel::Notice), event.time_unix_nanos);
        self.log((at, &event.resource), Log { level, message, source, time_unix_nanos });
        statuses.of(&reference, resource).pending_refresh = Some(Box::new(event));
    }

    /// Shows how a content changes: before the change is told.
    fn show_diff(&mut self, (at, reference): (usize, &str), (property, loglevel): (&str, Option<LogLevel>), diff: String) {
        let source = format!("{}/{property}", self.places.of(at).path_of(reference));
        let (level, time_unix_nanos) = (level_name(loglevel.unwrap_or(LogLevel::Notice)), unix_nanos(self.system.now()));
        let log = Log { level, message: format!("\n{diff}"), source, time_unix_nanos };
        self.hear((at, reference), &log);
        let bytes = self.result.diff_bytes.saturating_add(diff.len());
        if bytes > MAX_DIFF_BYTES {
            self.result.logs.push(Log { message: DIFF_LEFT_OUT.to_owned(), ..log });
            return;
        }
        self.result.diff_bytes = bytes;
        self.result.logs.push(log);
        self.result.diffs.push((reference.to_owned(), diff));
    }

    /// Keeps a line of a resource for the report, and lets hear it.
    fn log(&mut self, (at, reference): (usize, &str), log: Log) {
        self.hear((at, reference), &log);
        self.result.logs.push(log);
    }

    fn hear(&mut self, (at, reference): (usize, &str), log: &Log) {
        if self.lines.is_there() {
            let status = self.placed(at, reference);
            self.lines.hear(&of_log(log, Some(&status)));
        }
    }

    /// Returns what lines say of the resource at an index, or of one that it generates.
    fn placed(&mut self, at: usize, reference: &str) -> ResourceStatus {
        let declared = &self.resources[at];
        let (file, line, place) = (declared.file.clone(), declared.line, Some(self.places.of(at)));
        ResourceStatus { resource: reference.to_owned(), file, line, place, ..ResourceStatus::default() }
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
    Event {
        resource: resource.reference().to_string(),
        property: "".into(),
        previous_value: "".into(),
        desired_value: "".into(),
        message: format!("Triggered 'refresh' from {causes} event{}", plural(causes)).into(),
        status: EventStatus::Success,
        corrective_change: false,
        redacted: false,
        loglevel: None,
        time_unix_nanos,
    }
}

const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
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
