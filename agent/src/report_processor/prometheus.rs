//! Metrics of the last run for the textfile collector of Prometheus' `node_exporter`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Report;
use direct_puppet_transport::protocol::RunStatus;
use direct_puppet_transport::protocol::report::CachedCatalogStatus;

use super::{ProcessorError, ReportId, ReportProcessor, error_of};
use crate::fs::write_state;
use crate::puppet_report::{label, metrics};

/// Writes the metrics of each run to one file, atomically. Names and labels are those of `puppet-prometheus_reporter`:
///
/// | Metric | Value |
/// |---|---|
/// | `puppet_report` | when the run ended, in seconds since 1970 UTC |
/// | `puppet_transaction_completed` | 1 if the run came to its end, else 0 |
/// | `puppet_status{state}` | 1 for the state of the run, 0 for others: `changed`, `failed`, `unchanged` |
/// | `puppet_cache_catalog_status{state}` | the same for `not_used`, `explicitly_requested`, `on_failure` |
/// | `puppet_report_resources{name}`, `_time`, `_changes`, `_events` | the metrics of the report, by label as `Out of sync` |
/// | `puppet_report_scan{name}`, `puppet_report_wire{name}` | what the run looked at, and what went over the transport |
///
/// All have the labels `environment` and `host`.
#[derive(Debug)]
pub struct PrometheusTextfile {
    path: PathBuf,
}

impl PrometheusTextfile {
    /// Returns a processor that writes to `path`, as `/var/lib/node_exporter/puppet.prom`.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

/// Escapes the value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(report: &Report) -> String {
    let common = format!("environment=\"{}\",host=\"{}\"", escaped(report.environment.as_str()), escaped(report.host.as_str()));
    let mut out = String::new();
    let mut said = BTreeSet::new();
    let mut gauge = |name: &str, help: &str, labels: &str, value: f64| {
        if said.insert(name.to_owned()) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        }
        let _ = writeln!(out, "{name}{{{labels}{common}}} {value}");
    };
    let seconds = report.metrics.get("time").and_then(|times| times.get("total")).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "microseconds are enough")]
    let ended = (report.time_unix_nanos / 1000) as f64 / 1e6 + seconds;
    gauge("puppet_report", "Unix timestamp of the last run", "", ended);
    gauge(
        "puppet_transaction_completed",
        "Whether the last run came to its end",
        "",
        f64::from(u8::from(report.transaction_completed)),
    );
    let states = [("changed", RunStatus::Changed), ("failed", RunStatus::Failed), ("unchanged", RunStatus::Unchanged)];
    for (name, state) in states {
        gauge(
            "puppet_status",
            "State of the last run",
            &format!("state=\"{name}\","),
            f64::from(u8::from(report.status == state)),
        );
    }
    let states = [
        ("not_used", CachedCatalogStatus::NotUsed),
        ("explicitly_requested", CachedCatalogStatus::ExplicitlyRequested),
        ("on_failure", CachedCatalogStatus::OnFailure),
    ];
    for (name, state) in states {
        let value = f64::from(u8::from(report.cached_catalog_status == state));
        gauge("puppet_cache_catalog_status", "Whether the cached catalog was used", &format!("state=\"{name}\","), value);
    }
    for (category, values) in metrics(report) {
        for (name, value) in values {
            let labels = format!("name=\"{}\",", escaped(&label(name)));
            gauge(&format!("puppet_report_{category}"), &format!("{} of the last run", label(category)), &labels, value);
        }
    }
    out
}

#[async_trait]
impl ReportProcessor for PrometheusTextfile {
    fn name(&self) -> &str {
        "prometheus"
    }

    fn body(&self, report: &Report) -> Result<Vec<u8>, ProcessorError> {
        Ok(text(report).into_bytes())
    }

    async fn send(&self, _: &ReportId, body: Bytes) -> Result<(), ProcessorError> {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            write_state(&path, &body, 0o644).map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        });
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|error| error_of(self.name(), format!("write the metrics to {}", self.path.display()), true, error))
    }

    fn keeps(&self) -> bool {
        false
    }
}
