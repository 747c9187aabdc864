//! `status`.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_transport::protocol::RunStatus;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::options::Common;
use crate::output;

/// What is shown of the last report.
#[derive(Debug, Deserialize)]
struct LastReport {
    status: RunStatus,
    time_unix_nanos: i64,
    environment: String,
    catalog_id: Option<String>,
    code_id: Option<String>,
    version: Option<String>,
    transaction_uuid: String,
    noop: bool,
    metrics: BTreeMap<String, Metrics>,
    cached_catalog_status: String,
    logs: Vec<Log>,
}

#[derive(Debug, Deserialize)]
struct Metrics {
    /// Name, label, value.
    values: Vec<(String, String, Json)>,
}

impl Metrics {
    fn named(&self) -> BTreeMap<&str, &Json> {
        self.values.iter().map(|(name, _, value)| (name.as_str(), value)).collect()
    }
}

#[derive(Debug, Deserialize)]
struct Log {
    level: String,
    message: String,
    source: String,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Tell where this managed file comes from: which resource, source, catalog and code; absolute, as in the catalog
    #[arg(long, value_name = "PATH")]
    explain: Option<String>,
}

pub(crate) fn status(common: &Common, arguments: &Arguments) -> anyhow::Result<u8> {
    if let Some(path) = &arguments.explain {
        return explain(common, path);
    }
    let state_dir = common.state_dir()?;
    let disabled = direct_puppet_agent::disabled(&state_dir)?;
    let report = last_report(&state_dir)?;
    if common.json {
        let last = report.as_ref().map(|report| {
            let metrics: BTreeMap<_, _> = report.metrics.iter().map(|(name, metrics)| (name, metrics.named())).collect();
            json!({
                "status": report.status, "time_unix_nanos": report.time_unix_nanos, "environment": report.environment,
                "catalog_id": report.catalog_id, "code_id": report.code_id, "version": report.version,
                "transaction_uuid": report.transaction_uuid, "noop": report.noop, "metrics": metrics,
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

fn explain(common: &Common, path: &str) -> anyhow::Result<u8> {
    if !path.starts_with('/') {
        bail!("{path} is no absolute path");
    }
    let environment = common.environment.clone().unwrap_or_default();
    let found = direct_puppet_agent::explain(&common.state_dir()?, &common.certname()?, &environment, path)?;
    let Some((held, origin)) = found else {
        bail!(
            "there is no catalog of environment {environment} for node {} in {}: name another node with --node, or environment with \
             --environment",
            common.certname()?,
            common.state_dir()?.display()
        )
    };
    if common.json {
        output::json(&json!({
            "path": path, "managed": origin.is_some(), "origin": origin, "environment": environment,
            "catalog_id": held.catalog_id, "code_id": held.code_id, "version": held.version,
        }))?;
        return Ok(u8::from(origin.is_none()));
    }
    let line = |name: &str, value: &str| output::line(&output::printable(&format!("{name:<12} {value}")));
    match &origin {
        Some(origin) => {
            let place = match (&origin.file, origin.line) {
                (Some(file), Some(line)) => format!(", declared in {file}:{line}"),
                (Some(file), None) => format!(", declared in {file}"),
                _ => String::new(),
            };
            line("resource:", &format!("{}{place}", origin.resource));
            line("source:", origin.source.as_deref().unwrap_or("none: compiled content"));
            line("content:", &origin.digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string()));
        }
        None => line("resource:", "none: the catalog does not manage it"),
    }
    line("environment:", environment.as_str());
    line("catalog_id:", &held.catalog_id.to_string());
    line("code_id:", &held.code_id.to_string());
    let other = if environment == direct_puppet_transport::protocol::Environment::default() {
        String::new()
    } else {
        format!("--environment {environment} ")
    };
    line(
        "version:",
        &format!("{} (who published it, and when: direct-puppet-server explain {other}{})", held.version, held.version),
    );
    Ok(u8::from(origin.is_none()))
}

fn last_report(state_dir: &std::path::Path) -> anyhow::Result<Option<LastReport>> {
    let path = state_dir.join("last_run_report.json");
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

fn print(disabled: Option<&str>, report: Option<&LastReport>) {
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
    output::line(&format!("catalog_id:  {}", text(report.catalog_id.clone())));
    output::line(&format!("code_id:     {}", text(report.code_id.clone())));
    for (name, value) in report.metrics.get("resources").map(Metrics::named).into_iter().flatten() {
        output::line(&format!("  {name}: {value}"));
    }
    for log in report.logs.iter().filter(|log| matches!(log.level.as_str(), "emerg" | "alert" | "crit" | "err" | "warning")) {
        let source = if log.source == "Puppet" { String::new() } else { format!("{}: ", log.source) };
        output::line(&output::printable(&format!("{}: {source}{}", log.level, log.message)));
    }
}
