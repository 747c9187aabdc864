//! `last_run_summary.yaml`: the keys of Puppet's file, so that existing checks can read it.
//!
//! The shape is fixed and holds numbers and known-harmless words, so it is written by hand.

use std::fmt::Write as _;
use std::path::Path;

use direct_puppet_transport::protocol::Report;

use crate::fs::{FsError, write_state};
use crate::puppet_report::{Number, PuppetReport, metrics};

/// Name of the file, as in Puppet.
pub(crate) const SUMMARY: &str = "last_run_summary.yaml";

/// Categories of metrics that Puppet's file has.
const CATEGORIES: [&str; 4] = ["resources", "time", "changes", "events"];

/// What kind of run it is, as Puppet's summary calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RunMode {
    /// `agent`: one of those that keep a node as its server wants it.
    #[default]
    Agent,
    /// `user`: one that somebody makes of what is at hand, as `puppet apply`.
    User,
}

impl RunMode {
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::User => "user",
        }
    }
}

/// Writes the summary of a report.
pub(crate) fn write(state_dir: &Path, report: &Report, run_mode: RunMode) -> Result<(), FsError> {
    write_state(&state_dir.join(SUMMARY), text(report, run_mode).as_bytes(), 0o644)
}

fn text(report: &Report, run_mode: RunMode) -> String {
    let version = PuppetReport(report).configuration_version();
    // A number stays one.
    let config = version.parse::<u64>().map_or_else(|_| quoted(&version), |number| number.to_string());
    let environment = &report.environment;
    let mut out = format!(
        "---\nversion:\n  config: {config}\n  puppet: \"{version}\"\napplication:\n  run_mode: {run_mode}\n  \
         initial_environment: \"{environment}\"\n  converged_environment: \"{environment}\"\n",
        run_mode = run_mode.name(),
        version = env!("CARGO_PKG_VERSION"),
    );
    for (category, values) in metrics(report).into_iter().filter(|(category, _)| CATEGORIES.contains(category)) {
        let _ = writeln!(out, "{category}:");
        for (name, value) in values {
            let number = Number(category, value);
            let _ = match number.count() {
                Some(count) => writeln!(out, "  {name}: {count}"),
                None => writeln!(out, "  {name}: {value:?}"),
            };
        }
        if category == "time" {
            // When it was over, as in Puppet.
            let seconds = report.metrics.get("time").and_then(|times| times.get("total")).copied().unwrap_or_default();
            #[expect(clippy::cast_possible_truncation, reason = "seconds of a run")]
            let over = report.time_unix_nanos / 1_000_000_000 + seconds as i64;
            let _ = writeln!(out, "  last_run: {over}");
        }
    }
    out
}

/// Puts text, which a server may have written, between quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ReportParts, build};

    #[test]
    fn has_the_keys_that_checks_read() {
        let report = build(ReportParts::for_tests());
        assert!(text(&report, RunMode::User).contains("  run_mode: user\n"));
        let text = text(&report, RunMode::Agent);
        for key in [
            "version:",
            "  config: \"\"",
            "application:",
            "  run_mode: agent\n",
            "resources:",
            "  failed: 0\n",
            "  out_of_sync: 0\n",
            "time:",
            "  plugin_sync: 0.0\n",
            "  last_run: 1700000000\n",
            "changes:\n  total: 0\n",
            "events:\n  failure: 0\n  success: 0\n  total: 0\n",
            "  converged_environment: \"production\"",
        ] {
            assert!(text.contains(key), "{key} in {text}");
        }
        assert!(!text.contains("scan:"), "{text}");
    }
}
