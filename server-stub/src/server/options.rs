//! What a server is made from.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::protocol::Environment;

use crate::compile::{AutomaticCompiler, Compiler, PuppetCompiler, PuppetOptions};
use crate::error::ServerError;
use crate::replica::AllowedReplica;
use crate::role::Peers;
use crate::shared::Sharing;

/// Where staged code is.
#[derive(Debug, Clone)]
pub enum Staging {
    /// `<dir>/environments/<environment>/…`, as Puppet's code directory.
    Environments(PathBuf),
    /// One directory that is an environment itself.
    Single {
        /// The environment.
        environment: Environment,
        /// Its directory.
        dir: PathBuf,
    },
    /// Nowhere: this server publishes nothing of its own.
    Nowhere,
}

impl Staging {
    /// Returns the staging that `site` is: with a `site.yaml` it is `environment` itself, else it holds environments.
    #[must_use]
    pub fn of_site(site: &Path, environment: &Environment) -> Self {
        if site.join("site.yaml").exists() {
            Self::Single { environment: environment.clone(), dir: site.to_owned() }
        } else {
            Self::Environments(site.to_owned())
        }
    }

    /// Returns where an environment is staged; `None` if it cannot be.
    pub(crate) fn dir_of(&self, wanted: &Environment) -> Option<PathBuf> {
        match self {
            Self::Environments(dir) => Some(dir.join("environments").join(wanted.as_str())),
            Self::Single { environment, dir } => (environment == wanted).then(|| dir.clone()),
            Self::Nowhere => None,
        }
    }

    /// Returns the environments that are staged, by name: there is at least one; and what else is there and is none, with the reason,
    /// which is warned of. Blocking.
    pub(crate) fn environments(&self) -> Result<(Vec<Environment>, Vec<String>), ServerError> {
        match self {
            Self::Single { environment, .. } => Ok((vec![environment.clone()], Vec::new())),
            Self::Nowhere => Err(ServerError::NoStaging),
            Self::Environments(dir) => {
                let path = dir.join("environments");
                let (found, passed_over) =
                    staged_in(&path).map_err(|source| ServerError::Staging { path: path.clone(), source })?;
                for (dir, reason) in &passed_over {
                    tracing::warn!(?dir, "what is in staging is not published: {reason}, or move it out of staging");
                }
                let told =
                    passed_over.iter().map(|(dir, reason)| format!("{} is not published: {reason}", dir.display())).collect();
                if found.is_empty() { Err(ServerError::NothingStaged { path }) } else { Ok((found, told)) }
            }
        }
    }
}

/// A directory, or a link, and why it is no environment.
type NoEnvironment = (PathBuf, String);

/// Returns the environments that are staged in a directory, and the directories there that are none and why, both by name. Hidden
/// ones are the tools' own. Blocking.
fn staged_in(path: &Path) -> io::Result<(Vec<Environment>, Vec<NoEnvironment>)> {
    let (mut found, mut passed_over) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if !metadata.is_dir() => {}
            Ok(_) => match name.parse::<Environment>() {
                Ok(environment) => found.push(environment),
                // A deploy tool has just removed it.
                Err(_) if entry.path().symlink_metadata().is_err() => {}
                Err(error) => passed_over.push((entry.path(), error.to_string())),
            },
            Err(error) => passed_over.push((entry.path(), format!("it cannot be looked at ({error}): mend the link"))),
        }
    }
    found.sort();
    passed_over.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok((found, passed_over))
}

