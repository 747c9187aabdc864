//! From Puppet's report format, 5 to 12, to ours. What ours has no place for is left.

use std::borrow::Cow;
use std::collections::BTreeMap;

use direct_puppet_transport::protocol::limits::MAX_REPORT_BYTES;
use direct_puppet_transport::protocol::report::{CachedCatalogStatus, Event, EventStatus, Log, LogLevel, ResourceStatus};
use direct_puppet_transport::protocol::{Certname, Environment, Report, RunStatus};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::text::Text;
use super::time::unix_nanos;

/// The mark of drift in messages of Puppet; ours is a field.
const CORRECTIVE: &str = " (corrective)";

/// A report as an agent of Puppet sends it.
#[derive(Debug, Deserialize)]
pub(super) struct PuppetReport {
    host: String,
    time: String,
    transaction_uuid: String,
    report_format: u32,
    status: String,
    #[serde(default)]
    environment: Option<String>,
    #[serde(default)]
    configuration_version: Option<Text>,
    #[serde(default)]
    transaction_completed: Option<bool>,
    #[serde(default)]
    noop: Option<bool>,
    #[serde(default)]
    noop_pending: Option<bool>,
    #[serde(default)]
    corrective_change: Option<bool>,
    #[serde(default)]
    catalog_uuid: Option<String>,
    #[serde(default)]
    code_id: Option<String>,
    #[serde(default)]
    cached_catalog_status: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    logs: Vec<PuppetLog>,
    #[serde(default, deserialize_with = "or_default")]
    metrics: BTreeMap<String, Metric>,
    #[serde(default, deserialize_with = "or_default")]
    resource_statuses: BTreeMap<String, PuppetStatus>,
}

#[derive(Debug, Deserialize)]
struct PuppetLog {
    level: LogLevel,
    #[serde(default)]
    message: Text,
    #[serde(default)]
    source: Text,
    #[serde(default)]
    time: String,
}

#[derive(Debug, Deserialize)]
struct Metric {
    #[serde(default)]
    values: Vec<(String, IgnoredAny, Number)>,
}

/// A number; nothing when it is something else.
#[derive(Debug)]
struct Number(Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(|text| Self(text.0.parse().ok()))
    }
}

#[derive(Debug, Deserialize)]
struct PuppetStatus {
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    line: Option<u32>,
    #[serde(default)]
    out_of_sync: Option<bool>,
    #[serde(default)]
    changed: Option<bool>,
    #[serde(default)]
    failed: Option<bool>,
    #[serde(default)]
    failed_to_restart: Option<bool>,
    #[serde(default)]
    skipped: Option<bool>,
    #[serde(default)]
    corrective_change: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    events: Vec<PuppetEvent>,
}

#[derive(Debug, Deserialize)]
struct PuppetEvent {
    #[serde(default)]
    property: Option<String>,
    #[serde(default)]
    previous_value: Text,
    #[serde(default)]
    desired_value: Text,
    #[serde(default)]
    message: Text,
    status: EventStatus,
    #[serde(default)]
    redacted: Option<bool>,
    #[serde(default)]
    corrective_change: Option<bool>,
    #[serde(default)]
    time: String,
}

