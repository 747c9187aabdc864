//! What is asked of a child and what it answers; `worker.rb` is the other side.

use std::collections::BTreeMap;

use direct_puppet_transport::Extensions;
use direct_puppet_transport::protocol::{Certname, Value};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::checkout::Checkout;
use super::classify::Classification;
use super::error::WorkerError;
use crate::compile::{CompileError, CompileRequest};

/// One question.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    certname: Option<&'a Certname>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<&'a Extensions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classification: Option<&'a Classification<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    check: bool,
}

impl<'a> Question<'a> {
    /// Whether the manifests of the environment itself can be parsed.
    pub(super) const fn check() -> Self {
        Self { certname: None, facts: None, extensions: None, code_id: None, classification: None, check: true }
    }

    /// The catalog of a node.
    pub(super) fn compile(request: &'a CompileRequest, classification: Option<&'a Classification<'a>>) -> Self {
        let code_id = Some(request.code.version.code_id.to_string());
        Self {
            certname: Some(&request.certname),
            facts: Some(&request.facts),
            extensions: Some(&request.extensions),
            code_id,
            classification,
            check: false,
        }
    }

    /// Returns whose catalog is asked for.
    pub(super) const fn certname(&self) -> Option<&Certname> {
        self.certname
    }
}

/// One answer.
#[derive(Debug)]
pub(super) enum Answer {
    Checked,
    Compiled(CompiledAnswer),
    Failed(FailedAnswer),
}

/// A catalog, as Puppet writes it.
#[derive(Debug)]
pub(super) struct CompiledAnswer {
    pub(super) catalog: Map<String, Json>,
    /// By name, the directories of modules.
    pub(super) modules: BTreeMap<String, String>,
    pub(super) logs: Vec<LogEntry>,
}

/// An error, as Puppet words it.
#[derive(Debug)]
pub(super) struct FailedAnswer {
    error: Failure,
    pub(super) logs: Vec<LogEntry>,
}

/// Something that code logged.
#[derive(Debug, Deserialize)]
pub(super) struct LogEntry {
    level: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Failure {
    message: String,
    file: Option<String>,
    line: Option<u64>,
    column: Option<u64>,
    /// Whether it is not the code's fault.
    #[serde(default)]
    of_server: bool,
}

#[derive(Debug, Deserialize)]
struct Whole {
    #[serde(default)]
    checked: bool,
    catalog: Option<Map<String, Json>>,
    #[serde(default)]
    modules: BTreeMap<String, String>,
    error: Option<Failure>,
    #[serde(default)]
    logs: Vec<LogEntry>,
}

impl Answer {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WorkerError> {
        let whole: Whole = serde_json::from_slice(bytes).map_err(|error| WorkerError::Answer(error.to_string()))?;
        match (whole.error, whole.catalog) {
            (Some(error), _) => Ok(Self::Failed(FailedAnswer { error, logs: whole.logs })),
            (None, Some(catalog)) => Ok(Self::Compiled(CompiledAnswer { catalog, modules: whole.modules, logs: whole.logs })),
            (None, None) if whole.checked => Ok(Self::Checked),
            (None, None) => Err(WorkerError::Answer("there is nothing in it".to_owned())),
        }
    }
}

impl FailedAnswer {
    /// Returns the error with its place in fields of their own, and paths as they were published.
    pub(super) fn error(&self, checkout: &Checkout, certname: Option<&Certname>) -> CompileError {
        let Failure { message, file, line, column, of_server } = &self.error;
        let mut message = message.as_str();
        if let Some(certname) = certname {
            message = message.strip_suffix(&format!(" on node {certname}")).unwrap_or(message);
        }
        if let Some(file) = file {
            message = without_place(message, file, *line, *column);
        }
        let file = match file {
            Some(file) => checkout.published(file),
            None => format!("environment {}", checkout.environment()),
        };
        let error = CompileError::at(&file, checkout.published(message));
        let error = error.with_line(line.unwrap_or(0)).with_column(column.unwrap_or(0));
        if *of_server { error.of_server() } else { error }
    }
}

/// Removes the place from the end of a message: it is said in front of it.
fn without_place<'a>(message: &'a str, file: &str, line: Option<u64>, column: Option<u64>) -> &'a str {
    let mut forms = vec![format!(" (file: {file})")];
    if let Some(line) = line {
        forms.push(format!(" (file: {file}, line: {line})"));
        if let Some(column) = column {
            forms.push(format!(" (file: {file}, line: {line}, column: {column})"));
        }
    }
    forms.iter().find_map(|form| message.strip_suffix(form.as_str())).unwrap_or(message)
}

impl LogEntry {
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self.level.as_str(), "err" | "alert" | "emerg" | "crit")
    }

    /// Passes it on to the server's log.
    pub(super) fn log(&self, checkout: &Checkout, certname: &Certname) {
        let message = checkout.published(&self.message);
        match self.level.as_str() {
            "notice" => tracing::info!(%certname, "code says: {message}"),
            "warning" => tracing::warn!(%certname, "code says: {message}"),
            _ => tracing::error!(%certname, "code says: {message}"),
        }
    }
}
