//! Links within a published tree.

use direct_puppet_transport::protocol::{EntryKind, Manifest, ManifestEntry, TreePath};

/// Most links on the way to a file: Linux's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Most entries of one source whose links are followed: a link to a directory may bring it in many times.
const MAX_ENTRIES: usize = 1_000_000;

/// Returns what is at a path; links on the way are followed, one at its end is not. Nothing outside of the tree is there.
pub(crate) fn look_up<'a>(manifest: &'a Manifest, path: &TreePath) -> Option<&'a ManifestEntry> {
    manifest.get(path).or_else(|| walk(manifest, TreePath::root(), path.as_bytes(), false))
}

/// Returns what is at the path of a source below `below` in a module, as [`look_up`] does. As in paths of the system, `//` and `/./` are one
/// slash; `..` names nothing.
pub(crate) fn look_up_source<'a>(
    manifest: &'a Manifest,
    module: &TreePath,
    below: &str,
    path: &str,
) -> Option<&'a ManifestEntry> {
    let names: Vec<&str> = std::iter::once(below).chain(path.split('/').filter(|name| !matches!(*name, "" | "."))).collect();
    let whole = TreePath::from_bytes(names.join("/").as_bytes()).ok()?;
    look_up(manifest, &module.join(&whole).ok()?)
}

/// Returns what a link leads to in the end; itself when that is not in the tree: the node then says so of it alone.
pub(crate) fn followed<'a>(manifest: &'a Manifest, entry: &'a ManifestEntry) -> &'a ManifestEntry {
    let EntryKind::Link { target } = &entry.kind else { return entry };
    if target.starts_with(b"/") {
        return entry;
    }
    walk(manifest, entry.path.parent().unwrap_or_default(), target, true).unwrap_or(entry)
}

/// Whether a relative link climbs above the tree, by itself or through other links on its way. An absolute one is meant for the node.
pub(crate) fn leads_out(manifest: &Manifest, path: &TreePath, target: &[u8]) -> bool {
    let mut links = 0;
    let mut rest: Vec<Vec<u8>> = target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let Some(mut at) = path.parent().filter(|_| !target.starts_with(b"/")) else { return false };
    while let Some(name) = rest.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => match at.parent() {
                Some(above) => at = above,
                None => return true,
            },
            _ => {
                let Ok(next) = at.child(&name) else { return false };
                match manifest.get(&next).map(|entry| &entry.kind) {
                    Some(EntryKind::Link { target }) => {
                        links += 1;
                        if links > MAX_LINKS || target.starts_with(b"/") {
                            return false;
                        }
                        rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                    }
                    _ => at = next,
                }
            }
        }
    }
    false
}

/// Walks names one by one from a directory, as path_resolution(7) does; each may be a link itself, the last is followed if `follow`.
fn walk<'a>(manifest: &'a Manifest, from: TreePath, names: &[u8], follow: bool) -> Option<&'a ManifestEntry> {
    let mut links = 0;
    // Names that are still to be walked, the next one last.
    let mut rest: Vec<Vec<u8>> = names.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut at = from;
    while let Some(name) = rest.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at = at.parent()?;
                continue;
            }
            _ => {}
        }
        let next = at.child(&name).ok()?;
        let entry = manifest.get(&next)?;
        match &entry.kind {
            EntryKind::Link { target } if follow || !rest.is_empty() => {
                links += 1;
                if links > MAX_LINKS || target.starts_with(b"/") {
                    return None;
                }
                rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
            }
            _ if rest.is_empty() => return Some(entry),
            EntryKind::Directory => at = next,
            EntryKind::File { .. } | EntryKind::Link { .. } => return None,
        }
    }
    // The tree as a whole is no entry.
    manifest.get(&at)
}

/// Lists what lies below a directory as if every link were what it leads to.
pub(crate) fn below(manifest: &Manifest, root: &ManifestEntry) -> Result<Vec<ManifestEntry>, String> {
    let mut listed = Vec::new();
    list(manifest, &root.path, &TreePath::root(), &mut vec![root.path.clone()], &mut listed)?;
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listed)
}

fn list(
    manifest: &Manifest,
    directory: &TreePath,
    shown: &TreePath,
    above: &mut Vec<TreePath>,
    listed: &mut Vec<ManifestEntry>,
) -> Result<(), String> {
    let children = manifest.below(directory).skip(1);
    for entry in children.filter(|entry| entry.path.parent().as_ref() == Some(directory)) {
        let name = entry.path.name().unwrap_or_default();
        let path = shown.child(name).map_err(|error| format!("its links make a path that is too long: {error}"))?;
        let real = followed(manifest, entry);
        listed.push(ManifestEntry { path: path.clone(), ..real.clone() });
        if listed.len() > MAX_ENTRIES {
            return Err(format!("with its links followed it has more than {MAX_ENTRIES} entries"));
        }
        if real.kind == EntryKind::Directory {
            if above.contains(&real.path) {
                return Err(format!("the link {} leads to a directory that holds it, and cannot be followed", entry.path));
            }
            above.push(real.path.clone());
            list(manifest, &real.path, &path, above, listed)?;
            above.pop();
        }
    }
    Ok(())
}
