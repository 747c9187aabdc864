//! Resources that come before a `File` without being asked for, and its other title.

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::managed_path;
use super::parameters::{Account, Named};
use crate::fs::link_destination;
use crate::provider::Names;

/// Names the `File` and the `Mount` of each directory above, the `File` of a link's target, and the owner and group. Puppet takes the nearest
/// directory only; all of them make the same order, because the nearest itself comes after the others.
pub(super) fn name_before(resource: &Resource, names: &mut Names<'_>) {
    // A resource that makes no sense elsewhere is not applied at all.
    let Ok(named) = Named::of(resource) else { return };
    let title = title_of(&named.path);
    let mut below = title.as_str();
    // What has only a slash left is the root, above which there is nothing.
    while let Some(end) = below.rfind('/').filter(|_| below.len() > 1) {
        let above = &below[..end.max(1)];
        names(&resource.resource_type, above);
        // In Puppet the mount comes before the file of its own accord; that makes the same order.
        names("Mount", above);
        below = above;
    }
    let target = named.target.and_then(|target| link_destination(&named.path, target));
    // A link to itself, or to a directory above it, says nothing new.
    if let Some(path) = target.filter(|path| !named.path.is_within(path)) {
        names(&resource.resource_type, &title_of(&path));
    }
    for (kind, account) in [("User", &named.owner), ("Group", &named.group)] {
        if let Some(Account::Name(name)) = account {
            names(kind, name);
        }
    }
}

/// Returns the title by which others may name the `File`, where its own is not how its path is usually written.
pub(super) fn alias(resource: &Resource) -> Option<String> {
    let title = resource.title.as_bytes();
    // Nearly all are written so.
    if resource.parameter("path").is_none()
        && title.starts_with(b"/")
        && !title.ends_with(b"/")
        && memchr::memmem::find(title, b"//").is_none()
    {
        return None;
    }
    let path = managed_path(resource).ok()?;
    let is_title = resource.title.strip_prefix('/').is_some_and(|title| title.as_bytes() == path.as_bytes());
    if is_title { None } else { Some(title_of(&path)) }
}

/// Returns the title that a `File` at this path usually has.
fn title_of(path: &TreePath) -> String {
    let path = String::from_utf8_lossy(path.as_bytes());
    let mut title = String::with_capacity(path.len() + 1);
    title.push('/');
    title.push_str(&path);
    title
}
