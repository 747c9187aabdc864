//! The parameters of a command.

use std::ffi::OsString;
use std::time::Duration;

use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath, Value};

use crate::provider::ProviderError;
use crate::provider::command;
use crate::provider::file::read::{self, Sketched};

/// Puppet's default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest `timeout` and `try_sleep`, in seconds: a year; more is surely a mistake and would overflow clocks.
const MAX_SECONDS: f64 = 365.0 * 24.0 * 3600.0;

const KNOWN: &[&str] = &[
    "command",
    "creates",
    "cwd",
    "environment",
    "group",
    "logoutput",
    "onlyif",
    "path",
    "provider",
    "refresh",
    "refreshonly",
    "returns",
    "timeout",
    "tries",
    "try_sleep",
    "umask",
    "unless",
    "user",
];

/// When output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogOutput {
    Never,
    Always,
    OnFailure,
}

/// One command: how it is run, and how messages name it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) argv: Vec<OsString>,
    pub(super) text: String,
    form: Form,
}

/// How a command was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    List,
    /// Text for a shell, which alone has to be there.
    Shell,
}

impl Line {
    /// Returns what must be there before it is run.
    pub(super) fn program(&self) -> Option<&str> {
        match self.form {
            Form::Text => Some(program(&self.text)),
            Form::List => self.argv.first().and_then(|word| word.to_str()),
            Form::Shell => None,
        }
    }
}

/// The parsed parameters.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) reference: ResourceRef,
    pub(super) command: Line,
    pub(super) refresh: Option<Line>,
    pub(super) only_if: Vec<Line>,
    pub(super) unless: Vec<Line>,
    pub(super) creates: Vec<TreePath>,
    pub(super) cwd: Option<TreePath>,
    /// The first is that of `path`, where it is given.
    pub(super) environment: Vec<(String, String)>,
    pub(super) returns: Vec<i32>,
    pub(super) timeout: Option<Duration>,
    pub(super) tries: u32,
    pub(super) try_sleep: Duration,
    pub(super) refresh_only: bool,
    pub(super) log_output: LogOutput,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// As octal digits.
    pub(super) umask: Option<String>,
    pub(super) sensitive: bool,
    has_path: bool,
}

pub(super) fn texts<'a>(resource: Sketched<'a>, name: &str) -> Result<Vec<&'a str>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(Vec::new()) };
    let text = |value: &'a Value| value.as_str().filter(|text| !text.contains('\0'));
    let list = value.as_list().iter().map(text).collect::<Option<Vec<_>>>();
    list.ok_or_else(|| read::fail(resource, name, "must be a string or a list of strings, without NUL"))
}

/// Words that only a shell understands as the first of a command, as Ruby's `Kernel#exec` has them (`process.c`).
const SHELL_WORDS: &[&str] = &[
    "!", ".", ":", "break", "case", "continue", "do", "done", "elif", "else", "esac", "eval", "exec", "exit", "export", "fi",
    "for", "if", "in", "readonly", "return", "set", "shift", "then", "times", "trap", "unset", "until", "while",
];

/// Returns whether text needs a shell, by the rule of Ruby's `Kernel#exec`, which runs Puppet's commands: characters that mean
/// something to one, an assignment in front, or one of its own words.
fn needs_shell(text: &str) -> bool {
    let first = text.split([' ', '\t']).find(|word| !word.is_empty()).unwrap_or_default();
    let is_special = |byte: u8| {
        matches!(
            byte,
            b'*' | b'?'
                | b'{'
                | b'}'
                | b'['
                | b']'
                | b'<'
                | b'>'
                | b'('
                | b')'
                | b'~'
                | b'&'
                | b'|'
                | b'\\'
                | b'$'
                | b';'
                | b'\''
                | b'`'
                | b'"'
                | b'\n'
                | b'#'
        )
    };
    text.bytes().any(is_special) || first.contains('=') || SHELL_WORDS.contains(&first)
}

/// Returns the program of a command in text, by Puppet's rule: what is quoted in front, else what stands before the first space.
pub(super) fn program(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((quoted, _)) =
            text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)).filter(|(quoted, _)| !quoted.is_empty())
        {
            return quoted;
        }
    }
    text.split(' ').next().unwrap_or_default()
}

