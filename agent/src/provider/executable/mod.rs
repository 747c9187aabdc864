//! Types of one's own without Rust: programs that speak JSON.
//!
//! A program manages one type. It is started once for each call, without arguments, in `/`, with an empty environment but for
//! `PATH` and `LC_ALL`; it reads one JSON object from its standard input and writes one to its standard output. It has five minutes
//! (see [`ExecutableProvider::with_time_limit`]) and 1 MiB; then it is killed with all that it started. What it writes to standard
//! error is told when it ends with another status than 0, which is a failure whatever it answered.
//!
//! # What it is asked
//!
//! ```json
//! {
//!   "version": 1,
//!   "call": "apply",
//!   "type": "Level",
//!   "title": "water",
//!   "parameters": { "value": 7 },
//!   "secret": [],
//!   "root": "/",
//!   "noop": false,
//!   "changes": [ { "property": "value", "previous": "1", "desired": "7" } ]
//! }
//! ```
//!
//! `call` is `check`, `apply` or `refresh`; `changes`, which only `apply` gets, is what `check` answered. Parameters are what the
//! catalog has, metaparameters included; bytes are in base64. `secret` names the parameters that are secrets: they must not be
//! shown, and the agent hides the values of changes of properties with these names. `root` is the managed root: whatever the program
//! touches is below it. `noop` says that nothing will be applied.
//!
//! # What it answers
//!
//! | Call | Answer |
//! |---|---|
//! | `check` | `{"changes": [{"property": "value", "previous": "1", "desired": "7"}]}`; an empty list when all is well. `check` changes nothing. A change may have a `message`, told once it is made, and `"secret": true` |
//! | `apply` | `{"failures": {"value": "why"}}` by property; `{}` when all changes were made, and are durable |
//! | `refresh` | `{"refreshed": true}`, or `false` when there was nothing to do |
//! | any | `{"error": "why"}`; with `"parameter": "value"` when that parameter makes no sense |
//!
//! Unknown keys, anything after the object and an unknown property in `failures` are errors: the resource fails, and what depends on
//! it is skipped. One `apply` converges: the next `check` finds nothing.
//!
//! `agent/examples/providers/level.py` is a whole program.

mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, Value};

use super::command::{self, CommandError, CommandSpec, Input};
use super::difference::{Differences, Shown};
use super::file::errors;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use message::{Answer, Call, Request};

/// How long one call may take, unless another limit is set.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(300);

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Bytes of what a program says of its failure.
const MAX_SAID_BYTES: usize = 4096;

/// Manages a type by a program; see the [module](self) for what it is asked and answers.
#[derive(Debug, Clone)]
pub struct ExecutableProvider {
    resource_type: String,
    program: PathBuf,
    time_limit: Duration,
}

/// Returns the type that a program of this name manages: without what follows the first dot, each part between double underscores
/// capitalised, as `level.py` for `Level` and `apt__key` for `Apt::Key`. `None` when it is no name of a type.
fn type_of(name: &str) -> Option<String> {
    let stem = name.split('.').next()?;
    let part = |part: &str| {
        let mut chars = part.chars();
        let first = chars.next().filter(char::is_ascii_lowercase)?;
        let is_valid = part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        is_valid.then(|| format!("{}{}", first.to_ascii_uppercase(), chars.as_str()))
    };
    stem.split("__").map(part).collect::<Option<Vec<_>>>().map(|parts| parts.join("::"))
}

impl ExecutableProvider {
    /// Returns the provider of a type; starts nothing.
    #[must_use]
    pub fn new(resource_type: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { resource_type: resource_type.into(), program: program.into(), time_limit: DEFAULT_TIME_LIMIT }
    }

