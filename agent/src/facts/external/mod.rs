//! External facts: what an administrator, or a program of theirs, says of this node.
//!
//! A directory's files are read in the order of their names; a later one wins over an earlier one, and a directory over those
//! after it. `name.txt` holds lines `name=value`, `name.json` and `name.yaml` one hash; any other file that can be executed is run,
//! and prints either. Other files and hidden ones are passed over. What is wrong with one file is logged, with its path; the
//! others go on.

mod execute;
mod parse;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Facts;
use super::tree::read_regular;
use crate::apply::error_chain;
use crate::system::Environment;

/// How long one executable may take, unless told otherwise.
pub const EXTERNAL_TIME_LIMIT: Duration = Duration::from_secs(30);

/// Longest file, and longest output of an executable, in bytes.
pub const MAX_EXTERNAL_BYTES: usize = 1 << 20;

/// Where root's facts are looked for, as Facter does.
const SYSTEM_DIRS: [&str; 3] = ["/etc/puppetlabs/facter/facts.d", "/etc/facter/facts.d", "/opt/puppetlabs/facter/facts.d"];

/// Where those of others are looked for, below their home.
const HOME_DIRS: [&str; 2] = [".facter/facts.d", ".puppetlabs/opt/facter/facts.d"];

/// Extensions that Facter executes on Windows only.
const NEVER_RUN: [&str; 4] = ["bat", "cmd", "com", "exe"];

/// Where external facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFacts {
    /// Directories beside Facter's usual ones; they win over those. Default: none.
    pub dirs: Vec<PathBuf>,
    /// Look into Facter's usual directories. Default: true.
    pub usual_dirs: bool,
    /// How long one executable may take. Default: [`EXTERNAL_TIME_LIMIT`].
    pub time_limit: Duration,
}

impl Default for ExternalFacts {
    fn default() -> Self {
        Self { dirs: Vec::new(), usual_dirs: true, time_limit: EXTERNAL_TIME_LIMIT }
    }
}

/// Why a file has no facts.
#[derive(Debug, thiserror::Error)]
enum ExternalError {
    #[error("could not read it")]
    Read(#[source] io::Error),
    #[error("it is not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("it is not valid YAML")]
    Yaml(#[source] serde_saphyr::Error),
    #[error("it holds no hash of names to values")]
    NoHash,
    #[error("its output is neither a hash in YAML or JSON nor lines name=value")]
    Output,
    #[error(transparent)]
    Execute(#[from] execute::ExecuteError),
}

/// What a file is, by its name and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
    Yaml,
    Executable,
}

impl ExternalFacts {
    /// Reads and runs all there is. Blocking; each executable at most [`ExternalFacts::time_limit`].
    pub(super) fn gather(&self, uid: u32, environment: &Environment) -> Facts {
        if environment.inside_facter {
            tracing::warn!("external facts are left out: an external fact asked for them");
            return Facts::new();
        }
        let mut facts = Facts::new();
        for dir in self.all_dirs(uid, environment.home.as_deref()).iter().rev() {
            for path in files(dir) {
                facts.extend(self.of_file(&path));
            }
        }
        facts
    }

    /// Returns the directories, the one that wins first.
    fn all_dirs(&self, uid: u32, home: Option<&Path>) -> Vec<PathBuf> {
        let usual: Vec<PathBuf> = match (self.usual_dirs, uid, home) {
            (false, ..) | (true, 1.., None) => Vec::new(),
            (true, 0, _) => SYSTEM_DIRS.iter().map(PathBuf::from).collect(),
            (true, _, Some(home)) => HOME_DIRS.iter().map(|dir| home.join(dir)).collect(),
        };
        self.dirs.iter().cloned().chain(usual).collect()
    }

    fn of_file(&self, path: &Path) -> Facts {
        let facts = match kind(path) {
            Ok(Some(Kind::Executable)) => self.of_executable(path),
            Ok(Some(kind)) => of_text(path, kind),
            Ok(None) => return Facts::new(),
            Err(error) => Err(ExternalError::Read(error)),
        };
        facts.unwrap_or_else(|error| {
            let reason = error_chain(&error);
            tracing::warn!("external facts in {} are left out: {reason}", path.display());
            Facts::new()
        })
    }

    fn of_executable(&self, path: &Path) -> Result<Facts, ExternalError> {
        let output = execute::run(path, self.time_limit, MAX_EXTERNAL_BYTES)?;
        if !output.stderr.trim().is_empty() {
            tracing::warn!("external fact {} wrote to standard error: {}", path.display(), output.stderr.trim());
        }
        if !output.status.success() {
            // As Facter: what it printed counts all the same.
            tracing::warn!("external fact {} ended with {}", path.display(), output.status);
        }
        parse::output(&output.stdout)
    }
}

fn of_text(path: &Path, kind: Kind) -> Result<Facts, ExternalError> {
    let bytes = read_regular(path, MAX_EXTERNAL_BYTES).map_err(ExternalError::Read)?;
    let text = String::from_utf8_lossy(&bytes);
    match kind {
        Kind::Json => parse::json(&text),
        Kind::Yaml => parse::yaml(&text),
        Kind::Text | Kind::Executable => Ok(parse::key_values(&text)),
    }
}

/// Lists the files of a directory by name; a directory that is not there has none.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("external facts in {} are left out: {error}", dir.display());
            return Vec::new();
        }
    };
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| !is_hidden(path)).collect();
    paths.sort_unstable();
    paths
}

fn kind(path: &Path) -> io::Result<Option<Kind>> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default();
    Ok(match extension.as_str() {
        "txt" => Some(Kind::Text),
        "json" => Some(Kind::Json),
        "yaml" => Some(Kind::Yaml),
        extension if NEVER_RUN.contains(&extension) => None,
        _ => {
            let metadata = fs::metadata(path)?;
            (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(Kind::Executable)
        }
    })
}
