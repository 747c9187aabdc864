//! Where a file on this node comes from: which resource of which catalog, from which code.

use std::path::Path;

use direct_puppet_transport::protocol::{
    Catalog, Certname, Digest, EntryKind, Environment, Held, ManifestEntry, Resource, Value,
};
use serde::{Deserialize, Serialize};

use crate::catalog_cache::CatalogCache;
use crate::error::RunError;

/// What manages a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The resource, as `File[/srv/app]`.
    pub resource: String,
    /// Where it was declared: a file within the environment.
    pub file: Option<String>,
    /// Where it was declared: a line, from 1.
    pub line: Option<u32>,
    /// The source that its contents come from, as `puppet:///modules/…`; `None` for compiled content.
    pub source: Option<String>,
    /// What lies at the path: `file`, `directory` or `link`; `None` when the catalog does not say.
    pub kind: Option<String>,
    /// The content of a file.
    pub digest: Option<Digest>,
}

/// Returns what of a catalog manages the absolute path `path`: the resource of that path, or the recursive one that has it below.
#[must_use]
pub fn origin(catalog: &Catalog, path: &str) -> Option<Origin> {
    let path = path.trim_end_matches('/');
    let files = catalog.resources.iter().filter(|resource| resource.resource_type == "File");
    let managing = files.filter_map(|resource| {
        let rest = below(managed_path(resource), path)?;
        Some((resource, rest, entry(resource, rest)?))
    });
    // The resource itself wins over one that has it below, and the nearest of those over the others.
    let (resource, rest, found) = managing.min_by_key(|(_, rest, _)| rest.len())?;
    let (kind, digest) = match found.map(|entry| &entry.kind) {
        Some(EntryKind::File { digest, .. }) => (Some("file"), Some(*digest)),
        Some(EntryKind::Directory) => (Some("directory"), None),
        Some(EntryKind::Link { .. }) => (Some("link"), None),
        None => (None, None),
    };
    let uri = resource.resolved.as_ref().and_then(|resolved| resolved.uri.clone());
    Some(Origin {
        resource: resource.reference().to_string(),
        file: resource.file.clone(),
        line: resource.line,
        source: uri.map(|uri| if rest.is_empty() { uri } else { format!("{uri}/{rest}") }),
        kind: kind.map(str::to_owned),
        digest,
    })
}

/// The path that a file resource manages.
fn managed_path(resource: &Resource) -> &str {
    let path = match resource.parameters.get("path") {
        Some(Value::String(path)) => path,
        _ => &resource.title,
    };
    path.trim_end_matches('/')
}

/// Returns what of `path` lies below `base`; empty for `base` itself.
fn below<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Returns the entry of a resource at `rest`; `Some(None)` when it is the resource itself and has none.
fn entry<'a>(resource: &'a Resource, rest: &str) -> Option<Option<&'a ManifestEntry>> {
    let entries = resource.resolved.as_ref().map(|resolved| resolved.entries.as_slice()).unwrap_or_default();
    let found = entries.iter().find(|entry| entry.path.as_bytes() == rest.as_bytes());
    if found.is_some() || rest.is_empty() { Some(found) } else { None }
}

/// Returns what manages a path on this node by the catalog that it last accepted, and where that came from. Blocking.
///
/// # Errors
///
/// When the state directory cannot be read.
pub fn explain(
    state_dir: &Path,
    certname: &Certname,
    environment: &Environment,
    path: &str,
) -> Result<Option<(Held, Option<Origin>)>, RunError> {
    let catalogs = CatalogCache::ensure(state_dir, certname)?;
    Ok(catalogs.load(environment).map(|(held, catalog)| (held, origin(&catalog, path))))
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
    use direct_puppet_transport::protocol::{ResolvedSource, TreePath};

    use super::*;

    #[test]
    fn the_nearest_resource_that_has_a_path_explains_it() {
        let digest = Digest::of(b"x");
        let file = |path: TreePath| ManifestEntry { path, mode: 0o644, kind: EntryKind::File { digest, size: 1 } };
        let directory = ManifestEntry { path: TreePath::root(), mode: 0o755, kind: EntryKind::Directory };
        let tree = Resource {
            resolved: Some(ResolvedSource {
                uri: Some("puppet:///modules/app/tree".to_owned()),
                entries: vec![directory, file("a/b".parse().unwrap()), file("a/own".parse().unwrap())],
            }),
            ..Resource::new("File", "/srv/app")
        };
        let own = Resource::new("File", "own").with("path", "/srv/app/a/own/");
        let catalog = Catalog {
            format: CATALOG_FORMAT,
            certname: "n1".parse().unwrap(),
            environment: Environment::default(),
            classes: Vec::new(),
            resources: vec![tree, own, Resource::new("Exec", "/srv/app/a/b")],
            edges: Vec::new(),
        };
        let found = |path: &str| origin(&catalog, path).map(|origin| (origin.resource, origin.source, origin.digest));
        let source = |rest: &str| Some(format!("puppet:///modules/app/tree{rest}"));
        assert_eq!(found("/srv/app/"), Some(("File[/srv/app]".to_owned(), source(""), None)));
        assert_eq!(found("/srv/app/a/b"), Some(("File[/srv/app]".to_owned(), source("/a/b"), Some(digest))));
        assert_eq!(found("/srv/app/a/own"), Some(("File[own]".to_owned(), None, None)));
        for unknown in ["/srv", "/srv/app/c", "/srv/apple", "", "/"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
    }
}
