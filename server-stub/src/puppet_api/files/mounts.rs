//! Where the file server of Puppet has its files, in the published manifest.
//!
//! | Mount | files |
//! | --- | --- |
//! | `modules/<module>/<path>` | `<module>/files/<path>` |
//! | `scripts/<module>/<path>` | `<module>/scripts/<path>` |
//! | `tasks/<module>/<path>` | `<module>/tasks/<path>` |
//! | `plugins/<path>` | `lib/<path>` of all modules |
//! | `pluginfacts/<path>` | `facts.d/<path>` of all modules |
//! | `locales/<path>` | `locales/<path>` of all modules |
//!
//! Modules are in the directories that `modulepath` in `environment.conf` names, as far as they are below the environment: the first that
//! has one counts. What stands outside is not published, and not served.

use std::collections::HashSet;

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{EntryKind, Manifest, ManifestEntry, TreePath};

use super::at;
use crate::code::links;
use crate::error::ServerError;
use crate::puppet_api::answer::Failure;

/// Longest `environment.conf`, in bytes.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// The mounts of one version.
pub(in crate::puppet_api) struct Mounts<'a> {
    manifest: &'a Manifest,
    /// Directories with modules, the first first.
    modulepath: Vec<TreePath>,
}

impl<'a> Mounts<'a> {
    /// Reads where modules are. Blocking.
    pub(in crate::puppet_api) fn of(manifest: &'a Manifest, store: &Store) -> Result<Self, Failure> {
        let settings = match at(manifest, "environment.conf").map(|entry| &entry.kind) {
            Some(EntryKind::File { digest, .. }) => {
                let settings = store.read(digest, MAX_SETTINGS_BYTES).map_err(ServerError::from)?;
                // Without it files of other modules would be found, and remembered.
                let gone = || {
                    Failure::server(
                        "environment.conf of the published code is damaged on this server: try again, or ask another one",
                    )
                };
                Some(settings.ok_or_else(gone)?)
            }
            _ => None,
        };
        let settings = settings.as_deref().map(String::from_utf8_lossy);
        Ok(Self { manifest, modulepath: modulepath(settings.as_deref().unwrap_or_default()) })
    }

    /// Returns what is at a path of a mount; a link at its end is not followed.
    pub(in crate::puppet_api) fn find(&self, path: &str) -> Option<&'a ManifestEntry> {
        self.find_all(path).into_iter().next()
    }

    /// As [`Mounts::find`], in every module that has it where a mount is that of all modules.
    pub(in crate::puppet_api) fn find_all(&self, path: &str) -> Vec<&'a ManifestEntry> {
        let (mount, rest) = path.split_once('/').unwrap_or((path, ""));
        if let Some(below) = of_all_modules(mount) {
            return self.modules().iter().filter_map(|module| self.look_up(module, below, rest)).collect();
        }
        let below = match mount {
            "modules" => "files",
            "scripts" | "tasks" => mount,
            _ => return Vec::new(),
        };
        let (module, rest) = rest.split_once('/').unwrap_or((rest, ""));
        self.module(module).and_then(|module| self.look_up(&module, below, rest)).into_iter().collect()
    }

    /// Returns the directory of a module.
    fn module(&self, name: &str) -> Option<TreePath> {
        let is_directory = |path: &TreePath| links::look_up(self.manifest, path).is_some_and(|entry| self.is_directory(entry));
        self.modulepath.iter().filter_map(|dir| dir.child(name.as_bytes()).ok()).find(is_directory)
    }

    /// Returns the directories of all modules, those of the first directory of the module path first: so Puppet merges what they have.
    fn modules(&self) -> Vec<TreePath> {
        let (mut modules, mut names) = (Vec::new(), HashSet::new());
        for dir in &self.modulepath {
            for entry in self.manifest.below(dir).skip(1) {
                if entry.path.depth() == dir.depth() + 1
                    && let Some(name) = entry.path.name()
                    && is_module_name(name)
                    && self.is_directory(entry)
                    && names.insert(name.to_vec())
                {
                    modules.push(entry.path.clone());
                }
            }
        }
        modules
    }

    fn is_directory(&self, entry: &ManifestEntry) -> bool {
        links::followed(self.manifest, entry).kind == EntryKind::Directory
    }

    fn look_up(&self, module: &TreePath, below: &str, path: &str) -> Option<&'a ManifestEntry> {
        links::look_up_source(self.manifest, module, below, path)
    }
}

/// Returns whether a path is that of a mount of all modules itself.
pub(super) fn is_of_all_modules(path: &str) -> bool {
    of_all_modules(path.trim_end_matches('/')).is_some()
}

/// Returns which directory of each module a mount is made of.
fn of_all_modules(mount: &str) -> Option<&'static str> {
    match mount {
        "plugins" => Some("lib"),
        "pluginfacts" => Some("facts.d"),
        "locales" => Some("locales"),
        _ => None,
    }
}

/// What is no name of a module, as `.git`, is none.
fn is_module_name(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    name.first().is_some_and(u8::is_ascii_lowercase) && name.iter().all(is_allowed)
}

/// Reads the module path out of an `environment.conf`.
fn modulepath(settings: &str) -> Vec<TreePath> {
    let value = settings.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "modulepath").then(|| value.trim())
    });
    let dirs = value.unwrap_or("modules").split(':').map(|dir| dir.trim().trim_start_matches("./").trim_end_matches('/'));
    dirs.filter(|dir| !dir.is_empty() && !dir.starts_with(['/', '$']))
        .filter_map(|dir| TreePath::from_bytes(dir.as_bytes()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_paths() {
        for (settings, expected) in [
            ("", &["modules"][..]),
            ("# modulepath = x\nmodulepath = site:modules/:$basemodulepath:/etc/elsewhere\n", &["site", "modules"]),
            ("manifest=x\n modulepath=./a/b\n", &["a/b"]),
            ("modulepath = ../../x\n", &[]),
        ] {
            let paths: Vec<String> = modulepath(settings).iter().map(ToString::to_string).collect();
            assert_eq!(paths, expected, "{settings}");
        }
        assert!(
            is_module_name(b"my_module1")
                && !is_module_name(b".git")
                && !is_module_name(b"a-b")
                && !is_module_name(b"aB")
                && !is_module_name(b"")
        );
    }
}
