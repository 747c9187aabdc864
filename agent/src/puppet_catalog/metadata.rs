//! What the sources of files resolve to: the `metadata` and `recursive_metadata` of a static catalog.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::manifest::{MODE_MASK, UNKNOWN_SIZE, check_entries};
use direct_puppet_transport::protocol::{Algorithm, Digest, EntryKind, ManifestEntry, ResolvedSource, Resource, TreePath};
use serde_json::{Map, Value as Json};

use super::document::Metadata;
use super::served::ContentPlace;
use super::taking::{PIECE, SourceTaking, merge_sources};

/// SHA-256 of nothing, FIPS 180-4: a content whose size is known without being told.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// By title of the file; what was used is taken out.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    /// The metadata of one source.
    pub(super) single: Map<String, Json>,
    /// By source, the metadata of everything in it.
    pub(super) recursive: Map<String, Json>,
    /// The metadata of the source of a piece of a file, by title of that: no catalog has them, they are asked for.
    pub(super) pieces: BTreeMap<String, Json>,
    /// Where the contents of what was resolved are.
    pub(super) places: BTreeMap<Digest, ContentPlace>,
}

impl Sources {
    /// Returns what a catalog itself says.
    pub(super) fn of(Metadata { single, recursive }: Metadata) -> Self {
        Self { single, recursive, ..Self::default() }
    }
}

/// Whether it is a piece that a file is put together from.
pub(super) fn is_piece(resource: &Resource) -> bool {
    resource.resource_type == PIECE
}

/// Returns the sources of a resource that a server of Puppet has, in their order.
pub(super) fn puppet_sources(resource: &Resource) -> Vec<&str> {
    let is_absent = resource.parameter("ensure").is_some_and(|ensure| ensure.as_str() == Some("absent"));
    let source = resource.parameter("source").filter(|_| !is_absent);
    let uris = source.map(|source| source.as_list()).unwrap_or_default().iter().filter_map(|uri| uri.as_str());
    uris.filter(|uri| uri.starts_with("puppet:")).collect()
}

/// Puts in the place of what metadata say of where the content is, which source it is.
pub(super) fn unplace(metadata: &mut Json, source: Option<String>) {
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("content_uri");
        metadata.remove("source");
        metadata.extend(source.map(|source| ("source".to_owned(), source.into())));
    }
}

impl Sources {
    /// Returns whether there are metadata for a resource, and all of them name contents by a digest that is known here.
    pub(super) fn names_contents(&self, resource: &Resource) -> bool {
        let title = resource.title.as_str();
        let names = |metadata: &Json| metadata.get("type").and_then(Json::as_str) != Some("file") || file(metadata).is_ok();
        if is_piece(resource) {
            return self.pieces.get(title).is_some_and(names);
        }
        match (self.recursive.get(title), self.single.get(title)) {
            (Some(by_source), _) => {
                let lists = by_source.as_object().into_iter().flat_map(Map::values);
                lists.filter_map(Json::as_array).flatten().all(names)
            }
            (None, Some(metadata)) => names(metadata),
            (None, None) => false,
        }
    }

    /// Drops what is said of a resource.
    pub(super) fn forget(&mut self, resource: &Resource) {
        if is_piece(resource) {
            self.pieces.remove(&resource.title);
            return;
        }
        self.recursive.remove(&resource.title);
        self.single.remove(&resource.title);
    }

    /// Says what a `File` or a piece of one is made from; the error says why that cannot be known.
    pub(super) fn resolve(&mut self, resource: &mut Resource) -> Result<(), String> {
        let uris = puppet_sources(resource);
        if uris.is_empty() {
            return Ok(());
        }
        let taking = SourceTaking::of(resource);
        let is_only_puppet = resource.parameter("source").is_some_and(|source| source.as_list().len() == uris.len());
        let title = &resource.title;
        let said = match is_piece(resource) {
            true => (None, self.pieces.remove(title)),
            false => (self.recursive.remove(title), self.single.remove(title)),
        };
        let resolved = match said {
            (Some(Json::Object(by_source)), _) => Some(self.recursive_source(by_source, &uris, taking.all)?),
            (Some(_), _) => return Err("has recursive_metadata that are no object".to_owned()),
            (None, Some(metadata)) => Some(self.single_source(&metadata, &uris)?),
            (None, None) => None,
        };
        if resolved.is_none() && is_only_puppet {
            let remedy = match is_piece(resource) {
                true => "no catalog has metadata of pieces; have it applied from its server, or use content",
                false => "the catalog has no metadata of it; use a static catalog, or content",
            };
            return Err(format!("source {} cannot be resolved: {remedy}", uris.join(", ")));
        }
        if taking.all && resolved.is_some() && is_only_puppet {
            // It is done.
            resource.parameters.remove("sourceselect");
        }
        resource.resolved = resolved;
        Ok(())
    }

    fn single_source(&mut self, metadata: &Json, uris: &[&str]) -> Result<ResolvedSource, String> {
        let uri = match metadata.get("source").and_then(Json::as_str) {
            Some(uri) => uri,
            None => uris.first().copied().unwrap_or_default(),
        };
        let entry = entry(metadata, TreePath::root())?;
        self.note(&entry, metadata, || uri.to_owned());
        Ok(ResolvedSource { uri: Some(uri.to_owned()), entries: vec![entry] })
    }

