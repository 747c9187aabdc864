//! The parameters of a `File` resource, parsed and checked against each other.

use bytes::Bytes;
use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use super::checksum::{Checksum, ChecksumValue};
use super::mode::Mode;
use super::read::{self, Sketched, Source};
use super::source_uri::SourceUri;
use crate::glob::Glob;
use crate::provider::ProviderError;

/// What shall be at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ensure {
    Absent,
    /// Anything; a file if there is nothing.
    Present,
    File,
    Directory,
    Link,
}

/// Who shall own it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account<Name = String> {
    Id(u32),
    Name(Name),
}

impl Account<&str> {
    fn into_owned(self) -> Account {
        match self {
            Self::Id(id) => Account::Id(id),
            Self::Name(name) => Account::Name(name.to_owned()),
        }
    }
}

/// How far a directory is managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recurse {
    No,
    /// What is in the source and what is there.
    Yes,
    /// What is in the source.
    Remote,
}

/// What to do with links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Manage,
    Follow,
}

/// Whether modes and owners of the source count where the resource names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourcePermissions {
    Ignore,
    Use,
    UseWhenCreating,
}

/// Where old content goes before it is replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backup {
    /// Nowhere.
    No,
    /// The local store.
    Store,
    /// The local store, and a copy beside the file with this added to its name.
    Suffix(String),
}

/// All parameters of one resource.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    pub(super) path: TreePath,
    pub(super) ensure: Option<Ensure>,
    pub(super) target: Option<Vec<u8>>,
    /// `content` as the resource itself carries it.
    pub(super) content: Option<Bytes>,
    pub(super) sensitive: bool,
    pub(super) sources: Vec<SourceUri>,
    /// With recursion all sources count, not the first that exists alone: all of them are on this machine then.
    pub(super) takes_all: bool,
    pub(super) source_permissions: SourcePermissions,
    pub(super) recurse: Recurse,
    pub(super) recurse_limit: Option<usize>,
    /// Most entries that recursion may find; `None` for no limit.
    pub(super) max_files: Option<usize>,
    pub(super) ignore: Vec<Glob>,
    pub(super) purge: bool,
    pub(super) force: bool,
    pub(super) links: Links,
    pub(super) replace: bool,
    pub(super) backup: Backup,
    pub(super) mode: Option<Mode>,
    pub(super) owner: Option<Account>,
    pub(super) group: Option<Account>,
    pub(super) show_diff: bool,
    pub(super) validate_cmd: Option<String>,
    pub(super) validate_replacement: String,
    pub(super) checksum: Checksum,
    pub(super) checksum_value: Option<ChecksumValue>,
    /// Parameters that are understood and not acted upon.
    pub(super) left_out: Vec<&'static str>,
}

/// What a resource names of other resources, without all the rest.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) path: TreePath,
    pub(super) target: Option<&'a [u8]>,
    pub(super) owner: Option<Account<&'a str>>,
    pub(super) group: Option<Account<&'a str>>,
}

impl<'a> Named<'a> {
    /// Reads what is named, and checks nothing else.
    pub(super) fn of(resource: &'a Resource) -> Result<Self, ProviderError> {
        let resource = Sketched::of(resource);
        let mut target = target(resource)?;
        // It may stand in `ensure`.
        ensure(resource, &mut target)?;
        Ok(Self { path: path_of(resource)?, target, owner: account(resource, "owner")?, group: account(resource, "group")? })
    }
}

/// What Puppet knows of `File` besides metaparameters. The last line is read-only there or has no meaning here.
const KNOWN: &[&str] = &[
    "path",
    "ensure",
    "target",
    "content",
    "source",
    "sourceselect",
    "source_permissions",
    "recurse",
    "recurselimit",
    "max_files",
    "ignore",
    "purge",
    "force",
    "links",
    "replace",
    "backup",
    "mode",
    "owner",
    "group",
    "show_diff",
    "validate_cmd",
    "validate_replacement",
    "checksum",
    "checksum_value",
    "staging_location",
    "provider",
    "selinux_ignore_defaults",
    "seluser",
    "selrole",
    "seltype",
    "selrange",
    "ctime",
    "mtime",
    "type",
];

