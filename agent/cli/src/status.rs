//! `status`.

use anyhow::Context as _;
use direct_puppet_transport::protocol::{Report, RunStatus};
use serde_json::json;

use crate::options::Common;
use crate::output;

pub(crate) fn status(common: &Common) -> anyhow::Result<u8> {
    let state_dir = common.state_dir()?;
    let disabled = direct_puppet_agent::disabled(&state_dir)?;
    let report = last_report(&state_dir)?;
    if common.json {
        let last = report.as_ref().map(|report| {
            json!({
                "status": report.status, "time_unix_nanos": report.time_unix_nanos, "environment": report.environment,
                "catalog_id": report.catalog_id, "code_id": report.code_id, "version": report.version,
                "transaction_uuid": report.transaction_uuid, "noop": report.noop, "metrics": report.metrics,
                "cached_catalog_status": report.cached_catalog_status,
            })
        });
        output::json(
            &json!({ "certname": common.certname()?, "state_dir": state_dir, "disabled_message": disabled, "last_run": last }),
        )?;
    } else {
        print(disabled.as_deref(), report.as_ref());
    }
    Ok(if report.is_some_and(|report| report.status == RunStatus::Failed) { 4 } else { 0 })
}

fn last_report(state_dir: &std::path::Path) -> anyhow::Result<Option<Report>> {
    let path = state_dir.join("last_run_report.json");
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

fn print(disabled: Option<&str>, report: Option<&Report>) {
    if let Some(message) = disabled {
        output::line(&format!("disabled: {message}"));
    }
    let Some(report) = report else {
        output::line("no run yet");
        return;
    };
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|now| now.as_secs().saturating_sub(u64::try_from(report.time_unix_nanos).unwrap_or_default() / 1_000_000_000))
        .unwrap_or_default();
    let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let status = match report.status {
        RunStatus::Unchanged => "unchanged",
        RunStatus::Changed => "changed",
        _ => "failed",
    };
    output::line(&format!("last run:    {status}, {age} s ago{}", if report.noop { " (noop)" } else { "" }));
    output::line(&format!("environment: {}", report.environment));
    output::line(&format!("catalog_id:  {}", text(report.catalog_id.map(|id| id.to_string()))));
    output::line(&format!("code_id:     {}", text(report.code_id.map(|id| id.to_string()))));
    for (name, value) in report.metrics.get("resources").into_iter().flatten() {
        output::line(&format!("  {name}: {value}"));
    }
    for log in &report.logs {
        output::line(&output::printable(&format!("{}: {}", log.level, log.message)));
    }
}
