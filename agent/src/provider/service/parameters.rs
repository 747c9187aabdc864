//! The parameters of a service.

use direct_puppet_transport::protocol::{Resource, Value};

use crate::provider::ProviderError;
use crate::provider::file::read;
use crate::provider::ruby_regex;

const KNOWN: &[&str] = &[
    "ensure",
    "enable",
    "name",
    "provider",
    "start",
    "stop",
    "status",
    "restart",
    "pattern",
    "binary",
    "hasstatus",
    "hasrestart",
    "path",
    "control",
    "flags",
    "manifest",
    "timeout",
];

/// Parameters of providers for other systems.
pub(super) const FOR_OTHERS: &[&str] = &["control", "flags", "manifest", "timeout"];

/// What manages services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Systemd,
    Debian,
    Init,
    Base,
}

/// Whether a service starts with the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enable {
    Yes,
    No,
    /// It cannot be started at all.
    Masked,
}

impl Enable {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Yes => "true",
            Self::No => "false",
            Self::Masked => "mask",
        }
    }
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) name: String,
    /// `None` for the one of the system.
    pub(super) kind: Option<Kind>,
    pub(super) running: Option<bool>,
    pub(super) enable: Option<Enable>,
    pub(super) start: Option<String>,
    pub(super) stop: Option<String>,
    pub(super) status: Option<String>,
    pub(super) restart: Option<String>,
    /// An expression that a line of the table of processes matches while the service runs.
    pub(super) pattern: String,
    pub(super) binary: Option<String>,
    pub(super) has_status: bool,
    pub(super) has_restart: bool,
    /// Where init scripts are.
    pub(super) path: Vec<String>,
}

fn command(resource: &Resource, name: &str) -> Result<Option<String>, ProviderError> {
    let text = read::text(resource, name)?;
    if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.contains('\0')) {
        return Err(read::fail(resource, name, "must be a command"));
    }
    Ok(text)
}

fn enable(resource: &Resource) -> Result<Option<Enable>, ProviderError> {
    let Some(value) = resource.parameter("enable").map(Value::opened) else { return Ok(None) };
    match (value, value.as_str()) {
        (Value::Boolean(true), _) | (_, Some("true")) => Ok(Some(Enable::Yes)),
        (Value::Boolean(false), _) | (_, Some("false")) => Ok(Some(Enable::No)),
        (_, Some("mask")) => Ok(Some(Enable::Masked)),
        (_, Some("manual" | "delayed")) => Err(read::fail(resource, "enable", "manual and delayed are for Windows only")),
        _ => Err(read::fail(resource, "enable", "must be true, false or mask")),
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let name = read::name(resource)?;
        if name.is_empty() || name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(read::fail(resource, "name", "must be the name of a service"));
        }
        let kinds = [("systemd", Kind::Systemd), ("debian", Kind::Debian), ("init", Kind::Init), ("base", Kind::Base)];
        let kind = read::choice(resource, "provider", &kinds)?;
        let running = match resource.parameter("ensure").map(Value::opened) {
            None => None,
            Some(Value::Boolean(running)) => Some(*running),
            Some(_) => {
                let words = [("running", true), ("stopped", false), ("true", true), ("false", false)];
                read::choice(resource, "ensure", &words)?
            }
        };
        let binary = command(resource, "binary")?;
        let pattern = match read::text(resource, "pattern")? {
            Some(pattern) => {
                ruby_regex::compile(&pattern).map_err(|reason| read::fail(resource, "pattern", reason))?;
                pattern
            }
            None => ruby_regex_of(binary.as_deref().unwrap_or(&name)),
        };
        let path = read::texts(resource, "path")?.unwrap_or_else(|| vec!["/etc/init.d".to_owned()]);
        let path: Vec<String> = path.iter().flat_map(|path| path.split(':')).map(str::to_owned).collect();
        if path.iter().any(|path| !path.starts_with('/') || path.contains('\0')) {
            return Err(read::fail(resource, "path", "must be absolute paths"));
        }
        let this = Self {
            name,
            kind,
            running,
            enable: enable(resource)?,
            start: command(resource, "start")?,
            stop: command(resource, "stop")?,
            status: command(resource, "status")?,
            restart: command(resource, "restart")?,
            pattern,
            binary,
            has_status: read::boolean(resource, "hasstatus", true)?,
            has_restart: read::boolean(resource, "hasrestart", false)?,
            path,
        };
        if let Some(kind) = kind {
            this.check_for(kind).map_err(|(parameter, reason)| read::fail(resource, parameter, reason))?;
        }
        Ok(this)
    }

    /// Refuses what a service manager cannot do; returns the parameter and why.
    pub(super) fn check_for(&self, kind: Kind) -> Result<(), (&'static str, String)> {
        match (kind, self.enable) {
            (Kind::Init | Kind::Base, Some(_)) => {
                Err(("enable", "cannot be given: this provider only starts and stops".to_owned()))
            }
            (Kind::Debian, Some(Enable::Masked)) => Err(("enable", "mask is for systemd only".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Returns an expression that only a text matches. Puppet takes names and binaries for expressions too; in them, nobody means a
/// dot or a plus so.
fn ruby_regex_of(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && !matches!(c, '/' | '-' | '_' | ' ') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        for (name, value, valid) in [
            ("ensure", Value::from("running"), true),
            ("ensure", true.into(), true),
            ("ensure", "present".into(), false),
            ("enable", "mask".into(), true),
            ("enable", false.into(), true),
            ("enable", "manual".into(), false),
            ("enable", "perhaps".into(), false),
            ("name", "--now".into(), false),
            ("name", "../x".into(), false),
            ("provider", "upstart".into(), false),
            ("pattern", "[".into(), false),
            ("pattern", "^web\\b".into(), true),
            ("start", " ".into(), false),
            ("hasstatus", "no".into(), true),
            ("path", "etc".into(), false),
            ("path", vec![Value::from("/a:/b")].into(), true),
            ("logonaccount", "x".into(), false),
        ] {
            let result = Parameters::parse(&Resource::new("Service", "web").with(name, value.clone()));
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
        let of = |provider: &str, enable: &str| {
            Parameters::parse(&Resource::new("Service", "web").with("provider", provider).with("enable", enable)).is_ok()
        };
        assert!(of("systemd", "mask") && of("debian", "true") && !of("debian", "mask") && !of("init", "true"));
    }
}
