//! Where wanted contents come from: resolved sources of the catalog, sources on this machine, and the resource itself.
//!
//! A source on this machine (`/…`, `file:///…`) is read below the managed root like everything else.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, EntryKind, ResolvedSource, TreePath};

use super::http::{Remote, RemoteSources};
use super::parameters::{Links, Parameters, Recurse};
use super::source_uri::SourceUri;
use crate::fs::{FileKind, FsError, MAX_LINKS, Root, Stat, link_destination};

/// A content that a file shall have.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In the local store, once it was fetched.
    Stored { digest: Digest, size: u64 },
    /// In the resource itself.
    Inline(Inline),
    /// A file on this machine, hashed when it is compared or copied.
    Local { path: TreePath, stat: Box<Stat> },
    /// At a web server, which tells no digest of ours.
    Remote(Remote),
}

/// A content of the resource itself.
#[derive(Debug, Clone)]
pub(super) struct Inline {
    pub(super) bytes: Bytes,
    /// Found out when it is asked for: mostly the scan has compared the content already.
    digest: OnceLock<Digest>,
}

impl Inline {
    pub(super) const fn new(bytes: Bytes) -> Self {
        Self { bytes, digest: OnceLock::new() }
    }

    pub(super) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| Digest::of(&self.bytes))
    }
}

/// What one entry of a source is.
#[derive(Debug, Clone)]
pub(super) enum EntryContent {
    File(Content),
    Directory,
    Link(Vec<u8>),
    /// Why it cannot be copied.
    Unusable(String),
}

/// One entry of a source.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Relative to the source; empty for the source itself.
    pub(super) relative: TreePath,
    /// Its permissions, where it has any.
    pub(super) mode: Option<u32>,
    /// Its owner and group, which only a source on this machine has.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) content: EntryContent,
}

/// Returns whether recursion reaches the entry at `relative`.
pub(super) fn selects(parameters: &Parameters, relative: &TreePath) -> bool {
    if relative.is_root() {
        return true;
    }
    let reached = parameters.recurse != Recurse::No && parameters.recurse_limit.is_none_or(|limit| relative.depth() <= limit);
    reached && (parameters.ignore.is_empty() || !relative.components().any(|name| is_ignored(parameters, name)))
}

/// Returns whether `ignore` names this base name.
pub(super) fn is_ignored(parameters: &Parameters, name: &[u8]) -> bool {
    parameters.ignore.iter().any(|glob| glob.matches(name))
}

/// Returns the entries of what the catalog resolved, as far as recursion reaches.
pub(super) fn resolved_entries(parameters: &Parameters, resolved: &ResolvedSource) -> Vec<Entry> {
    let selected = resolved.entries.iter().filter(|entry| selects(parameters, &entry.path));
    selected
        .map(|entry| {
            let followed = match (&entry.kind, parameters.links) {
                (EntryKind::Link { target }, Links::Follow) => follow_resolved(resolved, &entry.path, target),
                _ => Ok(entry),
            };
            let (mode, content) = match followed {
                Ok(found) => (Some(found.mode), entry_content(&found.kind)),
                Err(reason) => (None, EntryContent::Unusable(reason)),
            };
            Entry { relative: entry.path.clone(), mode, owner: None, content }
        })
        .collect()
}

fn entry_content(kind: &EntryKind) -> EntryContent {
    match kind {
        EntryKind::File { digest, size } => EntryContent::File(Content::Stored { digest: *digest, size: *size }),
        EntryKind::Directory => EntryContent::Directory,
        EntryKind::Link { target } => EntryContent::Link(target.clone()),
    }
}

/// Follows a link of a published tree within its source: what lies elsewhere is not known here.
fn follow_resolved<'a>(
    resolved: &'a ResolvedSource,
    path: &TreePath,
    target: &[u8],
) -> Result<&'a direct_puppet_transport::protocol::ManifestEntry, String> {
    let (mut path, mut target) = (path.clone(), target.to_vec());
    for _ in 0..MAX_LINKS {
        let inside = !target.starts_with(b"/") && stays_inside(&path, &target);
        let found = link_destination(&path, &target).filter(|_| inside).and_then(|destination| {
            resolved.entries.binary_search_by(|entry| entry.path.cmp(&destination)).ok().map(|at| &resolved.entries[at])
        });
        match found {
            Some(entry) => match &entry.kind {
                EntryKind::File { .. } => return Ok(entry),
                EntryKind::Link { target: next } => (path, target) = (entry.path.clone(), next.clone()),
                EntryKind::Directory => return Err("a link to a directory cannot be followed: use links => manage".to_owned()),
            },
            None => return Err("the link points outside its source and cannot be followed: use links => manage".to_owned()),
        }
    }
    Err("links of the source form a circle".to_owned())
}

/// Returns whether a relative target never climbs above the tree.
fn stays_inside(path: &TreePath, target: &[u8]) -> bool {
    let mut depth = path.depth().saturating_sub(1);
    target.split(|&byte| byte == b'/').all(|name| match name {
        b"" | b"." => true,
        b".." => match depth.checked_sub(1) {
            Some(above) => {
                depth = above;
                true
            }
            None => false,
        },
        _ => {
            depth += 1;
            true
        }
    })
}

