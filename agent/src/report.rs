//! Building the report of a run, and keeping those that could not be sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use direct_puppet_transport::protocol::limits::MAX_REPORT_BYTES;
use direct_puppet_transport::protocol::report::{CachedCatalogStatus, EventStatus, Log, LogLevel, REPORT_FORMAT, ResourceStatus};
use direct_puppet_transport::protocol::{CatalogId, Certname, CodeId, Environment, Report, RunStatus, VersionCounter, codec};

use crate::error::RunError;
use crate::fs::{FsError, ensure_private_dir, write_state, write_whole_with};
use crate::outcome::{ResourceCounters, WireCounters};
use crate::puppet_report::{PuppetReport, level_name};
use crate::tree::ScanCounters;

/// Name of the last report, as JSON.
pub(crate) const LAST_REPORT: &str = "last_run_report.json";

/// Name of the last report, as YAML: Puppet's name.
const LAST_REPORT_YAML: &str = "last_run_report.yaml";

/// Times that Puppet's reports have, of things that are not done here apart from others, or not at all.
const NOT_APART: [&str; 3] = ["convert_catalog", "fact_generation", "plugin_sync"];

/// Who says what no resource says.
const OWN_SOURCE: &str = "Direct Puppet";

/// How many reports wait for the server at most; older ones go first.
const MAX_PENDING: usize = 16;

/// What the compiler of a catalog called it.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenIds {
    pub(crate) version: Option<String>,
    pub(crate) code_id: Option<String>,
    pub(crate) catalog_uuid: Option<String>,
}