const SELINUX: [&str; 4] = ["seluser", "selrole", "seltype", "selrange"];

/// Returns the path that a `File` resource manages: its `path`, else its title.
///
/// # Errors
///
/// When it is not absolute, has a `..` or a NUL, or is too long.
pub fn managed_path(resource: &Resource) -> Result<TreePath, ProviderError> {
    path_of(resource)
}

fn path_of<'a>(resource: impl Source<'a>) -> Result<TreePath, ProviderError> {
    let text = match resource.parameter("path") {
        Some(value) => value.as_str().ok_or_else(|| read::fail(resource, "path", "must be a string"))?,
        None => &resource.resource().title,
    };
    read::absolute_path(text).map_err(|reason| read::fail(resource, "path", reason))
}

/// Returns whether the compiler has resolved what the file is made from.
fn is_compiled(resource: &Resource) -> bool {
    resource.resolved.as_ref().is_some_and(|resolved| resolved.uri.is_none())
}

/// Returns the content that the resource itself carries.
pub(super) fn carried(resource: &Resource) -> Result<Option<Bytes>, ProviderError> {
    if is_compiled(resource) { Ok(None) } else { content(Sketched::of(resource)) }
}

impl Parameters {
    /// Parses and checks a resource.
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let declared = resource;
        let resource = Sketched::of(resource);
        let mut target = target(resource)?;
        let ensure = ensure(resource, &mut target)?;
        let compiled = is_compiled(declared);
        let content = if compiled { None } else { content(resource)? };
        let parameters = Self {
            path: path_of(resource)?,
            ensure,
            target: target.map(<[u8]>::to_vec),
            sensitive: ["content", "source"].iter().any(|name| resource.parameters.get(*name).is_some_and(Value::is_sensitive)),
            content,
            sources: sources(resource)?,
            takes_all: takes_all(resource)?,
            source_permissions: read::choice(
                resource,
                "source_permissions",
                &[
                    ("ignore", SourcePermissions::Ignore),
                    ("use", SourcePermissions::Use),
                    ("use_when_creating", SourcePermissions::UseWhenCreating),
                ],
            )?
            .unwrap_or(SourcePermissions::Ignore),
            recurse: recurse(resource)?,
            recurse_limit: read::count(resource, "recurselimit")?,
            max_files: max_files(resource)?,
            ignore: read::strings(resource, "ignore")?.into_iter().map(Glob::parse).collect(),
            purge: read::boolean(resource, "purge", false)?,
            force: read::boolean(resource, "force", false)?,
            links: read::choice(resource, "links", &[("manage", Links::Manage), ("follow", Links::Follow)])?
                .unwrap_or(Links::Manage),
            replace: read::boolean(resource, "replace", true)?,
            backup: backup(resource)?,
            mode: mode(resource)?,
            owner: account(resource, "owner")?.map(Account::into_owned),
            group: account(resource, "group")?.map(Account::into_owned),
            show_diff: read::boolean(resource, "show_diff", true)?,
            validate_cmd: read::string(resource, "validate_cmd")?.map(str::to_owned),
            validate_replacement: read::string(resource, "validate_replacement")?.unwrap_or("%").to_owned(),
            checksum: read::string(resource, "checksum")?.map_or(Ok(Checksum::Digest), |text| {
                Checksum::parse(text).map_err(|reason| read::fail(resource, "checksum", reason))
            })?,
            checksum_value: checksum_value(resource)?,
            left_out: SELINUX.into_iter().filter(|name| resource.parameter(name).is_some()).collect(),
        };
        parameters.check(resource, compiled)?;
        Ok(parameters)
    }

    /// Checks what parameters say together.
    fn check(&self, resource: Sketched<'_>, compiled: bool) -> Result<(), ProviderError> {
        let has_content = compiled || self.content.is_some();
        let has_source = !self.sources.is_empty();
        let has_target = self.target.is_some();
        let fail = |parameter, reason: &str| Err(read::fail(resource, parameter, reason));
        if [has_content, has_source, has_target].into_iter().filter(|given| *given).count() > 1 {
            return fail("content", "only one of content, source and target may be given");
        }
        match self.ensure {
            Some(Ensure::Link) if !has_target && !has_source => return fail("target", "is needed with ensure => link"),
            Some(Ensure::Link) if has_content => return fail("content", "cannot be given with ensure => link"),
            Some(Ensure::Directory) if has_content => return fail("content", "cannot be given with ensure => directory"),
            Some(Ensure::Directory | Ensure::File) if has_target => {
                return fail("target", "goes with ensure => link only; to copy a tree of links use source and links => manage");
            }
            _ => {}
        }
        if self.path.is_root() && !matches!(self.ensure, None | Some(Ensure::Present | Ensure::Directory)) {
            return fail("ensure", "the root can only be a directory");
        }
        if self.recurse == Recurse::Remote && !has_source {
            return fail("recurse", "remote needs a source");
        }
        let is_remote = |source: &SourceUri| matches!(source, SourceUri::Puppet(_) | SourceUri::Http(_));
        if self.takes_all && self.recurse != Recurse::No && self.sources.iter().any(is_remote) {
            return fail("sourceselect", "all needs sources that are all on this machine, or all in one server's catalog");
        }
        if self.checksum == Checksum::None && has_source {
            return fail("checksum", "none cannot be used with source");
        }
        if self.checksum.is_by_date() && has_content {
            return fail("checksum", "mtime, ctime and none cannot be used with content");
        }
        if let Some(command) = &self.validate_cmd {
            super::validate_cmd::check(command).map_err(|reason| read::fail(resource, "validate_cmd", reason))?;
            if self.validate_replacement.is_empty() {
                return fail("validate_replacement", "must not be empty");
            }
        }
        Ok(())
    }
}

