//! Which paths the `File` and `Concat_file` resources of a catalog stand for.

use std::collections::{HashMap, HashSet};

use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, TreePath, Value};

use super::GraphError;

/// Returns the paths of all resources that stand for one. Those whose path is not absolute, leaves the root or has a NUL are put into `bad`, by index.
///
/// # Errors
///
/// When two resources stand for the same path.
pub(crate) fn managed_paths(catalog: &Catalog, bad: &mut HashMap<usize, GraphError>) -> Result<HashSet<TreePath>, GraphError> {
    let mut owners: HashMap<TreePath, ResourceRef> = HashMap::new();
    for (at, resource) in catalog.resources.iter().enumerate().filter(|(_, resource)| is_path(resource)) {
        let path = match path_of(resource) {
            Ok(path) => path,
            Err(error) => {
                bad.insert(at, error);
                continue;
            }
        };
        if let Some(first) = owners.insert(path.clone(), resource.reference()) {
            return Err(GraphError::DuplicatePath { path: path.absolute(), first, second: resource.reference() });
        }
    }
    Ok(owners.into_keys().collect())
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