    /// Resolves the first source that there is, or `all` of them.
    fn recursive_source(&mut self, mut by_source: Map<String, Json>, uris: &[&str], all: bool) -> Result<ResolvedSource, String> {
        let mut resolved: Option<ResolvedSource> = None;
        for uri in uris {
            let list = match by_source.remove(*uri) {
                Some(Json::Array(list)) if list.is_empty() => continue,
                Some(Json::Array(list)) => list,
                Some(_) => return Err(format!("has recursive_metadata of {uri} that are no list")),
                None => continue,
            };
            let entries = self.tree(&list, uri)?;
            match &mut resolved {
                None => resolved = Some(ResolvedSource { uri: Some((*uri).to_owned()), entries }),
                Some(resolved) => merge_sources(resolved, entries),
            }
            if !all {
                break;
            }
        }
        resolved.ok_or_else(|| format!("has recursive_metadata for none of its sources {}", uris.join(", ")))
    }

    /// Reads what lies in one source.
    fn tree(&mut self, list: &[Json], uri: &str) -> Result<Vec<ManifestEntry>, String> {
        let mut entries = Vec::with_capacity(list.len());
        for metadata in list {
            let relative = metadata.get("relative_path").and_then(Json::as_str).unwrap_or(".");
            let path = match relative {
                "." | "" => TreePath::root(),
                relative => TreePath::from_bytes(relative.as_bytes())
                    .map_err(|error| format!("has recursive_metadata with the relative_path {relative:?}: {error}"))?,
            };
            let entry = entry(metadata, path)?;
            self.note(&entry, metadata, || match entry.path.is_root() {
                true => uri.to_owned(),
                false => format!("{}/{relative}", uri.trim_end_matches('/')),
            });
            entries.push(entry);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check(&entries, uri)?;
        Ok(entries)
    }

    /// Remembers where a content is; `source` is used where the metadata do not say it.
    fn note(&mut self, entry: &ManifestEntry, metadata: &Json, source: impl FnOnce() -> String) {
        if let EntryKind::File { digest, .. } = entry.kind {
            let place = match metadata.get("content_uri").and_then(Json::as_str) {
                Some(uri) => ContentPlace::Static(uri.to_owned()),
                None => ContentPlace::Mount(source()),
            };
            // What never changes is the better place.
            let held = self.places.entry(digest).or_insert_with(|| place.clone());
            if place < *held {
                *held = place;
            }
        }
    }
}

/// Checks here what would otherwise make the whole catalog invalid.
fn check(entries: &[ManifestEntry], uri: &str) -> Result<(), String> {
    let Some((top, below)) = entries.split_first().filter(|(top, _)| top.path.is_root()) else {
        return Err(format!("has recursive_metadata of {uri} without the source itself"));
    };
    if top.kind != EntryKind::Directory && !below.is_empty() {
        return Err(format!("has recursive_metadata of {uri} below what is no directory"));
    }
    check_entries(below).map_err(|error| format!("has recursive_metadata of {uri} that make no tree: {error}"))
}

fn entry(metadata: &Json, path: TreePath) -> Result<ManifestEntry, String> {
    let text = |name: &str| metadata.get(name).and_then(Json::as_str);
    let mode =
        metadata.get("mode").and_then(Json::as_u64).and_then(|mode| u32::try_from(mode).ok()).unwrap_or_default() & MODE_MASK;
    let (kind, mode) = match text("type") {
        Some("file") => (file(metadata)?, mode),
        Some("directory") => (EntryKind::Directory, mode),
        Some("link") => match text("destination") {
            Some(target) if !target.is_empty() && !target.contains('\0') && target.len() <= 4095 => {
                (EntryKind::Link { target: target.as_bytes().to_vec() }, 0)
            }
            _ => return Err("has metadata of a link without a destination".to_owned()),
        },
        _ => return Err("has metadata that are not of a file, a directory or a link".to_owned()),
    };
    Ok(ManifestEntry { path, mode, kind })
}

fn file(metadata: &Json) -> Result<EntryKind, String> {
    let Some(checksum) = metadata.get("checksum").and_then(|checksum| checksum.get("value")).and_then(Json::as_str) else {
        return Err("has metadata of a file without a checksum".to_owned());
    };
    let Some(hex) = checksum.strip_prefix("{sha256}") else {
        let kind = checksum.split_once('}').map_or("unknown", |(kind, _)| kind.trim_start_matches('{'));
        return Err(format!(
            "has a source with a checksum of type {kind}, which does not name a content: leave out checksum, or set it to sha256"
        ));
    };
    let bytes = unhex(hex).ok_or("has metadata with a sha256 that is not 64 hexadecimal digits")?;
    let size = if hex.eq_ignore_ascii_case(EMPTY_SHA256) { 0 } else { UNKNOWN_SIZE };
    Ok(EntryKind::File { digest: Digest::new(Algorithm::Sha256, bytes), size })
}

fn unhex(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let pair = &hex[2 * at..2 * at + 2];
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}