/// Reads one command: text, or a list of arguments.
fn line(resource: Sketched<'_>, name: &str, value: &Value, has_path: bool) -> Result<Line, ProviderError> {
    let fail = |reason: &str| Err(read::fail(resource, name, reason));
    let uses_shell = resource.parameter("provider").and_then(Value::as_str) == Some("shell");
    let shell = |text: &str| ["/bin/sh", "-c", text].map(OsString::from).to_vec();
    let (words, text) = match value.opened() {
        Value::String(text) if text.contains('\0') => return fail("must not contain NUL"),
        Value::String(text) if text.trim().is_empty() => return fail("must not be empty"),
        Value::String(text) if uses_shell => return Ok(Line { argv: shell(text), text: text.clone(), form: Form::Shell }),
        Value::String(text) => (vec![program(text).to_owned()], text.clone()),
        Value::Array(items) => {
            let text = |item: &Value| item.as_str().filter(|text| !text.contains('\0')).map(str::to_owned);
            let words = items.iter().map(text).collect::<Option<Vec<_>>>();
            let words = words.ok_or_else(|| read::fail(resource, name, "must be a list of strings without NUL"))?;
            let text = format!("[{}]", words.join(", "));
            (words, text)
        }
        _ => return fail("must be a string or a list of strings"),
    };
    match words.first() {
        None => return fail("must not be empty"),
        Some(program) if program.starts_with('/') || (has_path && !program.is_empty()) => {}
        Some(_) => return fail("must start with an absolute path, or path must be given"),
    }
    let argv = match value.opened() {
        Value::String(text) if needs_shell(text) => shell(text),
        Value::String(text) => {
            let words = command::split_words(text).map_err(|reason| read::fail(resource, name, reason))?;
            words.into_iter().map(OsString::from).collect()
        }
        _ => words.into_iter().map(OsString::from).collect(),
    };
    let form = if matches!(value.opened(), Value::String(_)) { Form::Text } else { Form::List };
    Ok(Line { argv, text, form })
}

/// Reads a condition: one command, or a list of commands each of which is text or a list of arguments.
fn conditions(resource: Sketched<'_>, name: &str, has_path: bool) -> Result<Vec<Line>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(Vec::new()) };
    value.as_list().iter().map(|value| line(resource, name, value, has_path)).collect()
}

pub(super) fn path_below_root(resource: Sketched<'_>, name: &str, text: &str) -> Result<TreePath, ProviderError> {
    read::absolute_path(text).map_err(|reason| read::fail(resource, name, reason))
}

fn environment(resource: Sketched<'_>) -> Result<Vec<(String, String)>, ProviderError> {
    let pair = |text: &str| text.split_once('=').filter(|(name, _)| !name.is_empty()).map(|(n, v)| (n.to_owned(), v.to_owned()));
    let pairs = texts(resource, "environment")?.into_iter().map(pair).collect::<Option<Vec<_>>>();
    pairs.ok_or_else(|| read::fail(resource, "environment", "must be a list of NAME=value"))
}

fn returns(resource: Sketched<'_>) -> Result<Vec<i32>, ProviderError> {
    let Some(value) = resource.parameter("returns") else { return Ok(vec![0]) };
    let code = |value: &Value| match value.opened() {
        Value::Integer(code) => i32::try_from(*code).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let codes = value.as_list().iter().map(code).collect::<Option<Vec<_>>>().filter(|codes| !codes.is_empty());
    codes.ok_or_else(|| read::fail(resource, "returns", "must be an exit status or a list of them"))
}

/// Reads a time in seconds, perhaps with a fraction.
fn seconds(resource: Sketched<'_>, name: &str) -> Result<Option<f64>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    let number = match value.as_list() {
        [Value::Integer(number)] => number.to_string().parse().ok(),
        [Value::Float(number)] => Some(*number),
        [Value::String(text)] => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite() && *number <= MAX_SECONDS);
    number.map(Some).ok_or_else(|| read::fail(resource, name, "must be a number of seconds up to a year"))
}

fn tries(resource: Sketched<'_>) -> Result<u32, ProviderError> {
    let tries = read::integer(resource, "tries")?.unwrap_or(1);
    let tries = u32::try_from(tries).ok().filter(|tries| *tries > 0);
    tries.ok_or_else(|| read::fail(resource, "tries", "must be a number, 1 or more"))
}

/// Reads the name or number of an account.
fn account(resource: Sketched<'_>, name: &str) -> Result<Option<String>, ProviderError> {
    let account = read::text(resource, name)?;
    match account.as_deref() {
        Some(text) if !crate::provider::accounts::is_valid_name(text) => {
            Err(read::fail(resource, name, "must be the name or number of an account"))
        }
        _ => Ok(account),
    }
}

