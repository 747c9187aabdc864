//! The parameters of a `Mount` resource.

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::fstab::clean;
use crate::provider::ProviderError;
use crate::provider::file::read;

const KNOWN: &[&str] =
    &["ensure", "name", "device", "blockdevice", "fstype", "options", "pass", "atboot", "dump", "target", "remounts", "provider"];
const DEFAULT_TARGET: &str = "/etc/fstab";

/// What there shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ensure {
    /// An entry, mounted or not.
    Defined,
    Mounted,
    Unmounted,
    Absent,
}

impl Ensure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Defined => "defined",
            Self::Mounted => "mounted",
            Self::Unmounted => "unmounted",
            Self::Absent => "absent",
        }
    }
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    /// `None` when only properties of an entry that is there are managed.
    pub(super) ensure: Option<Ensure>,
    pub(super) name: String,
    pub(super) device: Option<String>,
    pub(super) fstype: Option<String>,
    pub(super) options: Option<String>,
    pub(super) pass: i64,
    pub(super) dump: i64,
    pub(super) target: TreePath,
    /// Whether `mount -o remount` will do.
    pub(super) remounts: bool,
}

/// Reads a field that has no blanks.
fn word(resource: &Resource, name: &str) -> Result<Option<String>, ProviderError> {
    match read::text(resource, name)? {
        Some(text) if text.is_empty() || text.contains(char::is_whitespace) => {
            Err(read::fail(resource, name, "must not be empty and not contain whitespace"))
        }
        other => Ok(other),
    }
}

/// Reads a field in which blanks can be written.
fn field(resource: &Resource, name: &str, text: &str) -> Result<(), ProviderError> {
    let is_odd = text.is_empty() || text.starts_with(['-', '#']) || text.contains(|c: char| c.is_whitespace() && c != ' ');
    if is_odd {
        Err(read::fail(resource, name, "must not be empty, begin with - or #, or contain line feeds or tabs"))
    } else {
        Ok(())
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let words = [
            ("defined", Ensure::Defined),
            ("present", Ensure::Defined),
            ("mounted", Ensure::Mounted),
            ("unmounted", Ensure::Unmounted),
            ("absent", Ensure::Absent),
        ];
        let name = clean(&read::name(resource)?).to_owned();
        field(resource, "name", &name)?;
        let device = read::text(resource, "device")?;
        device.iter().try_for_each(|device| field(resource, "device", device))?;
        let number = |name: &str, highest: i64| match read::integer(resource, name)?.unwrap_or(0) {
            number if (0..=highest).contains(&number) => Ok(number),
            _ => Err(read::fail(resource, name, format!("must be a number from 0 to {highest}"))),
        };
        read::boolean(resource, "atboot", true)?;
        Ok(Self {
            ensure: read::choice(resource, "ensure", &words)?,
            name,
            device,
            fstype: word(resource, "fstype")?,
            options: word(resource, "options")?,
            pass: number("pass", i64::from(i32::MAX))?,
            dump: number("dump", 1)?,
            target: match read::path(resource, "target")? {
                Some(target) => target,
                // The constant is a valid path.
                None => TreePath::from_absolute(DEFAULT_TARGET.as_bytes()).unwrap_or_default(),
            },
            remounts: read::boolean(resource, "remounts", true)?,
        })
    }
}
