//! The parameters of a `User` resource.

use direct_puppet_transport::protocol::{Resource, Value};

use crate::provider::ProviderError;
use crate::provider::accounts::is_valid_name;
use crate::provider::file::read::{self, Sketched};
use crate::provider::record::Ensure;

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "home",
    "uid",
    "gid",
    "comment",
    "shell",
    "password",
    "password_min_age",
    "password_max_age",
    "password_warn_days",
    "groups",
    "membership",
    "system",
    "allowdupe",
    "managehome",
    "expiry",
    "forcelocal",
    "purge_ssh_keys",
    "provider",
];

/// Parameters that mean something on other systems only; Puppet passes them over here too.
pub(super) const ELSEWHERE: &[&str] = &[
    "roles",
    "role_membership",
    "auths",
    "auth_membership",
    "profiles",
    "profile_membership",
    "keys",
    "key_membership",
    "project",
    "ia_load_module",
    "attributes",
    "attribute_membership",
    "salt",
    "iterations",
    "loginclass",
];

/// The primary group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PrimaryGroup {
    Id(u32),
    Name(String),
}

/// When the account expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expiry {
    Never,
    /// `YYYY-MM-DD`.
    On(String),
}

/// Files of keys in which those that no resource manages are purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PurgeKeys {
    No,
    /// The usual file in the home directory.
    Usual,
    /// These files; `~/` and `%h/` stand for the home directory.
    In(Vec<String>),
}

/// A hash, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PasswordHash(pub(super) String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) ensure: Ensure,
    pub(super) name: String,
    pub(super) home: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<PrimaryGroup>,
    pub(super) comment: Option<String>,
    pub(super) shell: Option<String>,
    pub(super) password: Option<PasswordHash>,
    /// `password_min_age`, `password_max_age`, `password_warn_days`, in days.
    pub(super) ages: [Option<i64>; 3],
    pub(super) groups: Option<Vec<String>>,
    /// `membership => inclusive`.
    pub(super) is_inclusive: bool,
    pub(super) expiry: Option<Expiry>,
    pub(super) system: bool,
    pub(super) allow_duplicate: bool,
    pub(super) manage_home: bool,
    pub(super) force_local: bool,
    pub(super) purge_keys: PurgeKeys,
}

/// Reads a field of `/etc/passwd`.
fn field(resource: Sketched<'_>, name: &str) -> Result<Option<String>, ProviderError> {
    match read::text(resource, name)? {
        Some(text) if text.contains([':', '\n', '\0']) => Err(read::fail(resource, name, "must be a single line without colons")),
        other => Ok(other),
    }
}

fn id(resource: Sketched<'_>, name: &str) -> Result<Option<u32>, ProviderError> {
    match read::integer(resource, name)?.map(u32::try_from) {
        None => Ok(None),
        Some(Ok(id)) => Ok(Some(id)),
        Some(Err(_)) => Err(read::fail(resource, name, "must be a number from 0 to 4294967295")),
    }
}

fn primary_group(resource: Sketched<'_>) -> Result<Option<PrimaryGroup>, ProviderError> {
    match resource.parameter("gid").and_then(|value| value.as_str().map(str::to_owned)) {
        Some(name) if !name.bytes().all(|byte| byte.is_ascii_digit()) => match is_valid_name(&name) {
            true => Ok(Some(PrimaryGroup::Name(name))),
            false => Err(read::fail(resource, "gid", "must be the name or the number of a group")),
        },
        _ => Ok(id(resource, "gid")?.map(PrimaryGroup::Id)),
    }
}

fn groups(resource: Sketched<'_>) -> Result<Option<Vec<String>>, ProviderError> {
    let groups = read::texts(resource, "groups")?;
    let is_number = |group: &String| group.bytes().all(|byte| byte.is_ascii_digit());
    if groups.iter().flatten().any(|group| is_number(group) || !is_valid_name(group)) {
        return Err(read::fail(resource, "groups", "must be a list of names of groups; an empty one for none"));
    }
    Ok(groups)
}

fn expiry(resource: Sketched<'_>) -> Result<Option<Expiry>, ProviderError> {
    let is_date = |text: &str| {
        let digits = |range: std::ops::Range<usize>| text.as_bytes()[range].iter().all(u8::is_ascii_digit);
        text.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10) && &text[4..5] == "-" && &text[7..8] == "-"
    };
    match read::string(resource, "expiry")? {
        None => Ok(None),
        Some("absent") => Ok(Some(Expiry::Never)),
        Some(date) if date.is_ascii() && is_date(date) => Ok(Some(Expiry::On(date.to_owned()))),
        Some(_) => Err(read::fail(resource, "expiry", "must be a date as YYYY-MM-DD, or absent")),
    }
}

fn password(resource: Sketched<'_>) -> Result<Option<PasswordHash>, ProviderError> {
    match read::string(resource, "password")? {
        Some(hash) if hash.contains([':', '\n', '\0']) => {
            Err(read::fail(resource, "password", "must be a hash, in which there is no colon"))
        }
        other => Ok(other.map(|hash| PasswordHash(hash.to_owned()))),
    }
}

fn purge_keys(resource: Sketched<'_>) -> Result<PurgeKeys, ProviderError> {
    match resource.parameter("purge_ssh_keys") {
        None => return Ok(PurgeKeys::No),
        Some(value @ (Value::Boolean(_) | Value::String(_))) => match value.as_bool() {
            Some(true) => return Ok(PurgeKeys::Usual),
            Some(false) => return Ok(PurgeKeys::No),
            None => {}
        },
        Some(_) => {}
    }
    let files = read::texts(resource, "purge_ssh_keys")?.unwrap_or_default();
    let is_path = |file: &String| file.starts_with('/') || file.starts_with("~/") || file.starts_with("%h/");
    if files.iter().all(is_path) {
        Ok(PurgeKeys::In(files))
    } else {
        Err(read::fail(resource, "purge_ssh_keys", "must be true, false, or a list of absolute paths"))
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        if resource.parameters.keys().any(|name| !KNOWN.contains(&name.as_str())) {
            let known: Vec<&str> = KNOWN.iter().chain(ELSEWHERE).copied().collect();
            read::only_known(resource, &known)?;
        }
        let declared = resource;
        let resource = Sketched::of(resource);
        let name = read::name(resource)?;
        if !is_valid_name(&name) {
            return Err(read::fail(resource, "name", "must be the name of a user"));
        }
        let memberships = [("inclusive", true), ("minimum", false)];
        Ok(Self {
            ensure: Ensure::read(declared)?,
            name,
            home: field(resource, "home")?,
            uid: id(resource, "uid")?,
            gid: primary_group(resource)?,
            comment: field(resource, "comment")?,
            shell: field(resource, "shell")?,
            password: password(resource)?,
            ages: [
                read::integer(resource, "password_min_age")?,
                read::integer(resource, "password_max_age")?,
                read::integer(resource, "password_warn_days")?,
            ],
            groups: groups(resource)?,
            is_inclusive: read::choice(resource, "membership", &memberships)?.unwrap_or(false),
            expiry: expiry(resource)?,
            system: read::boolean(resource, "system", false)?,
            allow_duplicate: read::boolean(resource, "allowdupe", false)?,
            manage_home: read::boolean(resource, "managehome", false)?,
            force_local: read::boolean(resource, "forcelocal", false)?,
            purge_keys: purge_keys(resource)?,
        })
    }
}
