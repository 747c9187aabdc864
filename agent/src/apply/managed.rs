//! Which paths the `File` resources of a catalog stand for.

use std::collections::{HashMap, HashSet};

use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, TreePath, Value};

use super::GraphError;

/// Returns the paths of all `File` resources.
///
/// # Errors
///
/// When a path is not absolute, leaves the root, has a NUL, or two resources stand for the same one.
pub(crate) fn managed_paths(catalog: &Catalog) -> Result<HashSet<TreePath>, GraphError> {
    let mut owners: HashMap<TreePath, ResourceRef> = HashMap::new();
    for resource in catalog.resources.iter().filter(|resource| matches!(&*resource.resource_type, "File" | "Concat_file")) {
        let path = path_of(resource)?;
        if let Some(first) = owners.insert(path.clone(), resource.reference()) {
            return Err(GraphError::DuplicatePath { path: path.absolute(), first, second: resource.reference() });
        }
    }
    Ok(owners.into_keys().collect())
}

fn path_of(resource: &Resource) -> Result<TreePath, GraphError> {
    let text = match resource.parameter("path") {
        Some(Value::String(path)) => path.as_bytes(),
        Some(Value::Binary(path)) => path.as_slice(),
        _ => resource.title.as_bytes(),
    };
    TreePath::from_absolute(text).map_err(|source| GraphError::Path { resource: resource.reference(), source })
}
