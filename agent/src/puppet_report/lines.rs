//! What Puppet's agent logs of a run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::{fmt, iter};

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

    /// Returns whether it shows how a content changes: no other message begins with a line feed.
    #[must_use]
    pub fn is_diff(&self) -> bool {
        !self.is_own() && self.message.starts_with('\n')
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
    let first =
        report.catalog_id.is_some().then(|| opening(&PuppetReport(report).configuration_version(), report.time_unix_nanos));
    let statuses = &report.resource_statuses;
    let mut events: Vec<(&ResourceStatus, &Event)> =
        statuses.iter().flat_map(|status| status.events.iter().map(move |event| (status, event))).collect();
    // One resource's events are by name, but happened in another order.
    events.sort_by_key(|(_, event)| event.time_unix_nanos);
    let mut logs: Vec<Line<'_>> = of_logs(report).collect();
    logs.sort_by_key(|line| line.time_unix_nanos);
    let mut logs = logs.into_iter().peekable();
    let mut events = events.into_iter().peekable();
    let mut of_event_now: Option<OfEvent<'_>> = None;
    let between = iter::from_fn(move || {
        if let Some(line) = of_event_now.as_mut().and_then(Iterator::next) {
            return Some(line);
        }
        let until = events.peek().map_or(i64::MAX, |(_, event)| event.time_unix_nanos);
        if let Some(line) = logs.next_if(|line| line.time_unix_nanos <= until) {
            return Some(line);
        }
        let (status, event) = events.next()?;
        of_event_now.insert(of_event(status, event)).next()
    });
    first.into_iter().chain(between).chain(closing(report))
}

/// Returns the lines that a report keeps: not those for finding faults, unless these are logged.
pub(crate) fn kept_lines(report: &Report) -> impl Iterator<Item = Line<'_>> {
    let is_debugging = tracing::enabled!(tracing::Level::DEBUG);
    lines(report).filter(move |line| line.level < LogLevel::Debug || is_debugging)
}

/// Returns the line with which applying a catalog begins.
pub(crate) fn opening(configuration_version: &str, time_unix_nanos: i64) -> Line<'static> {
    own(LogLevel::Info, format!("Applying configuration version '{configuration_version}'"), time_unix_nanos)
}

/// Returns the line that says how long a catalog was applied, if that came to its end.
pub(crate) fn closing(report: &Report) -> Option<Line<'static>> {
    let seconds = report.metrics.get("time").and_then(|times| times.get("catalog_application"));
    let seconds = seconds.filter(|_| report.catalog_id.is_some() && report.transaction_completed)?;
    let events = report.resource_statuses.iter().flat_map(|status| &status.events);
    let last = events.map(|event| event.time_unix_nanos).chain([report.time_unix_nanos]).max().unwrap_or_default();
    Some(own(LogLevel::Notice, format!("Applied catalog in {seconds:.2} seconds"), last))
}

/// Makes a line of what the run itself says.
fn own(level: LogLevel, message: String, time_unix_nanos: i64) -> Line<'static> {
    Line { level, source: OWN.into(), message: message.into(), status: None, time_unix_nanos }
}

fn path_of(status: &ResourceStatus) -> String {
    status.place.as_ref().map_or_else(|| format!("/{}", status.resource), |place| place.path_of(&status.resource))
}

/// The lines of one event.
pub(crate) type OfEvent<'a> = iter::Chain<std::option::IntoIter<Line<'a>>, std::array::IntoIter<Line<'a>, 1>>;

/// Makes lines of an event.
pub(crate) fn of_event<'a>(status: &'a ResourceStatus, event: &'a Event) -> OfEvent<'a> {
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

/// Makes lines of what is no event: what commands said, diffs, what was passed over and why, what the run itself says.
fn of_logs(report: &Report) -> impl Iterator<Item = Line<'_>> {
    let is_of_resource = report.logs.iter().any(|log| log.source.starts_with('/'));
    let by_path: HashMap<String, &ResourceStatus> = match is_of_resource {
        false => HashMap::new(),
        true => report.resource_statuses.iter().map(|status| (path_of(status), status)).collect(),
    };
    report.logs.iter().map(move |log| {
        // The resource itself says it, or one of its properties.
        let status = by_path.get(&log.source).or_else(|| by_path.get(log.source.rsplit_once('/')?.0));
        of_log(log, status.copied())
    })
}

/// Makes a line of what is no event.
pub(crate) fn of_log<'a>(log: &'a Log, status: Option<&'a ResourceStatus>) -> Line<'a> {
    let is_own = !log.source.starts_with('/');
    Line {
        level: LogLevel::from_name(&log.level).unwrap_or(LogLevel::Notice),
        source: if is_own { OWN } else { log.source.as_str() }.into(),
        message: log.message.as_str().into(),
        status,
        time_unix_nanos: log.time_unix_nanos,
    }
}

/// The lines of a report, as it has them.
pub(super) struct Lines<'a>(pub(super) &'a Report);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(kept_lines(self.0).map(Entry))
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
