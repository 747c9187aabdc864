//! From Puppet's catalog to ours.

use std::collections::BTreeMap;

use direct_puppet_agent::PuppetCatalog;
use direct_puppet_transport::protocol::Catalog;
use serde_json::{Map, Value as Json};

use super::checkout::Checkout;
use super::error;
use super::sources::Sources;
use crate::compile::{CompileError, CompileRequest};
use crate::error::chain;

/// Makes of a catalog of Puppet's, which is not static, one that is. `modules` are the directories of modules, by name.
pub(super) fn read(
    request: &CompileRequest,
    document: Map<String, Json>,
    modules: BTreeMap<String, String>,
    checkout: &Checkout,
) -> Result<Catalog, CompileError> {
    let fail = |message: String| CompileError::at(&error::place(&request.code), message);
    let modules = modules.into_iter().map(|(name, path)| (name, checkout.tree_path(&path))).collect();
    let sources = Sources { manifest: &request.code.manifest, modules };
    let mut missing = None;
    let read = PuppetCatalog::from_compiler(document, &mut |resource| match sources.resolve(resource) {
        Ok(()) => Ok(()),
        Err(reason) if resource.resource_type == "File" => {
            missing.get_or_insert_with(|| resource.reference());
            Err(reason)
        }
        // A piece that is not there fails what is made of it, on the node, as with a Puppet Server; many pieces are of nothing.
        Err(_) => Ok(()),
    });
    let PuppetCatalog { mut catalog, unusable, .. } = read.map_err(|error| fail(chain(&error)))?;
    for resource in &mut catalog.resources {
        if let Some(file) = &mut resource.file {
            *file = checkout.published(file);
        }
    }
    // Sources come first: the others are rare.
    if let Some(reference) = missing.or_else(|| unusable.keys().next().cloned())
        && let Some(reason) = unusable.get(&reference)
    {
        let resource = catalog.resources.iter().find(|resource| resource.reference() == reference);
        let error = match resource.and_then(|resource| resource.file.as_deref()) {
            Some(file) => CompileError::at(file, format!("{reference}: {reason}")),
            None => fail(format!("{reference}: {reason}")),
        };
        return Err(error.with_line(resource.and_then(|resource| resource.line).unwrap_or(0).into()));
    }
    if catalog.certname != request.certname || catalog.environment != request.code.version.environment {
        let message = format!("the catalog is for {} in {}, which was not asked for", catalog.certname, catalog.environment);
        return Err(fail(message));
    }
    Ok(catalog)
}
