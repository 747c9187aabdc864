//! Which paths the `File` and `Concat_file` resources of a catalog stand for.

use std::collections::HashMap;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Catalog, Resource, TreePath, Value};

use super::GraphError;
use crate::provider::ManagedPaths;

/// By index, resources whose path cannot be managed, and why.
pub(crate) type BadPaths = HashMap<usize, GraphError, FastState>;

/// Returns the paths of all resources that stand for one. Those whose path is not absolute, leaves the root or has a NUL are put into `bad`, by index.
///
/// # Errors
///
/// When two resources stand for the same path.
pub(crate) fn managed_paths(catalog: &Catalog, bad: &mut BadPaths) -> Result<ManagedPaths, GraphError> {
    let mut managed = ManagedPaths::default();
    for (at, resource) in catalog.resources.iter().enumerate().filter(|(_, resource)| is_path(resource)) {
        let path = match path_of(resource) {
            Ok(path) => path,
            Err(error) => {
                bad.insert(at, error);
                continue;
            }
        };
        if let Some(path) = managed.replace(path) {
            let stands_for_it = |resource: &&Resource| is_path(resource) && path_of(resource).is_ok_and(|found| found == path);
            let first = catalog.resources.iter().find(stands_for_it).map_or_else(|| resource.reference(), Resource::reference);
            return Err(GraphError::DuplicatePath { path: path.absolute(), first, second: resource.reference() });
        }
    }
    Ok(managed)
}

/// Whether a resource stands for a path, as `File` does.
fn is_path(resource: &Resource) -> bool {
    matches!(resource.resource_type.as_str(), "File" | "Concat_file")
}

fn path_of(resource: &Resource) -> Result<TreePath, GraphError> {
    let text = match resource.parameter("path") {
        Some(Value::String(path)) => path.as_bytes(),
        Some(Value::Binary(path)) => path.as_slice(),
        _ => resource.title.as_bytes(),
    };
    TreePath::from_absolute(text).map_err(|source| GraphError::Path { resource: resource.reference(), source })
}
