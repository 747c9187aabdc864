//! Reports in the shapes that PuppetDB and Foreman take.

use direct_puppet_transport::protocol::report::{EventStatus, LogLevel, ResourceStatus};
use direct_puppet_transport::protocol::{Report, RunStatus};
use serde_json::{Value as Json, json};

use crate::puppet_report::{Line, PuppetReport, event_name, iso8601, kept_lines, lines, metrics};

/// Returns a report as the command `store report` of PuppetDB takes it, version 8. `sent` is when, in nanoseconds since 1970 UTC.
pub(super) fn puppetdb(report: &Report, sent: i64) -> Json {
    let view = PuppetReport(report);
    let seconds = report.metrics.get("time").and_then(|times| times.get("total")).copied().unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "a run takes far less than 2^63 nanoseconds")]
    let end = report.time_unix_nanos.saturating_add((seconds * 1e9) as i64);
    let metrics: Vec<Json> = metrics(report)
        .iter()
        .flat_map(|(category, values)| {
            values.iter().map(move |(name, value)| json!({"category": category, "name": name, "value": value}))
        })
        .collect();
    json!({
        "certname": report.host,
        "puppet_version": env!("CARGO_PKG_VERSION"),
        "report_format": report.report_format,
        "configuration_version": view.configuration_version(),
        "producer_timestamp": iso8601(sent),
        "start_time": iso8601(report.time_unix_nanos),
        "end_time": iso8601(end),
        "environment": report.environment,
        "transaction_uuid": view.transaction_uuid(),
        "status": report.status,
        "noop": report.noop,
        "noop_pending": report.noop_pending,
        "corrective_change": report.corrective_change,
        "logs": kept_lines(report).map(|line| log(&line)).collect::<Vec<_>>(),
        "metrics": metrics,
        "resources": report.resource_statuses.iter().map(resource).collect::<Vec<_>>(),
        "catalog_uuid": view.catalog_uuid().unwrap_or_else(|| view.transaction_uuid()),
        "code_id": view.code_id(),
        "job_id": null,
        "cached_catalog_status": report.cached_catalog_status,
        "producer": report.host,
        "type": "agent",
    })
}

fn log(line: &Line<'_>) -> Json {
    json!({
        "level": line.level, "message": line.message, "source": line.source, "tags": line.tags(), "time": iso8601(line.time_unix_nanos),
        "file": line.status.and_then(|status| status.file.as_deref()), "line": line.status.and_then(|status| status.line),
    })
}

fn resource(status: &ResourceStatus) -> Json {
    let (resource_type, rest) = status.resource.split_once('[').unwrap_or((&status.resource, ""));
    let names = status.place.iter().flat_map(|place| place.names());
    let containment: Vec<&str> = names.chain([status.resource.as_str()]).collect();
    let events: Vec<Json> = status
        .events
        .iter()
        .map(|event| {
            let named = |text: &str| if event.property.is_empty() { Json::Null } else { Json::from(text) };
            json!({
                "status": event.status, "timestamp": iso8601(event.time_unix_nanos), "property": named(&event.property),
                "new_value": named(&event.desired_value), "old_value": named(&event.previous_value),
                "corrective_change": event.corrective_change, "message": event.message, "name": event_name(resource_type, event),
            })
        })
        .collect();
    json!({
        "skipped": status.skipped, "timestamp": iso8601(status.began_unix_nanos), "resource_type": resource_type,
        "resource_title": rest.strip_suffix(']').unwrap_or(rest), "containment_path": containment,
        "corrective_change": status.corrective_change, "file": status.file, "line": status.line, "events": events,
    })
}

/// Returns a report as `POST /api/config_reports` of Foreman takes it, counted as its report processor for Puppet counts.
pub(super) fn foreman(report: &Report) -> Json {
    let metric = |category: &str, name: &str| {
        #[expect(clippy::cast_possible_truncation, reason = "counts far below 2^53")]
        let count = report.metrics.get(category).and_then(|values| values.get(name)).map_or(0, |value| *value as i64);
        count
    };
    let own_errors = lines(report).filter(|line| line.is_own() && line.level <= LogLevel::Err).count();
    let is_failed = i64::from(report.status == RunStatus::Failed);
    let own_errors = i64::try_from(own_errors).unwrap_or(i64::MAX);
    let pending =
        report.resource_statuses.iter().flat_map(|status| &status.events).filter(|event| event.status == EventStatus::Noop);
    let metrics: serde_json::Map<String, Json> = metrics(report)
        .into_iter()
        .map(|(category, values)| {
            (category.to_owned(), values.into_iter().map(|(name, value)| (name.to_owned(), Json::from(value))).collect())
        })
        .collect();
    let logs: Vec<Json> = lines(report)
        .filter(|line| line.level < LogLevel::Debug && !line.is_own() || line.level <= LogLevel::Warning)
        .map(|line| json!({"log": {"level": line.level, "sources": {"source": line.source}, "messages": {"message": line.message}}}))
        .collect();
    let reported_at = iso8601(report.time_unix_nanos);
    let reported_at = format!("{} {} UTC", &reported_at[..10], &reported_at[11..19]);
    json!({"config_report": {
        "host": report.host,
        "reported_at": reported_at,
        "status": {
            "applied": metric("changes", "total"),
            "restarted": metric("resources", "restarted"),
            "failed": metric("resources", "failed").saturating_add(is_failed).saturating_add(own_errors),
            "failed_restarts": metric("resources", "failed_to_restart"),
            "skipped": metric("resources", "skipped"),
            "pending": pending.count(),
        },
        "metrics": metrics,
        "logs": logs,
    }})
}