/// Reads null as what is not there.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl PuppetReport {
    /// Makes a report of ours of it, which must be one of `certname`. `environment` is that of the request, for a run that came to none.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub(super) fn into_report(self, certname: &Certname, environment: &Environment) -> Result<Report, String> {
        if self.host != certname.as_str() {
            return Err(format!("this is no report of {certname}: its host is another"));
        }
        let environment = match self.environment.as_deref() {
            None | Some("") => environment.clone(),
            Some(name) => name.parse().map_err(|error| format!("{error}"))?,
        };
        self.check_events()?;
        let status = match self.status.as_str() {
            "failed" => RunStatus::Failed,
            "changed" => RunStatus::Changed,
            "unchanged" => RunStatus::Unchanged,
            other => return Err(format!("status {:?} is none of failed, changed and unchanged", cut(other))),
        };
        let time_unix_nanos = unix_nanos(&self.time).ok_or_else(|| format!("time {:?} is not ISO 8601", cut(&self.time)))?;
        let code_id = self.code_id.as_deref().and_then(|code_id| code_id.parse().ok());
        Ok(Report {
            host: certname.clone(),
            environment,
            transaction_uuid: self.transaction_uuid.replace('-', ""),
            report_format: self.report_format,
            time_unix_nanos,
            catalog_id: None,
            code_id,
            version: None,
            cached_catalog_status: match self.cached_catalog_status.as_deref() {
                Some("explicitly_requested") => CachedCatalogStatus::ExplicitlyRequested,
                Some("on_failure") => CachedCatalogStatus::OnFailure,
                _ => CachedCatalogStatus::NotUsed,
            },
            configuration_version: self.configuration_version.map(|version| version.0),
            given_code_id: self.code_id.filter(|_| code_id.is_none()),
            catalog_uuid: self.catalog_uuid,
            status,
            // Reports before format 8 do not say it, and came only of runs that ended.
            transaction_completed: self.transaction_completed.unwrap_or(status != RunStatus::Failed),
            noop: self.noop.unwrap_or(false),
            noop_pending: self.noop_pending.unwrap_or(false),
            corrective_change: self.corrective_change.unwrap_or(false),
            metrics: self.metrics.into_iter().map(|(name, metric)| (name, metric.numbers())).collect(),
            logs: self.logs.into_iter().map(PuppetLog::into_log).collect(),
            resource_statuses: self.resource_statuses.into_iter().filter_map(|(name, status)| status.into_status(name)).collect(),
        })
    }
}

impl PuppetReport {
    /// Refuses what would grow while it is read: each event of ours has the name of its resource.
    fn check_events(&self) -> Result<(), String> {
        let bytes = |(name, status): (&String, &PuppetStatus)| name.len().saturating_mul(status.events.len());
        let all = self.resource_statuses.iter().map(bytes).fold(0, usize::saturating_add);
        match u64::try_from(all) {
            Ok(all) if all <= MAX_REPORT_BYTES => Ok(()),
            _ => Err(format!("its events name their resources in more than {MAX_REPORT_BYTES} bytes")),
        }
    }
}

impl Metric {
    fn numbers(self) -> BTreeMap<String, f64> {
        self.values.into_iter().filter_map(|(name, _, value)| Some((name, value.0?))).collect()
    }
}

impl PuppetLog {
    fn into_log(self) -> Log {
        let level = serde_json::to_value(self.level).ok().and_then(|level| level.as_str().map(str::to_owned));
        let (level, message, source) = (level.unwrap_or_else(|| "notice".to_owned()), self.message.0, self.source.0);
        Log { level, message, source, time_unix_nanos: unix_nanos(&self.time).unwrap_or_default() }
    }
}

impl PuppetStatus {
    /// Returns nothing for what was as it should be: our reports leave it out.
    fn into_status(self, resource: String) -> Option<ResourceStatus> {
        let is = |flag: Option<bool>| flag.unwrap_or(false);
        let status = ResourceStatus {
            file: self.file,
            line: self.line,
            out_of_sync: is(self.out_of_sync),
            changed: is(self.changed),
            failed: is(self.failed),
            failed_to_restart: is(self.failed_to_restart),
            skipped: is(self.skipped),
            corrective_change: is(self.corrective_change),
            events: self.events.into_iter().map(|event| event.into_event(&resource)).collect(),
            resource,
            ..ResourceStatus::default()
        };
        let is_worth_it = status.out_of_sync
            || status.changed
            || status.failed
            || status.failed_to_restart
            || status.skipped
            || !status.events.is_empty();
        is_worth_it.then_some(status)
    }
}

impl PuppetEvent {
    fn into_event(self, resource: &str) -> Event {
        let corrective_change = self.corrective_change.unwrap_or(false);
        let message = self.message.0;
        let message = match message.strip_suffix(CORRECTIVE) {
            Some(plain) if corrective_change => plain.to_owned(),
            _ => message,
        };
        Event {
            resource: resource.to_owned(),
            property: Cow::Owned(self.property.unwrap_or_default()),
            previous_value: Cow::Owned(self.previous_value.0),
            desired_value: Cow::Owned(self.desired_value.0),
            message: Cow::Owned(message),
            status: self.status,
            corrective_change,
            redacted: self.redacted.unwrap_or(false),
            loglevel: None,
            time_unix_nanos: unix_nanos(&self.time).unwrap_or_default(),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
