//! What Puppet's agent logs of a run.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use direct_puppet_transport::protocol::Report;
use direct_puppet_transport::protocol::report::{Event, EventStatus, Log, LogLevel, ResourceStatus};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::status::type_and_title;
use super::{PuppetReport, event, iso8601};

/// How the message of a refresh that failed begins.
pub(crate) const FAILED_REFRESH: &str = "Failed to call refresh: ";

/// Who says what no resource says.
const OWN: &str = "Puppet";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// How much it matters.
    pub level: LogLevel,
    /// The path of what says it, as `/Stage[main]/Web/File[/etc/motd]/ensure`; `Puppet` for the run itself.
    pub source: Cow<'a, str>,
    /// What is said.
    pub message: Cow<'a, str>,
    /// The resource that says it.
    pub status: Option<&'a ResourceStatus>,
    /// When, in nanoseconds since 1970 UTC.
    pub time_unix_nanos: i64,
}

impl Line<'_> {
    /// Returns whether the run itself says it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.source == OWN
    }

    /// Returns the tags of the line: its level, and those of the resource that says it.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let level = level_name(self.level);
        let resource_type = self.status.map(|status| type_and_title(&status.resource).0.to_lowercase());
        let tags = self.status.and_then(|status| status.place.as_deref()).map(|place| place.tags.as_slice()).unwrap_or_default();
        let mut all = vec![level];
        all.extend(resource_type.filter(|name| !tags.contains(name)));
        all.extend_from_slice(tags);
        all
    }
}

/// Returns the name of a level.
pub(crate) fn level_name(level: LogLevel) -> String {
    serde_json::to_value(level).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

impl fmt::Display for Line<'_> {
    /// Writes the line as Puppet's console has it, without colour: `Notice: /Stage[main]/Main/File[/tmp/a]/ensure: created`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.level {
            LogLevel::Emerg => "Emergency",
            LogLevel::Alert => "Alert",
            LogLevel::Crit => "Critical",
            LogLevel::Err => "Error",
            LogLevel::Warning => "Warning",
            LogLevel::Info => "Info",
            LogLevel::Debug => "Debug",
            _ => "Notice",
        };
        match self.is_own() {
            true => write!(f, "{word}: {}", self.message),
            false => write!(f, "{word}: {}: {}", self.source, self.message),
        }
    }
}

/// Returns the log of a run in the order of what happened: which catalog was applied, what became of its resources, what else was to be said.
///
/// Lines are made one by one: a run may change very much.
pub fn lines(report: &Report) -> impl Iterator<Item = Line<'_>> {
    let own = |level, message: String, time_unix_nanos| Line {
        level,
        source: OWN.into(),
        message: message.into(),
        status: None,
        time_unix_nanos,
    };
    let first = report.catalog_id.is_some().then(|| {
        let version = PuppetReport(report).configuration_version();
        own(LogLevel::Info, format!("Applying configuration version '{version}'"), report.time_unix_nanos)
    });
    let statuses = &report.resource_statuses;
    let mut events: Vec<(&ResourceStatus, &Event)> =
        statuses.iter().flat_map(|status| status.events.iter().map(move |event| (status, event))).collect();
    // One resource's events are by name, but happened in another order.
    events.sort_by_key(|(_, event)| event.time_unix_nanos);
    let last = events.last().map_or(report.time_unix_nanos, |(_, event)| event.time_unix_nanos.max(report.time_unix_nanos));
    let (said, messages): (Vec<&Log>, Vec<&Log>) = report.logs.iter().partition(|log| log.source.starts_with('/'));
    let named: HashSet<&str> = messages.iter().copied().flat_map(names).map(|(name, _)| name).collect();
    let named: HashMap<&str, &ResourceStatus> = statuses
        .iter()
        .filter(|status| named.contains(status.resource.as_str()))
        .filter(|status| status.failed || status.skipped || status.place.is_some())
        .map(|status| (status.resource.as_str(), status))
        .collect();
    let messages = messages.into_iter().filter_map(move |log| of_message(log, &named));
    let (said, said_last): (Vec<Line<'_>>, Vec<Line<'_>>) = of_said(statuses, &said)
        .partition(|line| events.last().is_some_and(|(_, event)| line.time_unix_nanos <= event.time_unix_nanos));
    let mut said = said.into_iter().peekable();
    let seconds = report.metrics.get("time").and_then(|times| times.get("catalog_application"));
    let end = seconds
        .filter(|_| report.catalog_id.is_some() && report.transaction_completed)
        .map(|seconds| own(LogLevel::Notice, format!("Applied catalog in {seconds:.2} seconds"), last));
    let of_events = events.into_iter().flat_map(move |(status, event)| {
        let mut before = Vec::new();
        while let Some(line) = said.next_if(|line| line.time_unix_nanos <= event.time_unix_nanos) {
            before.push(line);
        }
        before.into_iter().chain(of_event(status, event))
    });
    first.into_iter().chain(of_events).chain(said_last).chain(messages).chain(end)
}