fn target(resource: Sketched<'_>) -> Result<Option<&[u8]>, ProviderError> {
    let Some(text) = read::string(resource, "target")?.filter(|text| *text != "notlink") else { return Ok(None) };
    if text.is_empty() || text.contains('\0') || text.len() > 4095 {
        return Err(read::fail(resource, "target", "must be 1 to 4095 bytes without NUL"));
    }
    Ok(Some(text.as_bytes()))
}

/// Reads `ensure`; a path is a link to it.
fn ensure<'a>(resource: Sketched<'a>, target: &mut Option<&'a [u8]>) -> Result<Option<Ensure>, ProviderError> {
    const WHAT: &str = "must be present, absent, file, directory, link, or the path that a link points to";
    let ensure = match resource.parameter("ensure") {
        None => None,
        Some(Value::Boolean(false)) => Some(Ensure::Absent),
        Some(Value::String(text)) => Some(match text.as_str() {
            "present" => Ensure::Present,
            "absent" | "false" => Ensure::Absent,
            "file" => Ensure::File,
            "directory" => Ensure::Directory,
            "link" => Ensure::Link,
            // Puppet takes any text for a target; without a slash it is nearly always a misspelling.
            path if path.contains('/') && !path.contains('\0') && path.len() <= 4095 => {
                *target = Some(path.as_bytes());
                Ensure::Link
            }
            _ => return Err(read::fail(resource, "ensure", WHAT)),
        }),
        Some(_) => return Err(read::fail(resource, "ensure", WHAT)),
    };
    // A target makes a link of what else would be anything.
    Ok(match ensure {
        None | Some(Ensure::Present) if target.is_some() => Some(Ensure::Link),
        other => other,
    })
}

