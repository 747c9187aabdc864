//! What is known of catalogs beside what they say to a node: where their contents are, and what the server called them.
//!
//! ```text
//! <state dir>/puppet-server/<64 hex of the catalog id>.json    of the last catalog, and of the one that the node held then
//!                          /environment.json                    where the server put this node when it was last asked
//! ```
//!
//! Anything else in these files counts as nothing known: then a cached catalog is applied with the contents that are here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use direct_puppet_agent::ContentPlace;
use direct_puppet_agent::fs::{FsError, ensure_private_dir, write_state};
use direct_puppet_transport::protocol::{CatalogId, Digest, Environment};
use serde::{Deserialize, Serialize};

/// Format of the files.
const FORMAT: u32 = 1;

/// What is known of one catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The catalog.
    pub catalog_id: CatalogId,
    /// The environment that it was compiled in.
    pub environment: Environment,
    /// The `version`.
    #[serde(default)]
    pub version: Option<String>,
    /// The `code_id`; `None` where the server has no versioned code.
    #[serde(default)]
    pub code_id: Option<String>,
    /// The `catalog_uuid`.
    #[serde(default)]
    pub catalog_uuid: Option<String>,
    /// By digest, the `content_uri` of what is static.
    #[serde(default)]
    pub statics: BTreeMap<Digest, String>,
    /// By digest, the source of what is not.
    #[serde(default)]
    pub mounts: BTreeMap<Digest, String>,
}

impl Known {
    /// Returns where a content is.
    #[must_use]
    pub fn place(&self, digest: &Digest) -> Option<ContentPlace> {
        let fixed = self.statics.get(digest).map(|uri| ContentPlace::Static(uri.clone()));
        fixed.or_else(|| self.mounts.get(digest).map(|uri| ContentPlace::Mount(uri.clone())))
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    known: Known,
}

#[derive(Serialize, Deserialize)]
struct Placed {
    format: u32,
    requested: Environment,
    environment: Environment,
}

/// Everything that is known, newest first; on disk where there is a directory for it.
#[derive(Debug)]
pub(crate) struct Places {
    dir: Option<PathBuf>,
    /// `None` until it was read.
    known: Mutex<Option<Vec<Known>>>,
}

impl Places {
    pub(crate) fn new(state_dir: Option<&Path>) -> Self {
        Self { dir: state_dir.map(|dir| dir.join("puppet-server")), known: Mutex::new(None) }
    }

    /// Looks through what is known. Blocking, for a moment.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&[Known]) -> R) -> R {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        look(known.get_or_insert_with(|| self.dir.as_deref().map(load).unwrap_or_default()))
    }

    /// Takes in what is known of a catalog, and forgets all others but the one that is `held`. Blocking.
    pub(crate) fn put(&self, new: Known, held: Option<CatalogId>) -> Result<(), FsError> {
        let kept = self.look(|known| {
            let is_kept = |known: &&Known| Some(known.catalog_id) == held && known.catalog_id != new.catalog_id;
            known.iter().find(is_kept).cloned()
        });
        let all: Vec<Known> = [Some(new), kept].into_iter().flatten().collect();
        if let Some(dir) = &self.dir {
            ensure_private_dir(dir)?;
            for known in all.iter().take(1) {
                let text = serde_json::to_vec(&Record { format: FORMAT, known: known.clone() }).unwrap_or_default();
                write_state(&dir.join(file_name(known.catalog_id)), &text, 0o600)?;
            }
            prune(dir, &all);
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        Ok(())
    }

    /// Remembers where the server put this node. Blocking.
    pub(crate) fn put_environment(&self, requested: &Environment, environment: &Environment) -> Result<(), FsError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        if self.environment(requested).as_ref() == Some(environment) {
            return Ok(());
        }
        ensure_private_dir(dir)?;
        let placed = Placed { format: FORMAT, requested: requested.clone(), environment: environment.clone() };
        write_state(&dir.join("environment.json"), &serde_json::to_vec(&placed).unwrap_or_default(), 0o600)
    }

    /// Returns where the server put this node when it last asked to be in `requested`. Blocking.
    pub(crate) fn environment(&self, requested: &Environment) -> Option<Environment> {
        let text = std::fs::read(self.dir.as_ref()?.join("environment.json")).ok()?;
        let placed: Placed = serde_json::from_slice(&text).ok()?;
        (placed.format == FORMAT && placed.requested == *requested).then_some(placed.environment)
    }
}

fn file_name(id: CatalogId) -> String {
    format!("{}.json", id.digest().to_hex())
}

/// Reads what is on disk, newest first.
fn load(dir: &Path) -> Vec<Known> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let record = std::fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        found.extend(record.filter(|record| record.format == FORMAT).map(|record| (changed, record.known)));
    }
    found.sort_by_key(|(changed, _)| std::cmp::Reverse(*changed));
    found.into_iter().map(|(_, known)| known).collect()
}

/// Removes what is of other catalogs; what cannot be removed now is removed next time.
fn prune(dir: &Path, kept: &[Known]) {
    let kept: Vec<String> = kept.iter().map(|known| file_name(known.catalog_id)).collect();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_old = name.len() == kept.first().map_or(0, String::len) && !kept.contains(&name);
        if is_old && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "what is known of an old catalog stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: u8) -> Known {
        let digest = Digest::of(&[number]);
        Known {
            catalog_id: CatalogId::of(&[number]),
            environment: Environment::default(),
            version: Some(number.to_string()),
            code_id: None,
            catalog_uuid: None,
            statics: BTreeMap::new(),
            mounts: BTreeMap::from([(digest, format!("puppet:///m/{number}"))]),
        }
    }

    #[test]
    fn the_last_catalog_and_the_one_held_are_known_to_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(Some(dir.path()));
        places.put(known(1), None).unwrap();
        places.put(known(2), Some(known(1).catalog_id)).unwrap();
        places.put(known(3), Some(known(2).catalog_id)).unwrap();
        let again = Places::new(Some(dir.path()));
        let mut versions = again.look(|known| known.iter().map(|known| known.version.clone().unwrap()).collect::<Vec<_>>());
        versions.sort();
        assert_eq!(versions, ["2", "3"]);
        let place = again.look(|known| known.iter().find_map(|known| known.place(&Digest::of(&[3]))));
        assert_eq!(place, Some(ContentPlace::Mount("puppet:///m/3".to_owned())));
    }

    #[test]
    fn damage_is_nothing_known() {
        let dir = tempfile::tempdir().unwrap();
        Places::new(Some(dir.path())).put(known(1), None).unwrap();
        let file = dir.path().join("puppet-server").join(file_name(known(1).catalog_id));
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert_eq!(Places::new(Some(dir.path())).look(<[Known]>::len), 0);
    }

    #[test]
    fn an_environment_is_remembered_for_the_one_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(Some(dir.path()));
        let (production, test): (Environment, Environment) = (Environment::default(), "test".parse().unwrap());
        assert_eq!(places.environment(&production), None);
        places.put_environment(&production, &test).unwrap();
        assert_eq!((places.environment(&production), places.environment(&test)), (Some(test), None));
    }
}
