//! The `Exec` type: commands, with the conditions under which they run.
//!
//! A command is an argument list, or text that is split into one without a shell; `provider => shell` hands text to
//! `/bin/sh`. Commands run on this machine also when the managed root is not `/`: they start in that root, and `cwd` and
//! `creates` are looked up below it. `user`, `group` and `umask` are refused, not ignored.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath, Value};

use super::command::{self, CommandOutput, CommandSpec};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::tree::{Seen, Witness};

/// Puppet's default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest `timeout`: a year; more is surely a mistake and would overflow clocks.
const MAX_TIMEOUT_SECONDS: i64 = 365 * 24 * 3600;

/// Whether output is part of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogOutput {
    Never,
    OnFailure,
}

/// The parsed parameters.
#[derive(Debug)]
struct Parameters {
    reference: ResourceRef,
    command: Vec<OsString>,
    refresh: Option<Vec<OsString>>,
    only_if: Vec<Vec<OsString>>,
    unless: Vec<Vec<OsString>>,
    creates: Vec<TreePath>,
    cwd: Option<TreePath>,
    environment: Vec<(String, String)>,
    returns: Vec<i32>,
    timeout: Option<Duration>,
    refresh_only: bool,
    log_output: LogOutput,
    sensitive: bool,
}

/// Runs commands.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecProvider;

impl ExecProvider {
    /// Returns the provider.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

fn fail(resource: &Resource, parameter: &str, reason: impl Into<String>) -> ProviderError {
    ProviderError::Parameter { resource: resource.reference(), parameter: parameter.to_owned(), reason: reason.into() }
}

fn open_secret(value: &Value) -> &Value {
    match value {
        Value::Sensitive(inner) => open_secret(inner),
        other => other,
    }
}

fn texts<'a>(resource: &'a Resource, name: &str) -> Result<Vec<&'a str>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(Vec::new()) };
    let text = |value: &'a Value| value.as_str().filter(|text| !text.contains('\0'));
    let list = open_secret(value).as_list().iter().map(text).collect::<Option<Vec<_>>>();
    list.ok_or_else(|| fail(resource, name, "must be a string or a list of strings, without NUL"))
}

/// Reads one command: text, or a list of arguments.
fn argv(resource: &Resource, name: &str, value: &Value, has_path: bool) -> Result<Vec<OsString>, ProviderError> {
    let uses_shell = resource.parameter("provider").and_then(Value::as_str) == Some("shell");
    let words = match open_secret(value) {
        Value::String(text) if text.contains('\0') => return Err(fail(resource, name, "must not contain NUL")),
        Value::String(text) if uses_shell => return Ok(["/bin/sh", "-c", text].map(OsString::from).to_vec()),
        Value::String(text) => command::split_words(text).map_err(|reason| fail(resource, name, reason))?,
        Value::Array(items) => {
            let text = |item: &Value| item.as_str().filter(|text| !text.contains('\0')).map(str::to_owned);
            let words = items.iter().map(text).collect::<Option<Vec<_>>>();
            words.ok_or_else(|| fail(resource, name, "must be a list of strings without NUL"))?
        }
        _ => return Err(fail(resource, name, "must be a string or a list of strings")),
    };
    match words.first() {
        None => Err(fail(resource, name, "must not be empty")),
        Some(program) if program.starts_with('/') || (has_path && !program.is_empty()) => {
            Ok(words.into_iter().map(OsString::from).collect())
        }
        Some(_) => Err(fail(resource, name, "must start with an absolute path, or path must be given")),
    }
}

/// Reads a condition: one command, or a list of commands each of which is text or a list of arguments.
fn conditions(resource: &Resource, name: &str, has_path: bool) -> Result<Vec<Vec<OsString>>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(Vec::new()) };
    open_secret(value).as_list().iter().map(|value| argv(resource, name, value, has_path)).collect()
}

