//! The report of one run: the keys of Puppet's report format 12, plus the ids that make it traceable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{CatalogId, Certname, CodeId, Environment, VersionCounter};

/// The report format whose keys are used.
pub const REPORT_FORMAT: u32 = 12;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RunStatus {
    /// Nothing was out of sync, or noop only.
    Unchanged,
    /// Something was changed, nothing failed.
    Changed,
    /// Something failed.
    Failed,
}

/// Whether a run used the catalog on disk instead of the server's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CachedCatalogStatus {
    /// The server said that the catalog is current, or sent one.
    #[default]
    NotUsed,
    /// The administrator wanted it so.
    ExplicitlyRequested,
    /// The server could not be asked.
    OnFailure,
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventStatus {
    /// Changed and made durable.
    Success,
    /// Tried and failed.
    Failure,
    /// Would have been changed.
    Noop,
    /// Looked at only.
    Audit,
}

/// How much a message matters: syslog's levels, as Puppet names them, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// `emerg`.
    Emerg,
    /// `alert`.
    Alert,
    /// `crit`.
    Crit,
    /// `err`.
    Err,
    /// `warning`.
    Warning,
    /// `notice`: what is not told otherwise.
    Notice,
    /// `info`; the older name is `verbose`.
    Info,
    /// `debug`.
    Debug,
}

impl LogLevel {
    /// Returns the level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "emerg" => Self::Emerg,
            "alert" => Self::Alert,
            "crit" => Self::Crit,
            "err" => Self::Err,
            "warning" => Self::Warning,
            "notice" => Self::Notice,
            "info" | "verbose" => Self::Info,
            "debug" => Self::Debug,
            _ => return None,
        })
    }
}

/// One change, made or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The resource, `Type[title]`.
    pub resource: String,
    /// The property, as `content` or `ensure`; empty for a refresh.
    pub property: Cow<'static, str>,
    /// What was found, as text; redacted if secret.
    pub previous_value: Cow<'static, str>,
    /// What is wanted, as text; redacted if secret.
    pub desired_value: Cow<'static, str>,
    /// One line for people.
    pub message: Cow<'static, str>,
    /// What became of it.
    pub status: EventStatus,
    /// Whether it was drift: the state had been set by an earlier run and something else changed it.
    #[serde(default)]
    pub corrective_change: bool,
    /// Whether values are hidden.
    #[serde(default)]
    pub redacted: bool,
    /// The level at which it is told, where the resource says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loglevel: Option<LogLevel>,
    /// When, in nanoseconds since 1970 UTC.
    #[serde(default)]
    pub time_unix_nanos: i64,
}

/// What became of one resource; unchanged ones are left out of reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// The resource, `Type[title]`.
    pub resource: String,
    /// Where it was declared.
    #[serde(default)]
    pub file: Option<String>,
    /// Where it was declared.
    #[serde(default)]
    pub line: Option<u32>,
    /// It was not as the catalog wants it.
    #[serde(default)]
    pub out_of_sync: bool,
    /// It was changed.
    #[serde(default)]
    pub changed: bool,
    /// It could not be checked or changed.
    #[serde(default)]
    pub failed: bool,
    /// It was changed, but the refresh that followed failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed_to_restart: bool,
    /// It was passed over: a dependency failed, or tags, or the run was cancelled.
    #[serde(default)]
    pub skipped: bool,
    /// At least one of its changes was drift.
    #[serde(default)]
    pub corrective_change: bool,
    /// Its events, in order.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Where it stands in its catalog; known on the node only, and not sent.
    #[serde(skip)]
    pub place: Option<Arc<Place>>,
    /// When its turn came, in nanoseconds since 1970 UTC; known on the node only, 0 elsewhere.
    #[serde(skip)]
    pub began_unix_nanos: i64,
    /// How long its turn took; known on the node only. What one declared resource generates has the time of all.
    #[serde(skip)]
    pub evaluation: Duration,
    /// In noop, the refresh that there would have been; known on the node only. Puppet's reports have a line of it, and no event.
    #[serde(skip)]
    pub pending_refresh: Option<Box<Event>>,
    /// In noop, how what would be made would be told, as `defined content as '{blake3}…'`; known on the node only.
    #[serde(skip)]
    pub planned: Vec<String>,
}

/// Where a declared resource stands in its catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The containers that hold it, outermost first, by reference as `Stage[main]`, `Class[Web]`, `Web::Site[a]`.
    pub containers: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Place {
    /// Returns the names of the containers as Puppet's reports have them: a class by its name alone.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(|name| match name.strip_prefix("Class[").and_then(|rest| rest.strip_suffix(']')) {
            Some(class) => class,
            None => name.as_str(),
        })
    }

    /// Returns the path of a resource in it, as Puppet's messages have it: `/Stage[main]/Web/File[/etc/motd]`.
    #[must_use]
    pub fn path_of(&self, resource: &str) -> String {
        self.names().chain([resource]).fold(String::new(), |path, name| path + "/" + name)
    }
}

/// One line of the log of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// `debug`, `info`, `notice`, `warning` or `err`.
    pub level: String,
    /// What was said.
    pub message: String,
    /// The resource or part that said it.
    pub source: String,
    /// When, in nanoseconds since 1970 UTC.
    pub time_unix_nanos: i64,
}

/// The report of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The node.
    pub host: Certname,
    /// The environment of the catalog.
    pub environment: Environment,
    /// Random id of the run, 32 hexadecimal digits; a report sent twice is kept once.
    pub transaction_uuid: String,
    /// [`REPORT_FORMAT`].
    pub report_format: u32,
    /// When the run began, in nanoseconds since 1970 UTC.
    pub time_unix_nanos: i64,
    /// The catalog that was applied.
    #[serde(default)]
    pub catalog_id: Option<CatalogId>,
    /// The code that made it.
    #[serde(default)]
    pub code_id: Option<CodeId>,
    /// Where that code stands in the environment's history.
    #[serde(default)]
    pub version: Option<VersionCounter>,
    /// Whether the catalog came from disk for want of a server.
    #[serde(default)]
    pub cached_catalog_status: CachedCatalogStatus,
    /// The version of a catalog that was given to the run, as its compiler called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_version: Option<String>,
    /// The code of a catalog that was given to the run, as its compiler called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_code_id: Option<String>,
    /// The id of a catalog that was given to the run, as its compiler called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_uuid: Option<String>,
    /// How the run ended.
    pub status: RunStatus,
    /// The run came to its end.
    pub transaction_completed: bool,
    /// Nothing was to be changed.
    #[serde(default)]
    pub noop: bool,
    /// Something would have been changed.
    #[serde(default)]
    pub noop_pending: bool,
    /// At least one change was drift.
    #[serde(default)]
    pub corrective_change: bool,
    /// Category (`resources`, `time`, `changes`, `events`, `scan`, `wire`) to name to value; times in seconds.
    #[serde(default)]
    pub metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// What was logged at notice or above.
    #[serde(default)]
    pub logs: Vec<Log>,
    /// Resources that were out of sync, failed or skipped.
    #[serde(default)]
    pub resource_statuses: Vec<ResourceStatus>,
}
