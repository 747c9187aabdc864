//! `last_run_summary.yaml`: the keys of Puppet's file, so that existing checks can read it.
//!
//! The shape is fixed and holds numbers and known-harmless words, so it is written by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use direct_puppet_transport::protocol::Report;

use crate::fs::{FsError, write_state};

/// Name of the file, as in Puppet.
pub(crate) const SUMMARY: &str = "last_run_summary.yaml";

/// Writes the summary of a report.
pub(crate) fn write(state_dir: &Path, report: &Report) -> Result<(), FsError> {
    write_state(&state_dir.join(SUMMARY), text(report).as_bytes(), 0o644)
}

fn text(report: &Report) -> String {
    let config = report.code_id.map(|id| id.to_string()).unwrap_or_default();
    let environment = &report.environment;
    let mut out = format!(
        "---\nversion:\n  config: \"{config}\"\n  puppet: \"{version}\"\napplication:\n  run_mode: agent\n  \
         initial_environment: \"{environment}\"\n  converged_environment: \"{environment}\"\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    for section in ["resources", "time", "changes", "events"] {
        let _ = writeln!(out, "{section}:");
        let empty = BTreeMap::new();
        for (name, value) in report.metrics.get(section).unwrap_or(&empty) {
            let _ = writeln!(out, "  {name}: {value}");
        }
        if section == "time" {
            let _ = writeln!(out, "  last_run: {}", report.time_unix_nanos / 1_000_000_000);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ReportParts, build};

    #[test]
    fn has_the_keys_that_checks_read() {
        let text = text(&build(ReportParts::for_tests()));
        for key in [
            "version:",
            "  config:",
            "application:",
            "resources:",
            "  failed: 0",
            "  out_of_sync: 0",
            "time:",
            "  last_run: ",
            "changes:\n  total: 0",
            "events:\n  failure: 0",
            "  converged_environment: \"production\"",
        ] {
            assert!(text.contains(key), "{key} in {text}");
        }
    }
}
