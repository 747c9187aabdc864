//! What sources are, in a static catalog: so that a node asks for what it lacks and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Digest, EntryKind, Environment, Manifest, ManifestEntry, Resource, TreePath, Value};
use serde::Serialize;

use crate::puppet_api::answer::Failure;
use crate::puppet_api::checksum::{Checksums, Kind};
use crate::puppet_api::files::{Describe, Described, Mounts, Permissions, file_of, is_servable};

/// What files are made from, in a static catalog.
#[derive(Debug, Default, Serialize)]
pub(super) struct Inlined {
    /// By title.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, Described>,
    /// By title and source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    recursive_metadata: BTreeMap<String, BTreeMap<String, Vec<Described>>>,
}

/// Describes the sources of one catalog.
pub(super) struct Static<'a> {
    manifest: &'a Manifest,
    mounts: Mounts<'a>,
    checksums: &'a Checksums,
    environment: &'a Environment,
    kind: Kind,
    time: u64,
    /// One place in the code for each content that is given by its place; made when first needed.
    places: OnceLock<HashMap<Digest, &'a TreePath>>,
}

impl<'a> Static<'a> {
    /// Reads where modules are. Blocking.
    pub(super) fn new(
        manifest: &'a Manifest,
        store: &Store,
        checksums: &'a Checksums,
        environment: &'a Environment,
        kind: Kind,
        time: u64,
    ) -> Result<Self, Failure> {
        let mounts = Mounts::of(manifest, store)?;
        Ok(Self { manifest, mounts, checksums, environment, kind, time, places: OnceLock::new() })
    }

    /// Adds what a resource is made from. Blocking.
    pub(super) fn add(&self, resource: &Resource, inlined: &mut Inlined) -> Result<(), Failure> {
        // They are known by title alone, so of files alone; agents ask for the sources of pieces in each run.
        let Some(resolved) = resource.resolved.as_ref().filter(|_| resource.resource_type == "File") else { return Ok(()) };
        let Some(uri) = resolved.uri.as_deref() else { return Ok(()) };
        let sources = resource.parameter("source").map(Value::as_list).unwrap_or_default();
        if !sources.iter().all(|source| source.as_str().is_some_and(|source| source.starts_with("puppet:"))) {
            // One that only the node has may come first, and agents do not look for it when a file is described here.
            return Ok(());
        }
        let text = |name: &str| resource.parameter(name).and_then(Value::as_str);
        let kind = match text("checksum") {
            None => self.kind,
            Some(name) => match Kind::from_name(name) {
                Some(kind) => kind,
                // The agent says of this resource what is wrong with it.
                None => return Ok(()),
            },
        };
        let describe = Describe {
            manifest: self.manifest,
            environment: self.environment,
            checksums: self.checksums,
            kind,
            permissions: Permissions::of(text("source_permissions")),
            follows: text("links") == Some("follow"),
            time: self.time,
        };
        // Agents cut slashes off the end of a source before they look it up.
        let uri = uri.trim_end_matches('/');
        let root = self.root(uri);
        let mut described = Vec::with_capacity(resolved.entries.len());
        let is_recursive = is_recursive(resource);
        for entry in &resolved.entries {
            let Some(mut file) = describe.listed(entry, &root)? else { continue };
            file.content_uri = self.place(&root, entry).map(|path| format!("puppet:///{path}"));
            if !is_recursive {
                (file.source, file.relative_path) = (Some(uri.to_owned()), None);
            }
            described.push(file);
        }
        if is_recursive {
            inlined.recursive_metadata.insert(resource.title.clone(), BTreeMap::from([(uri.to_owned(), described)]));
        } else if let Some(first) = described.into_iter().next() {
            inlined.metadata.insert(resource.title.clone(), first);
        }
        Ok(())
    }

    /// Returns what a source names: an entry of the code, or one of nowhere where it cannot be found again.
    fn root(&self, uri: &str) -> ManifestEntry {
        let path = uri.strip_prefix("puppet://").and_then(|rest| rest.split_once('/')).map(|(_, path)| path);
        let found = path.and_then(|path| self.mounts.find(path)).cloned();
        found.unwrap_or_else(|| ManifestEntry { path: TreePath::root(), mode: 0o755, kind: EntryKind::Directory })
    }

    /// Returns a path at which the code has the content of an entry: its own, as far as it is there. An entry may have come from another
    /// source or through a link, and then another file with the same content is as good.
    fn place(&self, root: &ManifestEntry, entry: &ManifestEntry) -> Option<String> {
        let own = root.path.join(&entry.path).ok();
        let Some(digest) = file_of(entry) else { return own.map(|path| path.to_string()) };
        let is_it = |path: &TreePath| is_servable(path) && self.manifest.get(path).and_then(file_of) == Some(digest);
        let path = own.filter(is_it).or_else(|| self.places().get(&digest).map(|path| (*path).clone()))?;
        std::str::from_utf8(path.as_bytes()).ok().map(str::to_owned)
    }

    fn places(&self) -> &HashMap<Digest, &'a TreePath> {
        self.places.get_or_init(|| {
            let mut places = HashMap::new();
            for entry in self.manifest.entries().filter(|entry| is_servable(&entry.path)) {
                if let Some(digest) = file_of(entry) {
                    places.entry(digest).or_insert(&entry.path);
                }
            }
            places
        })
    }
}

/// Whether the agent looks for a whole tree.
fn is_recursive(resource: &Resource) -> bool {
    match resource.parameter("recurse") {
        Some(Value::Boolean(recurses)) => *recurses,
        Some(Value::String(text)) => matches!(text.as_str(), "true" | "remote" | "inf"),
        _ => false,
    }
}
