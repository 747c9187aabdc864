//! Resources that come before a `File` without being asked for.

use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath};

use super::parameters::{Account, Named};
use crate::fs::link_destination;

/// Returns the `File` and the `Mount` of each directory above, the `File` of a link's target, and the owner and group. Puppet takes the nearest
/// directory only; all of them make the same order, because the nearest itself comes after the others.
pub(super) fn autorequire(resource: &Resource) -> Vec<ResourceRef> {
    // A resource that makes no sense elsewhere is not applied at all.
    let Ok(named) = Named::of(resource) else { return Vec::new() };
    let mut required = Vec::new();
    let mut above = named.path.parent();
    while let Some(path) = above {
        required.push(file(resource, &path));
        // In Puppet the mount comes before the file of its own accord; that makes the same order.
        required.push(ResourceRef { resource_type: "Mount".to_owned(), title: title_of(&path) });
        above = path.parent();
    }
    let target = named.target.as_deref().and_then(|target| link_destination(&named.path, target));
    // A link to itself, or to a directory above it, says nothing new.
    required.extend(target.filter(|path| !named.path.is_within(path)).map(|path| file(resource, &path)));
    for (kind, account) in [("User", &named.owner), ("Group", &named.group)] {
        if let Some(Account::Name(name)) = account {
            required.push(ResourceRef { resource_type: kind.to_owned(), title: name.clone() });
        }
    }
    required
}

fn file(resource: &Resource, path: &TreePath) -> ResourceRef {
    ResourceRef { resource_type: resource.resource_type.clone(), title: title_of(path) }
}

/// Returns the title that a `File` at this path usually has.
pub(super) fn title_of(path: &TreePath) -> String {
    format!("/{}", String::from_utf8_lossy(path.as_bytes()))
}
