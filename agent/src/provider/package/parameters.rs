//! The parameters of a package.

use direct_puppet_transport::protocol::{Resource, Value};

use super::manager::Kind;
use super::version::Range;
use crate::provider::ProviderError;
use crate::provider::file::read;

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "provider",
    "source",
    "command",
    "mark",
    "configfiles",
    "responsefile",
    "install_options",
    "uninstall_options",
    "allow_virtual",
    "allowcdrom",
    "reinstall_on_refresh",
];

/// What there shall be of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Present,
    Absent,
    Purged,
    Latest,
    Version(String),
    Range(Range),
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) name: String,
    pub(super) wanted: Wanted,
    /// `None` for the one of the system.
    pub(super) kind: Option<Kind>,
    pub(super) source: Option<String>,
    /// The program in the place of the usual one, of gem and pip.
    pub(super) command: Option<String>,
    /// Whether it shall be held; `None` when that is left alone.
    pub(super) held: Option<bool>,
    /// Whether changed configuration files stay.
    pub(super) keeps_configuration: bool,
    pub(super) response_file: Option<String>,
    pub(super) install_options: Vec<String>,
    pub(super) uninstall_options: Vec<String>,
    /// `None` for the custom of the package manager.
    pub(super) allow_virtual: Option<bool>,
    pub(super) allow_cdrom: bool,
}

/// Reads options: strings, and hashes of which each pair is one option with an equals sign.
fn options(resource: &Resource, name: &str) -> Result<Vec<String>, ProviderError> {
    let mut options = Vec::new();
    for value in resource.parameter(name).map(Value::as_list).unwrap_or_default() {
        match value.opened() {
            Value::Hash(pairs) => {
                for (key, value) in pairs {
                    let value = read::as_text(value).ok_or_else(|| read::fail(resource, name, "must hold strings"))?;
                    options.push(format!("{key}={value}"));
                }
            }
            value => options.push(read::as_text(value).ok_or_else(|| read::fail(resource, name, "must be strings or hashes"))?),
        }
    }
    if options.iter().any(|option| option.contains('\0')) {
        return Err(read::fail(resource, name, "must not contain NUL"));
    }
    Ok(options)
}