/// What a server is made from.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where code is staged.
    pub staging: Staging,
    /// What makes catalogs. Default: the built-in compiler for environments with a `site.yaml`, Puppet's for the others.
    pub compiler: Arc<dyn Compiler>,
    /// How many catalogs are compiled at once. Default: one per core.
    pub compile_workers: usize,
    /// How many packs of contents are made at once, for all nodes together. Default: half the cores, at least one, so that nodes that only
    /// check in find a core.
    pub pack_workers: usize,
    /// How many reports are kept for each node. Default: 100.
    pub reports_per_node: usize,
    /// What nodes may fill of the disk with reports and buckets, in bytes; over it the oldest goes, of those nodes that have the most.
    /// Default: a quarter of the disk.
    pub max_node_bytes: Option<u64>,
    /// What reports and buckets leave free of the disk, in bytes, so that code has room: where there is less they grow no more, and what has
    /// no room instead of others is refused for now.
    /// Default: a twentieth of the disk, at most 1 GiB.
    pub keep_free_bytes: Option<u64>,
    /// The servers that may follow this one, and what of its code each may have. Default: none.
    pub replicas: Vec<AllowedReplica>,
    /// Servers of which one is the primary that this server follows; then it publishes nothing itself, until it is promoted.
    /// Default: none.
    pub primary: Option<Peers>,
    /// On a primary: servers that may be promoted in its place. They are asked whenever it starts, before it answers. Default: none.
    pub successors: Option<Peers>,
    /// On a replica: for how long what was last confirmed is still answered when no primary can be asked. Default: not at all.
    pub unconfirmed_for: Duration,
    /// A store that this server shares with others, which are then its equals; neither `primary` nor `successors` is given then. The
    /// server must be opened within a tokio runtime of several threads. Default: none.
    pub sharing: Option<Sharing>,
    /// How long contents stay in a shared store, when the store is collected, after any server last put or looked for them. A publish or
    /// a compile names what it has put at the latest after this. Default: a day.
    pub shared_contents_stay_for: Duration,
    /// For a single act of an administrator while no server runs: the other servers are those that the server was last run with, which
    /// cannot be asked, and what needs their word is refused. Default: no.
    pub is_offline: bool,
}

impl ServerOptions {
    /// Returns defaults for these directories.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, staging: Staging) -> Self {
        let data_dir = data_dir.into();
        let puppet = PuppetCompiler::new(PuppetOptions::new(PuppetOptions::dir_in(&data_dir)));
        Self {
            data_dir,
            staging,
            compiler: Arc::new(AutomaticCompiler::new(puppet)),
            compile_workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            pack_workers: std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1),
            reports_per_node: 100,
            max_node_bytes: None,
            keep_free_bytes: None,
            replicas: Vec::new(),
            primary: None,
            successors: None,
            unconfirmed_for: Duration::ZERO,
            sharing: None,
            shared_contents_stay_for: Duration::from_secs(24 * 3600),
            is_offline: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::log::Log;

    #[test]
    fn a_directory_whose_name_is_none_of_an_environment_is_passed_over_and_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let environments = dir.path().join("environments");
        for name in ["production", "UP-per", "a.b", "feature-x", "Upper_1", ".cache"] {
            std::fs::create_dir_all(environments.join(name)).unwrap();
        }
        std::fs::write(environments.join("read-me"), "a file").unwrap();
        std::os::unix::fs::symlink("/nonexistent", environments.join("gone")).unwrap();
        let (found, passed_over) = staged_in(&environments).unwrap();
        assert_eq!(found.iter().map(Environment::as_str).collect::<Vec<_>>(), ["Upper_1", "production"]);
        let paths: Vec<_> = passed_over.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(paths, ["UP-per", "a.b", "feature-x", "gone"].map(|name| environments.join(name)));
        let log = Log::new();
        let staging = Staging::Environments(dir.path().to_owned());
        let (listed, told) = log.of(|| staging.environments()).unwrap();
        assert_eq!((listed, told.len()), (found, 4));
        assert!(told[3].contains("environments/gone is not published: it cannot be looked at"), "{told:?}");
        let text = log.take();
        assert_eq!((text.lines().count(), text.matches("WARN").count()), (4, 4), "{text}");
        for (line, name) in text.lines().zip(["UP-per", "a.b", "feature-x"]) {
            let dir = format!("environments/{name}\"");
            assert!(line.contains(&dir) && line.contains("letters, digits and underscores"), "{line}");
        }
        std::fs::remove_dir(environments.join("production")).unwrap();
        std::fs::remove_dir(environments.join("Upper_1")).unwrap();
        assert!(matches!(staging.environments(), Err(ServerError::NothingStaged { .. })));
    }
}