/// Returns what may be the resource that a message is about, each with the rest of the message.
fn names(log: &Log) -> impl Iterator<Item = (&str, &str)> {
    // One that is refused is said otherwise: `Web[a] (/site.pp:7) cannot be managed: …`.
    let follows = [": ", " (", " cannot be managed"];
    let ends = log.message.match_indices(']').map(|(at, _)| log.message.split_at(at + 1));
    let ends = ends.filter(move |(_, rest)| follows.iter().any(|next| rest.starts_with(next)));
    ends.map(|(name, rest)| (name, rest.strip_prefix(": ").unwrap_or(rest)))
}

fn path_of(status: &ResourceStatus) -> String {
    status.place.as_ref().map_or_else(|| format!("/{}", status.resource), |place| place.path_of(&status.resource))
}

fn of_event<'a>(status: &'a ResourceStatus, event: &'a Event) -> impl Iterator<Item = Line<'a>> + use<'a> {
    let level = match (event.status, event.loglevel) {
        (EventStatus::Failure, _) => LogLevel::Err,
        (_, Some(level)) => level,
        _ => LogLevel::Notice,
    };
    let time_unix_nanos = event.time_unix_nanos;
    let is_notify = event.status == EventStatus::Success
        && !event.redacted
        && event.property == "message"
        && status.resource.starts_with("Notify[");
    // What a message is for.
    let said = is_notify.then(|| Line {
        level,
        source: OWN.into(),
        message: Cow::Borrowed(&*event.desired_value),
        status: Some(status),
        time_unix_nanos,
    });
    let path = path_of(status);
    let source = if event.property.is_empty() { path } else { format!("{path}/{}", event.property) };
    let message = event::message(event);
    let is_unlooked = event::is_error(event) && !message.starts_with(FAILED_REFRESH);
    let message = if is_unlooked { format!("Could not evaluate: {message}") } else { message }.into();
    said.into_iter().chain([Line { level, source: source.into(), message, status: Some(status), time_unix_nanos }])
}

/// Makes lines of what commands of resources said.
fn of_said<'a>(statuses: &'a [ResourceStatus], said: &[&'a Log]) -> impl Iterator<Item = Line<'a>> {
    let by_path: HashMap<String, &ResourceStatus> = match said {
        [] => HashMap::new(),
        _ => statuses.iter().map(|status| (path_of(status), status)).collect(),
    };
    said.iter().map(move |log| Line {
        level: LogLevel::from_name(&log.level).unwrap_or(LogLevel::Notice),
        source: log.source.as_str().into(),
        message: log.message.as_str().into(),
        status: log.source.rsplit_once('/').and_then(|(path, _)| by_path.get(path).copied()),
        time_unix_nanos: log.time_unix_nanos,
    })
}

/// Makes a line of a message, unless an event says the same.
fn of_message<'a>(log: &'a Log, by_name: &HashMap<&str, &'a ResourceStatus>) -> Option<Line<'a>> {
    let named = names(log).find_map(|(name, rest)| Some((*by_name.get(name)?, rest)));
    let Some((status, message)) = named else {
        let level = LogLevel::from_name(&log.level).unwrap_or(LogLevel::Warning);
        let (source, message) = (OWN.into(), log.message.as_str().into());
        return Some(Line { level, source, message, status: None, time_unix_nanos: log.time_unix_nanos });
    };
    let told = |event: &Event| {
        event.status == EventStatus::Failure
            && log.message.ends_with(event.message.rsplit(" failed: ").next().unwrap_or_default())
    };
    if status.events.iter().any(told) || message.starts_with("refresh failed: ") {
        return None;
    }
    let (level, message) = match (status.failed, status.skipped) {
        (true, _) => (LogLevel::Err, Cow::Borrowed(message)),
        (_, true) if message == "skipped because a dependency failed" => {
            (LogLevel::Warning, Cow::Borrowed("Skipping because of failed dependencies"))
        }
        _ => (LogLevel::Warning, Cow::Borrowed(message)),
    };
    Some(Line { level, source: path_of(status).into(), message, status: Some(status), time_unix_nanos: log.time_unix_nanos })
}

/// The lines of a report, as it has them.
pub(super) struct Lines<'a>(pub(super) &'a Report);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(lines(self.0).map(Entry))
    }
}

struct Entry<'a>(Line<'a>);

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { level, source, message, status, time_unix_nanos } = &self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("level", level)?;
        map.serialize_entry("message", message)?;
        map.serialize_entry("source", source)?;
        map.serialize_entry("tags", &self.0.tags())?;
        map.serialize_entry("time", &iso8601(*time_unix_nanos))?;
        map.serialize_entry("file", &status.and_then(|status| status.file.as_deref()))?;
        map.serialize_entry("line", &status.and_then(|status| status.line))?;
        map.end()
    }
}