/// Reads a text that becomes an argument, so that it must not look like an option.
fn argument(resource: &Resource, name: &str) -> Result<Option<String>, ProviderError> {
    let text = read::text(resource, name)?;
    if text.as_ref().is_some_and(|text| text.is_empty() || text.starts_with('-') || text.contains(['\0', '\n'])) {
        return Err(read::fail(resource, name, "must not be empty, begin with a hyphen or have more than one line"));
    }
    Ok(text)
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let name = read::name(resource)?;
        if name.is_empty() || name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(read::fail(resource, "name", "must be the name of a package"));
        }
        let kind = read::choice(resource, "provider", Kind::NAMES)?;
        let mut held = read::choice(resource, "mark", &[("hold", true), ("none", false)])?;
        let wanted = match argument(resource, "ensure")?.as_deref() {
            None | Some("present" | "installed" | "true") => Wanted::Present,
            Some("held") => {
                held = Some(true);
                Wanted::Present
            }
            Some("absent" | "false") => Wanted::Absent,
            Some("purged") => Wanted::Purged,
            Some("latest") => Wanted::Latest,
            Some("disabled") => return Err(read::fail(resource, "ensure", "disabled is of dnf modules, which are not managed")),
            Some(range) if range.contains(['<', '>', '=', '|', ' ', '*']) || range.starts_with(['~', '^']) => {
                Wanted::Range(Range::parse(range).map_err(|reason| read::fail(resource, "ensure", reason))?)
            }
            Some(version) => Wanted::Version(version.to_owned()),
        };
        if held.is_some() && matches!(wanted, Wanted::Absent | Wanted::Purged) {
            return Err(read::fail(resource, "mark", "cannot be given for a package that shall not be there"));
        }
        let this = Self {
            name,
            wanted,
            kind,
            source: argument(resource, "source")?,
            command: argument(resource, "command")?.filter(|command| command != "default"),
            held,
            keeps_configuration: read::choice(resource, "configfiles", &[("keep", true), ("replace", false)])?.unwrap_or(true),
            response_file: argument(resource, "responsefile")?,
            install_options: options(resource, "install_options")?,
            uninstall_options: options(resource, "uninstall_options")?,
            allow_virtual: resource
                .parameter("allow_virtual")
                .map(|_| read::boolean(resource, "allow_virtual", false))
                .transpose()?,
            allow_cdrom: read::boolean(resource, "allowcdrom", false)?,
        };
        if let Some(kind) = kind {
            this.check_for(kind).map_err(|(parameter, reason)| read::fail(resource, parameter, reason))?;
        }
        Ok(this)
    }

    /// Refuses what a package manager cannot do; returns the parameter and why.
    pub(super) fn check_for(&self, kind: Kind) -> Result<(), (&'static str, String)> {
        let (name, features) = (kind.name(), kind.features());
        let refuse = |parameter, what: &str| Err((parameter, format!("{name} {what}")));
        match self.wanted {
            Wanted::Purged if !features.purges => return refuse("ensure", "cannot purge"),
            Wanted::Range(_) if !features.ranges => {
                return refuse("ensure", "knows no ranges of versions here: name one version");
            }
            Wanted::Version(_) if !features.versions => return refuse("ensure", "cannot choose a version: give source"),
            _ => {}
        }
        if self.held.is_some() && !features.holds {
            return refuse("mark", "cannot hold packages");
        }
        if self.command.is_some() && !features.has_command {
            return refuse("command", "has one command only");
        }
        let installs = !matches!(self.wanted, Wanted::Absent | Wanted::Purged);
        if self.source.is_none() && installs && features.needs_source {
            return refuse("source", "installs files only: name one");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        for (name, value, valid) in [
            ("ensure", Value::from("1.0-1"), true),
            ("ensure", "2:2.0~rc1+dfsg-1".into(), true),
            ("ensure", ">=1.0".into(), true),
            ("ensure", ">=1.0 <2".into(), true),
            ("ensure", "~>1.0".into(), false),
            ("ensure", "1.*".into(), false),
            ("ensure", "-y".into(), false),
            ("ensure", "".into(), false),
            ("ensure", "held".into(), true),
            ("ensure", "disabled".into(), false),
            ("name", "a b".into(), false),
            ("name", "--purge".into(), false),
            ("provider", "pacman".into(), false),
            ("provider", "gem".into(), true),
            // Needs a file.
            ("provider", "dpkg".into(), false),
            ("mark", "hold".into(), true),
            ("mark", "perhaps".into(), false),
            ("configfiles", "replace".into(), true),
            ("source", "-x".into(), false),
            ("install_options", vec![Value::from("-x"), "--y".into()].into(), true),
            ("install_options", vec![vec![Value::from("x")].into()].into(), false),
            ("ensurre", "present".into(), false),
        ] {
            let result = Parameters::parse(&Resource::new("Package", "p").with(name, value.clone()));
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
        let parse = |ensure: &str, provider: &str| {
            Parameters::parse(
                &Resource::new("Package", "p").with("ensure", ensure).with("provider", provider).with("source", "/p"),
            )
        };
        assert!(parse(">1.0", "rpm").is_err() && parse(">1.0", "gem").is_ok() && parse(">1.0", "apt").is_ok());
        assert!(parse("1.0", "dpkg").is_err() && parse("1.0", "apt").is_ok());
        assert!(parse("purged", "pip").is_err() && parse("purged", "yum").is_ok());
        let removed = Resource::new("Package", "p").with("ensure", "absent").with("mark", "hold");
        assert!(Parameters::parse(&removed).is_err());
    }
}