fn path_below_root(resource: &Resource, name: &str, text: &str) -> Result<TreePath, ProviderError> {
    TreePath::from_absolute(text.as_bytes()).map_err(|error| fail(resource, name, error.to_string()))
}

impl Parameters {
    fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        for name in ["user", "group", "umask"] {
            if resource.parameter(name).is_some() {
                return Err(fail(resource, name, "is not supported: name a program that changes it, as setpriv"));
            }
        }
        if !matches!(resource.parameter("provider").map(Value::as_str), None | Some(Some("posix" | "shell"))) {
            return Err(fail(resource, "provider", "must be posix or shell"));
        }
        let boolean = |name: &str| match resource.parameter(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| fail(resource, name, "must be true or false")),
        };
        let search = texts(resource, "path")?.join(":");
        let has_path = !search.is_empty();
        let title = Value::String(resource.title.clone());
        let mut environment = environment(resource)?;
        if has_path {
            environment.push(("PATH".to_owned(), search));
        }
        let creates = texts(resource, "creates")?.into_iter().map(|text| path_below_root(resource, "creates", text));
        let cwd = texts(resource, "cwd")?.first().map(|text| path_below_root(resource, "cwd", text)).transpose()?;
        Ok(Self {
            reference: resource.reference(),
            command: argv(resource, "command", resource.parameter("command").unwrap_or(&title), has_path)?,
            refresh: resource.parameter("refresh").map(|value| argv(resource, "refresh", value, has_path)).transpose()?,
            only_if: conditions(resource, "onlyif", has_path)?,
            unless: conditions(resource, "unless", has_path)?,
            creates: creates.collect::<Result<_, _>>()?,
            cwd,
            environment,
            returns: returns(resource)?,
            timeout: timeout(resource)?,
            refresh_only: boolean("refreshonly")?,
            log_output: match resource.parameter("logoutput").map(open_secret) {
                None | Some(Value::Boolean(true)) => LogOutput::OnFailure,
                Some(Value::Boolean(false)) => LogOutput::Never,
                Some(Value::String(text)) if text == "false" => LogOutput::Never,
                Some(Value::String(text)) if matches!(text.as_str(), "true" | "on_failure") => LogOutput::OnFailure,
                Some(_) => return Err(fail(resource, "logoutput", "must be true, false or on_failure")),
            },
            sensitive: resource.parameters.values().any(Value::is_sensitive),
        })
    }

    async fn run(&self, context: &Context, argv: &[OsString]) -> Result<CommandOutput, ProviderError> {
        let root = context.root();
        let spec = CommandSpec {
            argv: argv.to_vec(),
            cwd: Some(self.cwd.as_ref().map_or_else(|| root.path().to_owned(), |cwd| root.display(cwd))),
            environment: self.environment.clone(),
            time_limit: self.timeout,
            ..CommandSpec::default()
        };
        command::run(spec, context.cancel()).await.map_err(|error| match error {
            command::CommandError::Cancelled { .. } => ProviderError::Cancelled { resource: self.reference.clone() },
            other => ProviderError::Failed {
                resource: self.reference.clone(),
                attempt: "run a command".to_owned(),
                source: if self.sensitive { "it could not be run or took too long [redacted]".into() } else { other.into() },
            },
        })
    }

    /// Returns the first path of `creates` at which something is.
    async fn created(&self, context: &Context) -> Result<Option<TreePath>, ProviderError> {
        for path in &self.creates {
            let (root, looked_at) = (context.root().clone(), path.clone());
            let found = tokio::task::spawn_blocking(move || root.stat(&looked_at)).await;
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| ProviderError::Failed {
                resource: self.reference.clone(),
                attempt: "look for what it creates".to_owned(),
                source,
            };
            if found.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// Returns whether the conditions let the command run.
    async fn is_due(&self, context: &Context) -> Result<bool, ProviderError> {
        Ok(self.created(context).await?.is_none() && self.commands_let(context).await?)
    }

    /// Returns whether the conditions that are commands let it.
    async fn commands_let(&self, context: &Context) -> Result<bool, ProviderError> {
        for condition in &self.unless {
            if self.run(context, condition).await?.status.success() {
                return Ok(false);
            }
        }
        for condition in &self.only_if {
            if !self.run(context, condition).await?.status.success() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs a command and returns why it failed.
    async fn run_wanted(&self, context: &Context, argv: &[OsString]) -> Result<Result<(), String>, ProviderError> {
        let output = self.run(context, argv).await?;
        if output.status.code().is_some_and(|code| self.returns.contains(&code)) {
            return Ok(Ok(()));
        }
        let shows = self.log_output == LogOutput::OnFailure && !self.sensitive;
        let said = if shows { output.text() } else { String::new() };
        Ok(Err(format!("{} instead of one of {:?}: {}", output.status, self.returns, said.trim())
            .trim_end_matches([':', ' '])
            .to_owned()))
    }
}

fn environment(resource: &Resource) -> Result<Vec<(String, String)>, ProviderError> {
    let pair = |text: &str| text.split_once('=').filter(|(name, _)| !name.is_empty()).map(|(n, v)| (n.to_owned(), v.to_owned()));
    let pairs = texts(resource, "environment")?.into_iter().map(pair).collect::<Option<Vec<_>>>();
    pairs.ok_or_else(|| fail(resource, "environment", "must be a list of NAME=value"))
}

fn returns(resource: &Resource) -> Result<Vec<i32>, ProviderError> {
    let Some(value) = resource.parameter("returns") else { return Ok(vec![0]) };
    let code = |value: &Value| match value {
        Value::Integer(code) => i32::try_from(*code).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let codes = value.as_list().iter().map(code).collect::<Option<Vec<_>>>().filter(|codes| !codes.is_empty());
    codes.ok_or_else(|| fail(resource, "returns", "must be an exit status or a list of them"))
}

fn timeout(resource: &Resource) -> Result<Option<Duration>, ProviderError> {
    let seconds = match resource.parameter("timeout") {
        None => return Ok(Some(DEFAULT_TIMEOUT)),
        Some(Value::Integer(seconds)) => Some(*seconds),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let seconds = seconds.filter(|seconds| (0..=MAX_TIMEOUT_SECONDS).contains(seconds)).and_then(|s| u64::try_from(s).ok());
    let seconds = seconds.ok_or_else(|| fail(resource, "timeout", "must be a number of seconds up to a year; 0 for none"))?;
    Ok(Some(Duration::from_secs(seconds)).filter(|limit| !limit.is_zero()))
}

#[async_trait]
impl Provider for ExecProvider {
    fn resource_type(&self) -> &str {
        "Exec"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn settles(&self) -> Option<&str> {
        Some("exec 1")
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let mut checked = Checked { resources: 1, ..Checked::default() };
        if parameters.refresh_only {
            checked.witnesses = Some(Vec::new());
        } else if let Some(created) = parameters.created(context).await? {
            // A later one of several has others looked at before it.
            let is_first = parameters.creates.first() == Some(&created);
            checked.witnesses = is_first.then(|| vec![Witness { path: created, seen: Seen::Present }]);
        } else if parameters.commands_let(context).await? {
            checked.changes.push(Change {
                resource: resource.reference(),
                property: "returns".into(),
                previous: "notrun".into(),
                desired: parameters.returns.iter().map(i32::to_string).collect::<Vec<_>>().join(", ").into(),
                diff: None,
                redacted: parameters.sensitive,
                wording: None,
            });
        }
        Ok(checked)
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let mut applied = Applied::default();
        if !changes.is_empty()
            && let Err(reason) = parameters.run_wanted(context, &parameters.command).await?
        {
            applied.failures.insert(0, reason);
        }
        Ok(applied)
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        if !parameters.is_due(context).await? {
            return Ok(false);
        }
        let command = parameters.refresh.as_ref().unwrap_or(&parameters.command);
        parameters.run_wanted(context, command).await?.map(|()| true).map_err(|reason| ProviderError::Failed {
            resource: resource.reference(),
            attempt: "run the command of a refresh".to_owned(),
            source: reason.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    fn exec(command: &str) -> Resource {
        Resource::new("Exec", "it").with("command", command)
    }

    async fn converge(world: &World, resource: Resource) -> Result<Option<String>, ProviderError> {
        let (context, resource) = (world.context(), Arc::new(resource));
        let changes = ExecProvider::new().check(&context, &resource).await?.changes;
        if changes.is_empty() {
            return Ok(None);
        }
        let applied = ExecProvider::new().apply(&context, &resource, &changes).await?;
        Ok(Some(applied.failures.get(&0).cloned().unwrap_or_default()))
    }

    #[test]
    fn parameters() {
        let list = |words: &[&str]| Value::Array(words.iter().map(|word| Value::from(*word)).collect());
        for (name, value, valid) in [
            ("command", Value::from("/bin/true a 'b c'"), true),
            ("command", list(&["/bin/true", "a b"]), true),
            ("command", "true".into(), false),
            ("command", "".into(), false),
            ("command", "/bin/a\0".into(), false),
            ("onlyif", vec![list(&["/bin/true", "x"]), "/bin/false".into()].into(), true),
            ("unless", Value::Integer(1), false),
            ("creates", "/a".into(), true),
            ("creates", "a".into(), false),
            ("environment", "A=b".into(), true),
            ("environment", "A".into(), false),
            ("returns", vec![Value::Integer(0), "2".into()].into(), true),
            ("returns", "x".into(), false),
            ("timeout", 0.into(), true),
            ("timeout", (-1).into(), false),
            ("timeout", i64::MAX.into(), false),
            ("user", "web".into(), false),
            ("provider", "windows".into(), false),
            ("logoutput", "on_failure".into(), true),
        ] {
            let resource = exec("/bin/true").with(name, value.clone());
            let result = ExecProvider::new().validate(&resource);
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
        ExecProvider::new().validate(&exec("true").with("path", "/bin:/usr/bin")).unwrap();
    }

    #[tokio::test]
    async fn runs_when_due() {
        let world = World::new();
        let shell = |text: &str| exec(text).with("provider", "shell");
        assert_eq!(converge(&world, shell("echo $A > out").with("environment", "A=b c")).await.unwrap().unwrap(), "");
        assert_eq!(world.read("/out"), "b c\n");
        assert_eq!(converge(&world, exec("/bin/false").with("creates", "/out")).await.unwrap(), None);
        assert_eq!(converge(&world, exec("/bin/false").with("unless", "/bin/true")).await.unwrap(), None);
        assert_eq!(converge(&world, exec("/bin/false").with("onlyif", "/bin/false")).await.unwrap(), None);
        assert_eq!(converge(&world, exec("/bin/false").with("returns", 1)).await.unwrap().unwrap(), "");
        assert!(converge(&world, shell("echo why; exit 4")).await.unwrap().unwrap().contains("why"));
        assert!(!world.exists("/;"));
    }

    #[tokio::test]
    async fn secrets_are_not_shown() {
        let secret = Value::Sensitive(Box::new("/bin/sh -c 'echo hunter2; exit 1'".into()));
        let failure = converge(&World::new(), exec("").with("command", secret)).await.unwrap().unwrap();
        assert!(!failure.is_empty() && !failure.contains("hunter2"), "{failure}");
    }

    #[tokio::test]
    async fn refresh_only_runs_when_refreshed() {
        let world = World::new();
        let resource = Arc::new(exec("/bin/touch ran").with("refreshonly", true));
        let context = world.context();
        assert_eq!(ExecProvider::new().check(&context, &resource).await.unwrap().changes, []);
        assert!(ExecProvider::new().refresh(&context, &resource).await.unwrap());
        assert!(world.exists("/ran"));
        let other = Arc::new(exec("/bin/true").with("refresh", "/bin/false"));
        assert!(ExecProvider::new().refresh(&context, &other).await.is_err());
    }
}