/// Everything that a report says.
#[derive(Debug)]
pub(crate) struct ReportParts {
    pub(crate) certname: Certname,
    pub(crate) environment: Environment,
    pub(crate) transaction_uuid: String,
    pub(crate) time_unix_nanos: i64,
    pub(crate) catalog_id: Option<CatalogId>,
    pub(crate) code_id: Option<CodeId>,
    pub(crate) version: Option<VersionCounter>,
    /// What a catalog that was given says of itself.
    pub(crate) given: GivenIds,
    pub(crate) cached: CachedCatalogStatus,
    pub(crate) status: RunStatus,
    pub(crate) completed: bool,
    pub(crate) noop: bool,
    pub(crate) resources: ResourceCounters,
    pub(crate) scan: ScanCounters,
    pub(crate) wire: WireCounters,
    pub(crate) times: Vec<(&'static str, Duration)>,
    /// Parts of those times: of each type of resources, of gathering facts.
    pub(crate) parts_of_times: BTreeMap<String, Duration>,
    /// What was said beside events.
    pub(crate) logs: Vec<Log>,
    pub(crate) statuses: Vec<ResourceStatus>,
}

impl ReportParts {
    /// Returns the parts of a run that did nothing yet.
    pub(crate) fn new(certname: Certname, environment: Environment, transaction_uuid: String, time_unix_nanos: i64) -> Self {
        Self {
            certname,
            environment,
            transaction_uuid,
            time_unix_nanos,
            catalog_id: None,
            code_id: None,
            version: None,
            given: GivenIds::default(),
            cached: CachedCatalogStatus::NotUsed,
            status: RunStatus::Failed,
            completed: false,
            noop: false,
            resources: ResourceCounters::default(),
            scan: ScanCounters::default(),
            wire: WireCounters::default(),
            times: Vec::new(),
            parts_of_times: BTreeMap::new(),
            logs: Vec::new(),
            statuses: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::new("n1".parse().unwrap(), Environment::default(), "0".repeat(32), 1_700_000_000_000_000_000)
    }
}

/// Makes a line of what the run itself says.
pub(crate) fn own_log(level: LogLevel, message: String, time_unix_nanos: i64) -> Log {
    Log { level: level_name(level), message, source: OWN_SOURCE.to_owned(), time_unix_nanos }
}

/// Builds the report.
pub(crate) fn build(parts: ReportParts) -> Report {
    Report {
        host: parts.certname.clone(),
        environment: parts.environment.clone(),
        transaction_uuid: parts.transaction_uuid.clone(),
        report_format: REPORT_FORMAT,
        time_unix_nanos: parts.time_unix_nanos,
        catalog_id: parts.catalog_id,
        code_id: parts.code_id,
        version: parts.version,
        cached_catalog_status: parts.cached,
        configuration_version: parts.given.version.clone(),
        given_code_id: parts.given.code_id.clone(),
        catalog_uuid: parts.given.catalog_uuid.clone(),
        status: parts.status,
        transaction_completed: parts.completed,
        noop: parts.noop,
        noop_pending: parts.statuses.iter().flat_map(|status| &status.events).any(|event| event.status == EventStatus::Noop),
        corrective_change: parts.resources.corrective_change > 0,
        metrics: metrics(&parts),
        logs: parts.logs,
        resource_statuses: parts.statuses,
    }
}

type Metrics = BTreeMap<String, f64>;

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn metrics(parts: &ReportParts) -> BTreeMap<String, Metrics> {
    let numbers =
        |numbers: &[(&str, u64)]| numbers.iter().map(|(name, value)| ((*name).to_owned(), *value as f64)).collect::<Metrics>();
    let events = parts.statuses.iter().flat_map(|status| &status.events);
    let mut by_status = [0_u64; 4];
    for event in events {
        match event.status {
            EventStatus::Success => by_status[0] += 1,
            EventStatus::Failure => by_status[1] += 1,
            EventStatus::Noop => by_status[2] += 1,
            EventStatus::Audit => by_status[3] += 1,
            _ => {}
        }
    }
    let [success, failure, noop, audit] = by_status;
    let resources = &parts.resources;
    let mut times: Metrics = parts.times.iter().map(|(name, time)| ((*name).to_owned(), time.as_secs_f64())).collect();
    times.insert("total".to_owned(), parts.times.iter().map(|(_, time)| time.as_secs_f64()).sum());
    let applied = times.get("catalog_application").copied().unwrap_or_default();
    times.insert("transaction_evaluation".to_owned(), applied);
    times.extend(NOT_APART.map(|name| (name.to_owned(), 0.0)));
    times.extend(parts.parts_of_times.iter().map(|(name, time)| (name.to_lowercase(), time.as_secs_f64())));
    [
        (
            "resources",
            numbers(&[
                ("changed", resources.changed),
                ("corrective_change", resources.corrective_change),
                ("failed", resources.failed),
                ("failed_to_restart", resources.failed_to_restart),
                ("out_of_sync", resources.out_of_sync),
                ("restarted", resources.restarted),
                ("scheduled", 0),
                ("skipped", resources.skipped),
                ("total", resources.total),
            ]),
        ),
        ("time", times),
        ("changes", numbers(&[("total", success)])),
        (
            "events",
            numbers(&[
                ("audit", audit),
                ("failure", failure),
                ("noop", noop),
                ("success", success),
                ("total", success + failure + noop + audit),
            ]),
        ),
        (
            "scan",
            numbers(&[
                ("listed", parts.scan.listed),
                ("stat_proved", parts.scan.stat_proved),
                ("watch_proved", parts.scan.watch_proved),
                ("opened", parts.scan.opened),
                ("bytes_hashed", parts.scan.bytes_hashed),
                ("missing", parts.scan.missing),
            ]),
        ),
        (
            "wire",
            numbers(&[
                ("requests", parts.wire.requests),
                ("bytes_sent", parts.wire.bytes_sent),
                ("bytes_received", parts.wire.bytes_received),
                ("contents_requested", parts.wire.contents_requested),
                ("contents_received", parts.wire.contents_received),
                ("contents_repeated", parts.wire.contents_repeated),
                ("contents_pieced", parts.wire.contents_pieced),
            ]),
        ),
    ]
    .into_iter()
    .map(|(name, values)| (name.to_owned(), values))
    .collect()
}

/// Writes the report where people and tools look for the last one. Their names last once the summary is written beside them, which follows.
/// Blocking.
pub(crate) fn write_last(state_dir: &Path, report: &Report) -> Result<(), FsError> {
    let path = state_dir.join(LAST_REPORT);
    write_whole_with(&path, 0o640, |file| serde_json::to_writer_pretty(file, &PuppetReport(report)).map_err(Into::into))?;
    write_whole_with(&state_dir.join(LAST_REPORT_YAML), 0o640, |mut file| PuppetReport(report).write_yaml(&mut file))
}

/// Keeps a report that could not be sent, for the next run. Blocking.
pub(crate) fn keep_pending(state_dir: &Path, report: &Report) -> Result<(), RunError> {
    let dir = state_dir.join("pending_reports");
    ensure_private_dir(&dir)?;
    let name = format!("{:020}-{}.msgpack", report.time_unix_nanos, report.transaction_uuid);
    write_state(&dir.join(name), &codec::encode(report)?, 0o600)?;
    let paths = pending_paths(state_dir);
    for path in &paths[..paths.len().saturating_sub(MAX_PENDING)] {
        forget_pending(path);
    }
    Ok(())
}

/// Returns the reports that wait, oldest first; unreadable ones are dropped. Blocking.
pub(crate) fn pending(state_dir: &Path) -> Vec<(PathBuf, Report)> {
    pending_paths(state_dir)
        .into_iter()
        .filter_map(|path| {
            let report = std::fs::read(&path).ok().and_then(|bytes| codec::decode(&bytes, MAX_REPORT_BYTES).ok());
            if report.is_none() {
                forget_pending(&path);
            }
            Some((path, report?))
        })
        .collect()
}

/// Removes a report that was sent. Blocking.
pub(crate) fn forget_pending(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a report that was sent could not be removed and will be sent again");
    }
}

fn pending_paths(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(state_dir.join("pending_reports")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "msgpack"));
    paths.sort();
    paths
}
