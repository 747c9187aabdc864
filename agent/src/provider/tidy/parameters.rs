//! The parameters of a `Tidy` resource.

use std::time::Duration;

use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use crate::glob::Glob;
use crate::provider::ProviderError;
use crate::provider::file::read;

const KNOWN: &[&str] = &["path", "recurse", "max_files", "matches", "backup", "age", "size", "type", "rmdirs", "provider"];

const DAY_SECONDS: u64 = 24 * 3600;

/// Which time tells the age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgeOf {
    Access,
    Modification,
    Change,
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) path: TreePath,
    /// How many levels down; 0 for the path alone, `None` for all.
    pub(super) depth: Option<usize>,
    /// Most entries that may be found; 0 for no limit.
    pub(super) max_files: usize,
    pub(super) matches: Option<Vec<Glob>>,
    /// Whether what goes is kept in the store.
    pub(super) backup: bool,
    pub(super) age: Option<Duration>,
    pub(super) size_bytes: Option<u64>,
    pub(super) age_of: AgeOf,
    pub(super) remove_directories: bool,
}

/// Reads a number and the first letter of what follows it; the letter in front of `units` stands where there is none.
fn scaled(resource: &Resource, name: &str, default: char, units: &[(char, u64)]) -> Result<Option<u64>, ProviderError> {
    let Some(text) = read::text(resource, name)? else { return Ok(None) };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.chars().next().unwrap_or(default).to_ascii_lowercase();
    let factor = units.iter().find(|(letter, _)| *letter == unit).map(|(_, factor)| *factor);
    let value = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    let letters: Vec<String> = units.iter().map(|(letter, _)| letter.to_string()).collect();
    value.map(Some).ok_or_else(|| read::fail(resource, name, format!("must be a number and one of {}", letters.join(", "))))
}

fn depth(resource: &Resource) -> Result<Option<usize>, ProviderError> {
    let fail = || read::fail(resource, "recurse", "must be true, false, inf or a number of levels");
    match resource.parameter("recurse") {
        None => Ok(Some(0)),
        Some(value) => match (value.as_bool(), value.as_str(), read::number(value)) {
            (Some(true), ..) | (_, Some("inf"), _) => Ok(None),
            (Some(false), ..) => Ok(Some(0)),
            (None, _, Some(levels)) => usize::try_from(levels).map(Some).map_err(|_| fail()),
            _ => Err(fail()),
        },
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let path = match read::path(resource, "path")? {
            Some(path) => path,
            None => read::absolute_path(&resource.title).map_err(|reason| read::fail(resource, "path", reason))?,
        };
        if path.is_root() {
            return Err(read::fail(resource, "path", "must not be the root of everything"));
        }
        let depth = depth(resource)?;
        let matches = read::texts(resource, "matches")?;
        if matches.is_some() && depth == Some(0) {
            return Err(read::fail(resource, "matches", "can only be used together with recurse"));
        }
        let seconds = [('s', 1), ('m', 60), ('h', 3600), ('d', DAY_SECONDS), ('w', 7 * DAY_SECONDS)];
        let bytes = [('b', 1), ('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30), ('t', 1 << 40)];
        let times = [("atime", AgeOf::Access), ("mtime", AgeOf::Modification), ("ctime", AgeOf::Change)];
        Ok(Self {
            path,
            depth,
            max_files: read::count(resource, "max_files")?.unwrap_or(0),
            matches: matches.map(|patterns| patterns.iter().map(|pattern| Glob::parse(pattern)).collect()),
            backup: resource.parameter("backup").is_some_and(|backup| !matches!(backup.opened(), Value::Boolean(false))),
            age: scaled(resource, "age", 'd', &seconds)?.map(Duration::from_secs),
            size_bytes: scaled(resource, "size", 'k', &bytes)?,
            age_of: read::choice(resource, "type", &times)?.unwrap_or(AgeOf::Access),
            remove_directories: read::boolean(resource, "rmdirs", false)?,
        })
    }
}
