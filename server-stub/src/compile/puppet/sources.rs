//! What `puppet:` sources name, in the published manifest. Nothing is read and nothing is hashed: the digests are there.
//!
//! The file server of Puppet knows these places:
//!
//! | URI | files |
//! | --- | --- |
//! | `puppet:///modules/<module>/<path>` | `<module>/files/<path>` |
//! | `puppet:///scripts/<module>/<path>` | `<module>/scripts/<path>` |
//! | `puppet:///tasks/<module>/<path>` | `<module>/tasks/<path>` |
//! | `puppet:///plugins/<path>` | `lib/<path>` of the first module that has it |
//! | `puppet:///pluginfacts/<path>` | `facts.d/<path>` of the first module that has it |
//!
//! Other mounts name files of one server that nobody publishes: such a source is not resolved, and the resource fails on the node. So is
//! one in a module that stands outside of the environment. Where such a source may come first, none behind it is taken in its place.

use std::collections::BTreeMap;

use direct_puppet_agent::glob::Glob;
use direct_puppet_agent::{SourceTaking, merge_sources};
use direct_puppet_transport::protocol::{EntryKind, Manifest, ManifestEntry, ResolvedSource, Resource, TreePath, Value};

use crate::code::links;

/// Resolves sources against the manifest of one version.
pub(super) struct Sources<'a> {
    pub(super) manifest: &'a Manifest,
    /// By name, the directories of modules; `None` for those outside of the environment.
    pub(super) modules: BTreeMap<String, Option<TreePath>>,
}

/// Where one source is.
enum Found<'a> {
    Here(&'a ManifestEntry),
    Missing,
    /// On the node, at another server, or in files that nobody publishes.
    Elsewhere,
}

impl Sources<'_> {
    /// Says what a `File`, or a `Concat_fragment`, is made from. Where several sources are taken together, the first of them that has a path counts, as in Puppet.
    ///
    /// # Errors
    ///
    /// When it is not recursive and none of its sources exists, or links cannot be followed: then Puppet gives no catalog either.
    pub(super) fn resolve(&self, resource: &mut Resource) -> Result<(), String> {
        let is_absent = resource.parameter("ensure").is_some_and(|ensure| ensure.as_str() == Some("absent"));
        let Some(source) = resource.parameter("source").filter(|_| !is_absent) else { return Ok(()) };
        let taking = SourceTaking::of(resource);
        let mut resolved: Option<ResolvedSource> = None;
        let (mut names_elsewhere, mut missing) = (false, Vec::new());
        for uri in source.as_list().iter().filter_map(Value::as_str) {
            match self.find(uri) {
                // Whether it exists is not known here, and one behind it may be the wrong one: the node says so.
                Found::Elsewhere if uri.starts_with("puppet:") => return Ok(()),
                Found::Elsewhere => names_elsewhere = true,
                Found::Missing => missing.push(uri),
                Found::Here(entry) => {
                    let entries = self.entries(entry, &taking)?;
                    match &mut resolved {
                        None => resolved = Some(ResolvedSource { uri: Some(uri.to_owned()), entries }),
                        Some(resolved) => merge_sources(resolved, entries),
                    }
                    if !taking.all {
                        break;
                    }
                }
            }
        }
        match resolved {
            Some(resolved) => {
                resource.resolved = Some(resolved);
                if !names_elsewhere {
                    // It is done.
                    resource.parameters.remove("sourceselect");
                }
                Ok(())
            }
            None if names_elsewhere || taking.recurses || missing.is_empty() => Ok(()),
            None => Err(format!("Could not get metadata for {}: it is not in the published code", missing.join(", "))),
        }
    }

    fn find(&self, uri: &str) -> Found<'_> {
        let Some((_, path)) = uri.strip_prefix("puppet://").and_then(|rest| rest.split_once('/')) else {
            return Found::Elsewhere;
        };
        let (mount, path) = path.split_once('/').unwrap_or((path, ""));
        let below = match mount {
            "modules" => "files",
            "scripts" | "tasks" => mount,
            "plugins" => return self.find_plugin("lib", path),
            "pluginfacts" => return self.find_plugin("facts.d", path),
            _ => return Found::Elsewhere,
        };
        let (module, path) = path.split_once('/').unwrap_or((path, ""));
        match self.modules.get(module) {
            None => Found::Missing,
            Some(None) => Found::Elsewhere,
            Some(Some(module)) => links::look_up_source(self.manifest, module, below, path).map_or(Found::Missing, Found::Here),
        }
    }

    fn find_plugin(&self, below: &str, path: &str) -> Found<'_> {
        let found = self.modules.values().flatten().find_map(|module| links::look_up_source(self.manifest, module, below, path));
        found.map_or(Found::Missing, Found::Here)
    }

    /// Returns what is taken of a source, with paths relative to it.
    fn entries(&self, root: &ManifestEntry, taking: &SourceTaking) -> Result<Vec<ManifestEntry>, String> {
        let root = if taking.follows { links::followed(self.manifest, root) } else { root };
        let top = ManifestEntry { path: TreePath::root(), ..root.clone() };
        if !taking.recurses || root.kind != EntryKind::Directory {
            return Ok(vec![top]);
        }
        let mut entries = match taking.follows {
            true => links::below(self.manifest, root)?,
            false => self.manifest.below(&root.path).skip(1).filter_map(|entry| relative(entry, &root.path)).collect(),
        };
        if let Some(limit) = taking.recurse_limit {
            entries.retain(|entry| entry.path.depth() <= limit);
        }
        let ignored: Vec<Glob> = taking.ignore.iter().map(|glob| Glob::parse(glob)).collect();
        let is_ignored = |name: &[u8]| ignored.iter().any(|glob| glob.matches(name));
        entries.retain(|entry| !entry.path.components().any(is_ignored));
        entries.insert(0, top);
        Ok(entries)
    }
}

fn relative(entry: &ManifestEntry, top: &TreePath) -> Option<ManifestEntry> {
    Some(ManifestEntry { path: entry.path.strip_prefix(top)?, ..entry.clone() })
}

#[cfg(test)]
mod tests;