fn content(resource: Sketched<'_>) -> Result<Option<Bytes>, ProviderError> {
    fn bytes(value: &Value) -> Option<Bytes> {
        match value {
            Value::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Value::Binary(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Value::Sensitive(value) => bytes(value),
            _ => None,
        }
    }
    match resource.parameter("content") {
        None => Ok(None),
        Some(value) => bytes(value).map(Some).ok_or_else(|| read::fail(resource, "content", "must be a string or Binary")),
    }
}

fn sources(resource: Sketched<'_>) -> Result<Vec<SourceUri>, ProviderError> {
    let texts = read::strings(resource, "source")?;
    texts.into_iter().map(|text| SourceUri::parse(text).map_err(|reason| read::fail(resource, "source", reason))).collect()
}

fn takes_all(resource: Sketched<'_>) -> Result<bool, ProviderError> {
    Ok(read::choice(resource, "sourceselect", &[("first", false), ("all", true)])?.unwrap_or(false))
}

fn recurse(resource: Sketched<'_>) -> Result<Recurse, ProviderError> {
    match resource.parameter("recurse") {
        None => Ok(Recurse::No),
        Some(Value::Boolean(true)) => Ok(Recurse::Yes),
        Some(Value::Boolean(false)) => Ok(Recurse::No),
        Some(Value::String(text)) if text == "remote" => Ok(Recurse::Remote),
        Some(Value::String(text)) if text == "true" => Ok(Recurse::Yes),
        Some(Value::String(text)) if text == "false" => Ok(Recurse::No),
        Some(_) => Err(read::fail(resource, "recurse", "must be true, false or remote; for a depth use recurselimit")),
    }
}

/// Reads `max_files`: 0 only warns in Puppet and -1 does not even that; both are no limit here.
fn max_files(resource: Sketched<'_>) -> Result<Option<usize>, ProviderError> {
    match resource.parameter("max_files") {
        Some(Value::Integer(-1)) => Ok(None),
        Some(Value::String(text)) if text == "-1" => Ok(None),
        _ => Ok(read::count(resource, "max_files")?.filter(|&limit| limit > 0)),
    }
}

fn backup(resource: Sketched<'_>) -> Result<Backup, ProviderError> {
    match resource.parameter("backup") {
        None | Some(Value::Boolean(true)) => Ok(Backup::Store),
        Some(Value::Boolean(false)) => Ok(Backup::No),
        Some(Value::String(text)) => match text.as_str() {
            "true" => Ok(Backup::Store),
            "false" => Ok(Backup::No),
            suffix if suffix.starts_with('.') => {
                let valid = suffix.len() > 1 && suffix.len() < 200 && !suffix.contains(['/', '\0']);
                let reason = "a suffix must be a dot and 1 to 198 bytes without slash and NUL";
                if valid { Ok(Backup::Suffix(suffix.to_owned())) } else { Err(read::fail(resource, "backup", reason)) }
            }
            // The name of a filebucket: there is one, the local store.
            _ => Ok(Backup::Store),
        },
        Some(_) => {
            Err(read::fail(resource, "backup", "must be true, false, a suffix such as \".bak\", or the name of a filebucket"))
        }
    }
}

fn mode(resource: Sketched<'_>) -> Result<Option<Mode>, ProviderError> {
    match resource.parameter("mode") {
        None => Ok(None),
        Some(Value::String(text)) => Mode::parse(text).map(Some).map_err(|reason| read::fail(resource, "mode", reason)),
        Some(_) => Err(read::fail(resource, "mode", "must be a string, as \"0644\": quote the digits")),
    }
}

fn account<'a>(resource: Sketched<'a>, name: &str) -> Result<Option<Account<&'a str>>, ProviderError> {
    let by_id = |id: Option<u32>| {
        // u32::MAX means "leave it" to the system call.
        let id = id.filter(|&id| id != u32::MAX);
        id.map(|id| Some(Account::Id(id))).ok_or_else(|| read::fail(resource, name, "has an id out of range"))
    };
    match resource.parameter(name) {
        None => Ok(None),
        Some(Value::Integer(id)) => by_id(u32::try_from(*id).ok()),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            by_id(text.parse().ok())
        }
        Some(Value::String(text)) if !text.is_empty() && !text.contains([':', '\n', '\0']) => Ok(Some(Account::Name(text))),
        Some(_) => Err(read::fail(resource, name, "must be a name or a numeric id")),
    }
}

fn checksum_value(resource: Sketched<'_>) -> Result<Option<ChecksumValue>, ProviderError> {
    let Some(text) = read::string(resource, "checksum_value")? else { return Ok(None) };
    let kind = read::string(resource, "checksum")?.unwrap_or("sha256");
    ChecksumValue::parse(kind, text).map(Some).map_err(|reason| read::fail(resource, "checksum_value", reason))
}