/// Finds the first source that exists and returns its entries, with those of the others where all count; `None` when the resource
/// names no source.
///
/// # Errors
///
/// When none exists, or one cannot be looked at.
pub(super) fn entries(
    root: &Root,
    parameters: &Parameters,
    resolved: Option<&ResolvedSource>,
    remote: &RemoteSources,
) -> Result<Option<Vec<Entry>>, Box<dyn std::error::Error + Send + Sync>> {
    let takes_all = parameters.takes_all && parameters.recurse != Recurse::No;
    let mut together: Option<Vec<Entry>> = None;
    for source in &parameters.sources {
        match source {
            SourceUri::Local(path) => {
                let found = match parameters.links {
                    Links::Follow => root.resolve_links(path)?,
                    Links::Manage => Some(path.clone()),
                };
                if let Some(path) = found
                    && let Some(stat) = root.stat(&path)?
                {
                    let entries = local_entries(root, parameters, &path, stat)?;
                    together = match together {
                        // What is no directory is taken alone.
                        None if !takes_all || stat.kind() != FileKind::Directory => return Ok(Some(entries)),
                        None => Some(entries),
                        Some(_) if stat.kind() != FileKind::Directory => {
                            return Err(format!("{} is no directory, and is to be taken with others", path.absolute()).into());
                        }
                        Some(first) => Some(merged(first, entries)),
                    };
                }
            }
            SourceUri::Puppet(uri) => {
                let found = resolved.filter(|resolved| resolved.uri.as_deref().map(|uri| uri.trim_end_matches('/')) == Some(uri));
                if let Some(resolved) = found {
                    return Ok(Some(resolved_entries(parameters, resolved)));
                }
            }
            SourceUri::Http(url) => {
                if let Some(content) = remote.content(url)? {
                    let content = EntryContent::File(content);
                    return Ok(Some(vec![Entry { relative: TreePath::root(), mode: None, owner: None, content }]));
                }
            }
        }
    }
    if together.is_some() {
        return Ok(together);
    }
    match (resolved, parameters.sources.is_empty()) {
        (Some(resolved), true) => Ok(Some(resolved_entries(parameters, resolved))),
        (None, true) => Ok(None),
        (_, false) => match remote.refusals() {
            Some(_) if parameters.sensitive => Err("none of its sources exists, which are secret".into()),
            None => Err("none of its sources exists, in the catalog or on this machine".into()),
            Some(refusals) => Err(format!("none of its sources exists: {refusals}").into()),
        },
    }
}

/// Returns the entries of a source with those of a further one that it does not have. What lies below its files and links cannot be.
fn merged(first: Vec<Entry>, further: Vec<Entry>) -> Vec<Entry> {
    let by_path = |entries: Vec<Entry>| entries.into_iter().map(|entry| (entry.relative.clone(), entry));
    let mut all: BTreeMap<TreePath, Entry> = by_path(further).collect();
    all.extend(by_path(first));
    let mut merged = Vec::with_capacity(all.len());
    let mut open: Vec<TreePath> = Vec::new();
    for (path, entry) in all {
        while open.last().is_some_and(|directory| !path.is_within(directory)) {
            open.pop();
        }
        if path.parent().is_none_or(|parent| open.last() == Some(&parent)) {
            if matches!(entry.content, EntryContent::Directory) {
                open.push(path);
            }
            merged.push(entry);
        }
    }
    merged
}

/// Lists a source on this machine.
fn local_entries(root: &Root, parameters: &Parameters, source: &TreePath, stat: Stat) -> Result<Vec<Entry>, FsError> {
    let mut entries = Vec::new();
    let mut open = vec![(source.clone(), TreePath::root(), stat)];
    while let Some((path, relative, stat)) = open.pop() {
        let content = local_content(root, parameters, &path, &stat)?;
        if matches!(content, EntryContent::Directory) && parameters.recurse != Recurse::No {
            for child in root.list(&path)? {
                // Names from the file system are single components; only a path too long for the protocol fails.
                let (Ok(path), Ok(relative)) = (path.child(&child.name), relative.child(&child.name)) else { continue };
                let too_deep = parameters.recurse_limit.is_some_and(|limit| relative.depth() > limit);
                if !too_deep && !is_ignored(parameters, &child.name) {
                    open.push((path, relative, child.stat));
                }
            }
        }
        entries.push(Entry { relative, mode: Some(stat.permissions()), owner: Some((stat.uid, stat.gid)), content });
    }
    entries.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(entries)
}

fn local_content(root: &Root, parameters: &Parameters, path: &TreePath, stat: &Stat) -> Result<EntryContent, FsError> {
    Ok(match stat.kind() {
        FileKind::File => EntryContent::File(Content::Local { path: path.clone(), stat: Box::new(*stat) }),
        FileKind::Directory => EntryContent::Directory,
        FileKind::Link if parameters.links == Links::Manage => EntryContent::Link(root.read_link(path)?),
        FileKind::Link => match root.resolve_links(path)? {
            Some(target) => match root.stat(&target)? {
                Some(stat) if stat.kind() == FileKind::File => {
                    EntryContent::File(Content::Local { path: target, stat: Box::new(stat) })
                }
                _ => EntryContent::Unusable("only links to files can be followed: use links => manage".to_owned()),
            },
            None => EntryContent::Unusable("the link of the source points to nothing".to_owned()),
        },
        _ => EntryContent::Unusable("the source is a device, socket or fifo, which cannot be copied".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for (path, target, destination) in [
            ("a/b", "c", "a/c"),
            ("a/b", "../c", "c"),
            ("a/b", "../../../c", "c"),
            ("a/b", "/x//y/./z", "x/y/z"),
            ("a", "b/../c/", "c"),
        ] {
            let found = link_destination(&path.parse().unwrap(), target.as_bytes()).unwrap();
            assert_eq!(found.to_string(), destination, "{path} -> {target}");
        }
        assert!(!stays_inside(&"a/b".parse().unwrap(), b"../../c"));
        assert!(stays_inside(&"a/b".parse().unwrap(), b"../c/../d"));
    }
}
