//! What was ever live, and what became of it.
//!
//! `history.jsonl` beside the manifests of an environment has a line for each version; `collected.jsonl` one for each code whose manifest was
//! removed, so that its absence is no damage.

use std::collections::HashSet;
use std::path::Path;
use std::time::SystemTime;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::{CodeId, Environment, Manifest, VersionCounter};
use serde::{Deserialize, Serialize};

use super::manifests::manifest_path;
use super::{Environments, HISTORY, LiveFile, Version};
use crate::disk;
use crate::error::{ServerError, chain};

/// Codes whose manifests were collected.
const COLLECTED: &str = "collected.jsonl";

#[derive(Debug, Serialize, Deserialize)]
struct Forgotten {
    code_id: CodeId,
    time_unix_seconds: u64,
}

impl Environments {
    /// Removes the manifest of a code that is not live, and says so first. Blocking.
    pub(crate) fn forget(&self, environment: &Environment, code_id: CodeId) -> Result<(), ServerError> {
        let dir = self.dir(environment);
        disk::append_json(&dir.join(COLLECTED), &Forgotten { code_id, time_unix_seconds: crate::server::now() })?;
        let path = manifest_path(&dir, code_id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FsError::new(&path, "remove", error).into()),
            _ => Ok(()),
        }
    }

    /// Returns the codes that were collected, and not published again since. Blocking.
    pub(crate) fn collected(&self, environment: &Environment) -> Result<HashSet<CodeId>, ServerError> {
        let dir = self.dir(environment);
        let forgotten: Vec<Forgotten> = disk::read_json_lines(&dir.join(COLLECTED))?;
        let codes = forgotten.into_iter().map(|forgotten| forgotten.code_id);
        Ok(codes.filter(|code_id| !manifest_path(&dir, *code_id).exists()).collect())
    }

    /// Shows what is in each version that is kept of some environments, until `look` says that it has seen enough: what is live first, then the newest. What
    /// cannot be read is passed over with a warning. Blocking.
    pub(crate) fn look_through(&self, is_meant: impl Fn(&Environment) -> bool, mut look: impl FnMut(&Manifest) -> bool) {
        let mut live = self.all_live();
        live.retain(|code| is_meant(&code.version.environment));
        if live.iter().any(|code| look(&code.manifest)) {
            return;
        }
        for environment in self.all_last().into_iter().map(|last| last.environment).filter(&is_meant) {
            let mut seen: HashSet<CodeId> = live.iter().map(|code| code.version.code_id).collect();
            let history = self.history(&environment).unwrap_or_else(|error| {
                tracing::warn!("{}", chain(&error));
                Vec::new()
            });
            for version in history.into_iter().rev().filter(|version| seen.insert(version.code_id)) {
                match self.manifest(&environment, version.code_id) {
                    Ok(Some(manifest)) if look(&manifest) => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!("{}", chain(&error)),
                }
            }
        }
    }

    /// Returns the history of an environment, oldest first. Blocking.
    pub(crate) fn history(&self, environment: &Environment) -> Result<Vec<Version>, ServerError> {
        let path = self.dir(environment).join(HISTORY);
        let mut history: Vec<Version> = disk::read_json_lines(&path)?;
        // The switch was made and its line could not be written.
        if let Some(live) = self.live(environment)
            && history.last().is_none_or(|last| last.version < live.version.version)
        {
            history.push(live.version.clone());
        }
        // Lines of what was published elsewhere were written when it was heard of.
        history.sort_by_key(|version| version.version);
        history.dedup_by_key(|version| version.version);
        Ok(history)
    }

    /// Writes lines of versions that were published elsewhere and never live here. Blocking.
    pub(crate) fn learn(&self, environment: &Environment, versions: &[Version]) -> Result<(), ServerError> {
        let known: HashSet<VersionCounter> = self.history(environment)?.iter().map(|version| version.version).collect();
        let path = self.dir(environment).join(HISTORY);
        for version in versions.iter().filter(|version| !known.contains(&version.version)) {
            disk::append_json(&path, version)?;
        }
        Ok(())
    }

    /// Returns the numbers of the lines of the history that cannot be read; a last one that was cut off is not counted. Blocking.
    pub(crate) fn damaged_lines(&self, environment: &Environment) -> Result<Vec<usize>, ServerError> {
        disk::damaged_json_lines::<Version>(&self.dir(environment).join(HISTORY))
    }

    /// Returns the codes whose manifests are on the disk though none of `known` has them, with when they were written, in seconds since 1970
    /// UTC: their line in the history is damaged, or a publish did not come to its end. Blocking.
    pub(crate) fn unnamed(&self, environment: &Environment, known: &HashSet<CodeId>) -> Result<Vec<(CodeId, u64)>, ServerError> {
        let dir = self.dir(environment).join("manifests");
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let mut unnamed = Vec::new();
        for entry in disk::entries(&dir)? {
            let name = entry.file_name();
            let Some(code_id) = name.to_str().and_then(|hex| format!("blake3:{hex}").parse::<CodeId>().ok()) else { continue };
            if known.contains(&code_id) {
                continue;
            }
            let written = entry.metadata().and_then(|found| found.modified());
            let written = written.map_err(|error| FsError::new(&entry.path(), "look at", error))?;
            let age = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            unnamed.push((code_id, age.as_secs()));
        }
        Ok(unnamed)
    }
}

/// Returns what was last live in an environment, as far as any file of it can still be read.
pub(super) fn last_version(dir: &Path) -> Option<Version> {
    let live = disk::read_json::<LiveFile>(&dir.join("live.json")).ok().flatten().map(|live| live.version);
    let history: Vec<Version> = disk::read_json_lines(&dir.join(HISTORY)).unwrap_or_default();
    live.into_iter().chain(history).max_by_key(|version| version.version)
}

/// Whether something was live in an environment: there are a manifest and a history. Blocking.
pub(super) fn was_live(dir: &Path) -> Result<bool, ServerError> {
    let manifests = dir.join("manifests");
    let has_manifest = manifests.is_dir() && !disk::entries(&manifests)?.is_empty();
    Ok(has_manifest && !disk::read_json_lines::<Version>(&dir.join(HISTORY))?.is_empty())
}

/// Whether a history has the line of a version. Blocking.
pub(super) fn has_line(path: &Path, version: &Version) -> Result<bool, ServerError> {
    Ok(disk::read_json_lines::<Version>(path)?.iter().any(|line| line.version == version.version))
}

/// Ends what a crash in the middle of [`Environments::switch`] left: half a line is cut off, and the live version gets its line.
pub(super) fn mend(path: &Path, live: &Version) -> Result<(), ServerError> {
    disk::cut_torn_line(path)?;
    let history: Vec<Version> = disk::read_json_lines(path)?;
    if history.last().is_none_or(|last| last.version < live.version) {
        disk::append_json(path, live)?;
    }
    Ok(())
}
