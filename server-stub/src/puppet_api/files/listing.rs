//! What of a tree is listed.

use direct_puppet_agent::glob::Glob;
use direct_puppet_transport::protocol::{EntryKind, Manifest, ManifestEntry, TreePath};

use crate::code::links;
use crate::puppet_api::answer::Failure;
use crate::puppet_api::query::{Parameters, short};

/// What a request says of how a tree is listed.
#[derive(Debug)]
pub(in crate::puppet_api) struct Listing {
    recurses: bool,
    follows: bool,
    /// Levels below the top.
    limit: Option<usize>,
    /// Entries that are too many.
    most: Option<usize>,
    /// Base names that are left out, with what lies below them.
    ignored: Vec<Glob>,
}

impl Listing {
    pub(in crate::puppet_api) fn of(parameters: &Parameters) -> Result<Self, Failure> {
        let number = |name: &str| match parameters.get(name) {
            // Puppet writes "infinite" and "no limit" in all of these ways; no levels are a limit.
            None | Some("" | "inf" | "infinite" | "-1") => Ok(None),
            Some("0") if name == "max_files" => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Failure::bad_request(format!("{name} must be a number, not {}", short(text)))),
            },
        };
        let recurses = match parameters.get("recurse") {
            Some("remote" | "inf") => true,
            _ => parameters.flag("recurse", false)?,
        };
        Ok(Self {
            recurses,
            follows: parameters.get("links") == Some("follow"),
            limit: number("recurselimit")?,
            most: number("max_files")?,
            ignored: parameters.all("ignore").filter(|pattern| !pattern.is_empty()).map(Glob::parse).collect(),
        })
    }

    /// Returns the entries of a tree, with paths relative to it; the first is the tree itself.
    ///
    /// # Errors
    ///
    /// When its links cannot be followed.
    pub(in crate::puppet_api) fn entries(&self, manifest: &Manifest, root: &ManifestEntry) -> Result<Vec<ManifestEntry>, String> {
        let root = if self.follows { links::followed(manifest, root) } else { root };
        let top = ManifestEntry { path: TreePath::root(), ..root.clone() };
        if !self.recurses || root.kind != EntryKind::Directory {
            return Ok(vec![top]);
        }
        let mut entries = match self.follows {
            true => links::below(manifest, root)?,
            false => manifest
                .below(&root.path)
                .skip(1)
                .filter_map(|entry| Some(ManifestEntry { path: entry.path.strip_prefix(&root.path)?, ..entry.clone() }))
                .collect(),
        };
        let is_ignored = |name: &[u8]| self.ignored.iter().any(|glob| glob.matches(name));
        entries.retain(|entry| {
            self.limit.is_none_or(|limit| entry.path.depth() <= limit) && !entry.path.components().any(is_ignored)
        });
        entries.insert(0, top);
        Ok(entries)
    }

    /// Refuses what the request itself calls too many.
    pub(in crate::puppet_api) fn check_count(&self, count: usize) -> Result<(), Failure> {
        match self.most {
            Some(most) if count > most => {
                Err(Failure::server(format!("there are {count} entries, more than the {most} that max_files allows")))
            }
            _ => Ok(()),
        }
    }
}