fn umask(resource: Sketched<'_>) -> Result<Option<String>, ProviderError> {
    let umask = read::text(resource, "umask")?;
    let is_octal = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let has_room = |text: &str| u32::from_str_radix(text, 8).is_ok_and(|mask| mask <= 0o7777);
    match umask.as_deref() {
        Some(text) if !is_octal(text) || !has_room(text) => Err(read::fail(resource, "umask", "must be octal digits, as 022")),
        _ => Ok(umask),
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let resource = Sketched::of(resource);
        if !matches!(resource.parameter("provider").map(Value::as_str), None | Some(Some("posix" | "shell"))) {
            return Err(read::fail(resource, "provider", "must be posix or shell"));
        }
        let search = texts(resource, "path")?.join(":");
        let has_path = !search.is_empty();
        let title = Value::String(resource.title.clone());
        // A PATH in the environment wins.
        let mut variables = vec![("PATH".to_owned(), search)];
        variables.retain(|_| has_path);
        variables.extend(environment(resource)?);
        let creates = texts(resource, "creates")?.into_iter().map(|text| path_below_root(resource, "creates", text));
        let cwd = texts(resource, "cwd")?.first().map(|text| path_below_root(resource, "cwd", text)).transpose()?;
        let time_limit = match seconds(resource, "timeout")? {
            None => Some(DEFAULT_TIMEOUT),
            // Puppet takes what is negative as 0, which is no limit.
            Some(limit) => Some(Duration::from_secs_f64(limit.max(0.0))).filter(|limit| !limit.is_zero()),
        };
        let sleep = seconds(resource, "try_sleep")?.unwrap_or(0.0);
        if sleep < 0.0 {
            return Err(read::fail(resource, "try_sleep", "must not be negative"));
        }
        Ok(Self {
            reference: resource.reference(),
            command: line(resource, "command", resource.parameter("command").unwrap_or(&title), has_path)?,
            refresh: resource.parameter("refresh").map(|value| line(resource, "refresh", value, has_path)).transpose()?,
            only_if: conditions(resource, "onlyif", has_path)?,
            unless: conditions(resource, "unless", has_path)?,
            creates: creates.collect::<Result<_, _>>()?,
            cwd,
            environment: variables,
            returns: returns(resource)?,
            timeout: time_limit,
            tries: tries(resource)?,
            try_sleep: Duration::from_secs_f64(sleep),
            refresh_only: read::boolean(resource, "refreshonly", false)?,
            log_output: match resource.parameter("logoutput") {
                None => LogOutput::OnFailure,
                Some(Value::Boolean(true)) => LogOutput::Always,
                Some(Value::Boolean(false)) => LogOutput::Never,
                Some(Value::String(text)) if text == "true" => LogOutput::Always,
                Some(Value::String(text)) if text == "false" => LogOutput::Never,
                Some(Value::String(text)) if text == "on_failure" => LogOutput::OnFailure,
                Some(_) => return Err(read::fail(resource, "logoutput", "must be true, false or on_failure")),
            },
            user: account(resource, "user")?,
            group: account(resource, "group")?,
            umask: umask(resource)?,
            sensitive: resource.parameters.values().any(Value::is_sensitive),
            has_path,
        })
    }

    /// Returns the directories of `path`, with colons between them; empty where it is not given.
    pub(super) fn search(&self) -> &str {
        self.environment.first().filter(|_| self.has_path).map_or("", |(_, search)| search)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let list = |words: &[&str]| Value::Array(words.iter().map(|word| Value::from(*word)).collect());
        for (name, value, valid) in [
            ("command", Value::from("/bin/true a 'b c'"), true),
            ("command", list(&["/bin/true", "a b"]), true),
            ("command", "true".into(), false),
            ("command", "".into(), false),
            ("command", "/bin/a\0".into(), false),
            ("command", "'/opt/a b/c' x".into(), true),
            ("onlyif", vec![list(&["/bin/true", "x"]), "/bin/false".into()].into(), true),
            ("unless", Value::Integer(1), false),
            ("creates", "/a".into(), true),
            ("creates", "a".into(), false),
            ("environment", "A=b".into(), true),
            ("environment", "A".into(), false),
            ("returns", vec![Value::Integer(0), "2".into()].into(), true),
            ("returns", "x".into(), false),
            ("timeout", 0.into(), true),
            ("timeout", "1.5".into(), true),
            ("timeout", (-1).into(), true),
            ("timeout", i64::MAX.into(), false),
            ("timeout", "NaN".into(), false),
            ("tries", "3".into(), true),
            ("tries", 0.into(), false),
            ("try_sleep", Value::Float(0.5), true),
            ("try_sleep", (-1).into(), false),
            ("user", "web".into(), true),
            ("user", "-x".into(), false),
            ("group", 0.into(), true),
            ("umask", "0022".into(), true),
            ("umask", 22.into(), true),
            ("umask", "u=rwx".into(), false),
            ("umask", "77777".into(), false),
            ("provider", "windows".into(), false),
            ("logoutput", "on_failure".into(), true),
            ("logoutput", "sometimes".into(), false),
            ("comand", "/bin/true".into(), false),
        ] {
            let resource = Resource::new("Exec", "it").with("command", "/bin/true").with(name, value.clone());
            let result = Parameters::parse(&resource);
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
        Parameters::parse(&Resource::new("Exec", "true").with("path", "/bin:/usr/bin")).unwrap();
    }

    #[test]
    fn a_shell_is_used_as_ruby_does() {
        for (text, shell) in [
            ("/bin/echo a b", false),
            ("/bin/echo a=b %x @y", false),
            ("/bin/echo a > /b", true),
            ("/bin/echo 'a b'", true),
            ("A=b /bin/true", true),
            ("exit 3", true),
            ("exited 3", false),
            ("/bin/a # b", true),
        ] {
            assert_eq!(needs_shell(text), shell, "{text}");
        }
    }
}
