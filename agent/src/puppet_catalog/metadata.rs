//! What the sources of files resolve to: the `metadata` and `recursive_metadata` of a static catalog.

use direct_puppet_transport::protocol::manifest::{MODE_MASK, UNKNOWN_SIZE, check_entries};
use direct_puppet_transport::protocol::{Algorithm, Digest, EntryKind, ManifestEntry, ResolvedSource, Resource, TreePath};
use serde_json::{Map, Value as Json};

/// SHA-256 of nothing, FIPS 180-4: a content whose size is known without being told.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// By title of the file resource; what was used is taken out.
pub(super) struct Sources {
    /// The metadata of one source.
    pub(super) single: Map<String, Json>,
    /// By source, the metadata of everything in it.
    pub(super) recursive: Map<String, Json>,
}

impl Sources {
    /// Says what a `File` is made from; the error says why that cannot be known.
    pub(super) fn resolve(&mut self, resource: &mut Resource) -> Result<(), String> {
        let is_absent = resource.parameter("ensure").is_some_and(|ensure| ensure.as_str() == Some("absent"));
        let Some(source) = resource.parameter("source").filter(|_| !is_absent) else { return Ok(()) };
        let uris: Vec<&str> = source.as_list().iter().filter_map(|uri| uri.as_str()).collect();
        if !uris.iter().any(|uri| uri.starts_with("puppet:")) {
            return Ok(());
        }
        let resolved = match (self.recursive.remove(&resource.title), self.single.remove(&resource.title)) {
            (Some(Json::Object(by_source)), _) => Some(recursive(by_source, &uris)?),
            (Some(_), _) => return Err("has recursive_metadata that are no object".to_owned()),
            (None, Some(metadata)) => Some(single(&metadata, &uris)?),
            (None, None) => None,
        };
        if resolved.is_none() && uris.iter().all(|uri| uri.starts_with("puppet:")) {
            return Err(format!(
                "source {} cannot be resolved: the catalog has no metadata of it; use a static catalog, or content",
                uris.join(", ")
            ));
        }
        resource.resolved = resolved;
        Ok(())
    }
}

fn single(metadata: &Json, uris: &[&str]) -> Result<ResolvedSource, String> {
    let uri = match metadata.get("source").and_then(Json::as_str) {
        Some(uri) => uri,
        None => uris.first().copied().unwrap_or_default(),
    };
    Ok(ResolvedSource { uri: Some(uri.to_owned()), entries: vec![entry(metadata, TreePath::root())?] })
}

fn recursive(mut by_source: Map<String, Json>, uris: &[&str]) -> Result<ResolvedSource, String> {
    let found = uris.iter().find_map(|uri| match by_source.remove(*uri) {
        Some(Json::Array(list)) if list.is_empty() => None,
        Some(list) => Some((*uri, list)),
        None => None,
    });
    let (uri, list) = match found {
        Some((uri, Json::Array(list))) => (uri, list),
        Some((uri, _)) => return Err(format!("has recursive_metadata of {uri} that are no list")),
        None => return Err(format!("has recursive_metadata for none of its sources {}", uris.join(", "))),
    };
    let mut entries = Vec::with_capacity(list.len());
    for metadata in &list {
        let relative = metadata.get("relative_path").and_then(Json::as_str).unwrap_or(".");
        let path = match relative {
            "." | "" => TreePath::root(),
            relative => TreePath::from_bytes(relative.as_bytes())
                .map_err(|error| format!("has recursive_metadata with the relative_path {relative:?}: {error}"))?,
        };
        entries.push(entry(metadata, path)?);
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    check(&entries, uri)?;
    Ok(ResolvedSource { uri: Some(uri.to_owned()), entries })
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
