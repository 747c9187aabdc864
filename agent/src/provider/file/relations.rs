//! Resources that come before a `File` without being asked for.

use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, TreePath};

use super::managed_path;
use super::parameters::{Account, Parameters};
use super::source::link_destination;

/// Returns the `File` of the nearest directory above, that of a link's target, and the owner and group.
pub(super) fn autorequire(resource: &Resource, catalog: &Catalog) -> Vec<ResourceRef> {
    let Ok(parameters) = Parameters::parse(resource) else { return Vec::new() };
    let target = parameters.target.as_deref().and_then(|target| link_destination(&parameters.path, target));
    let mut nearest: Option<(usize, ResourceRef)> = None;
    let mut required = Vec::new();
    let accounts = [("User", &parameters.owner), ("Group", &parameters.group)];
    for other in catalog.resources.iter().filter(|other| other.reference() != resource.reference()) {
        if other.resource_type == resource.resource_type {
            let Ok(path) = managed_path(other) else { continue };
            if is_above(&path, &parameters.path) && nearest.as_ref().is_none_or(|(depth, _)| path.depth() > *depth) {
                nearest = Some((path.depth(), other.reference()));
            } else if target.as_ref() == Some(&path) {
                required.push(other.reference());
            }
        }
        required
            .extend(accounts.iter().filter(|(kind, account)| names(other, kind, account.as_ref())).map(|_| other.reference()));
    }
    required.extend(nearest.map(|(_, reference)| reference));
    required
}

fn is_above(path: &TreePath, below: &TreePath) -> bool {
    path != below && below.is_within(path)
}

fn names(resource: &Resource, kind: &str, account: Option<&Account>) -> bool {
    let Some(Account::Name(wanted)) = account else { return false };
    let name = resource.parameter("name").and_then(|name| name.as_str()).unwrap_or(&resource.title);
    resource.resource_type == kind && name == wanted
}