    /// Sets how long one call may take. Default: [`DEFAULT_TIME_LIMIT`].
    #[must_use]
    pub const fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Returns the providers in a directory, by the names of its files: `level` or `level.py` manages `Level`, `apt__key`
    /// manages `Apt::Key`. Files that cannot be executed, and names that begin with a dot, are passed over. Blocking.
    ///
    /// # Errors
    ///
    /// When the directory cannot be listed, a program has a name that is none of a type, two are for the same type, or anybody
    /// may write to one.
    pub fn in_directory(dir: &Path) -> io::Result<Vec<Self>> {
        let mut found: Vec<Self> = Vec::new();
        let mut paths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let metadata = std::fs::metadata(&path)?;
            let mode = metadata.permissions().mode();
            if name.starts_with('.') || !metadata.is_file() || mode & 0o111 == 0 {
                continue;
            }
            let refuse = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display())));
            if mode & 0o002 != 0 {
                return refuse("anybody may write to it: take that permission away");
            }
            let Some(resource_type) = type_of(&name) else {
                return refuse("its name must be that of a type: lower case letters, digits and underscores");
            };
            if found.iter().any(|other| other.resource_type == resource_type) {
                return refuse(&format!("another program manages {resource_type} too"));
            }
            found.push(Self::new(resource_type, path));
        }
        Ok(found)
    }

    async fn call(
        &self,
        context: &Context,
        resource: &Resource,
        call: Call,
        changes: Option<&[Change]>,
    ) -> Result<Answer, ProviderError> {
        let attempt = format!("ask {}", self.program.display());
        let failed = |reason: String| errors::failed(&resource.reference(), attempt.clone(), reason);
        let root = context.root().path().display().to_string();
        let request = Request::new(call, resource, root, context.options().noop, changes);
        let input = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
        let spec = CommandSpec {
            argv: vec![self.program.clone().into()],
            time_limit: Some(self.time_limit),
            input: Some(Input(input)),
            whole_output_bytes: Some(MAX_ANSWER_BYTES),
            ..CommandSpec::default()
        };
        let output = command::run(spec, context.cancel()).await.map_err(|error| match error {
            CommandError::Cancelled { .. } => ProviderError::Cancelled { resource: resource.reference() },
            other => failed(errors::chain(&other)),
        })?;
        // It knows the secrets, and may repeat them.
        let is_secret = resource.parameters.values().any(Value::is_sensitive);
        let told = |text: String| if is_secret { "[redacted]".to_owned() } else { text };
        if !output.status.success() {
            let said = String::from_utf8_lossy(output.stderr()).trim().chars().take(MAX_SAID_BYTES).collect();
            return Err(failed(format!("it ended with {}: {}", output.status, told(said))));
        }
        let answer: Answer = serde_json::from_slice(output.stdout())
            .map_err(|error| failed(format!("its answer is not what it should be: {}", told(error.to_string()))))?;
        match (answer.error, answer.parameter) {
            (Some(reason), Some(parameter)) => {
                Err(ProviderError::Parameter { resource: resource.reference(), parameter, reason: told(reason) })
            }
            (Some(reason), None) => Err(failed(told(reason))),
            (None, _) => Ok(Answer { error: None, parameter: None, ..answer }),
        }
    }
}

#[async_trait]
impl Provider for ExecutableProvider {
    fn resource_type(&self) -> &str {
        &self.resource_type
    }

    fn validate(&self, _resource: &Resource) -> Result<(), ProviderError> {
        // Only the program knows its parameters, and nothing may be started yet.
        Ok(())
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let answer = self.call(context, resource, Call::Check, None).await?;
        let mut found = Differences::of(resource);
        for change in &answer.changes {
            let is_secret = resource.parameter(&change.property).is_some_and(Value::is_sensitive);
            if change.secret || is_secret {
                found.add_secret(&change.property);
            } else if change.property == "ensure" {
                found.add_ensure(&change.previous, &change.desired);
            } else {
                let shown = |text: &str| if text == "absent" { Shown::Absent } else { Shown::Text(text.to_owned()) };
                found.add(&change.property, &shown(&change.previous), &shown(&change.desired));
            }
        }
        let mut changes = found.into_changes();
        for (change, found) in changes.iter_mut().zip(&answer.changes).filter(|(change, _)| !change.redacted) {
            if let (Some(message), Some(wording)) = (&found.message, &mut change.wording) {
                message.clone_into(&mut wording.done);
            }
        }
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn checks_by_commands(&self, _resource: &Resource) -> bool {
        true
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let answer = self.call(context, resource, Call::Apply, Some(changes)).await?;
        let mut applied = Applied::default();
        for (property, reason) in answer.failures {
            let Some(at) = changes.iter().position(|change| change.property == property) else {
                let reason = format!("it says that {property} failed, which was not to be changed: {reason}");
                return Err(errors::failed(&resource.reference(), format!("ask {}", self.program.display()), reason));
            };
            let is_secret = resource.parameters.values().any(Value::is_sensitive);
            applied.failures.insert(at, if is_secret { "[redacted]".to_owned() } else { reason });
        }
        Ok(applied)
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        Ok(self.call(context, resource, Call::Refresh, None).await?.refreshed)
    }
}
