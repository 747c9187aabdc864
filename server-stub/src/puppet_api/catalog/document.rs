//! A catalog in Puppet's format 2.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use direct_puppet_agent::fs::FsErrorKind;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{
    Catalog, CatalogId, Certname, CodeId, Digest, EntryKind, Environment, Resource, ResourceRef, Value,
};
use serde::Serialize;

use super::sources::{Inlined, Static};
use super::value::PuppetValue;
use crate::error::ServerError;
use crate::puppet_api::answer::Failure;

/// What is made into a document. The same always makes the same.
pub(super) struct Document<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) catalog_id: CatalogId,
    pub(super) code_id: CodeId,
    /// When it was compiled, in seconds since 1970 UTC: the version of the catalog.
    pub(super) time: u64,
    /// Whether rich data may be in it.
    pub(super) is_rich: bool,
    /// Where contents are that the compile made.
    pub(super) store: &'a Store,
    /// For a static catalog: what describes its files.
    pub(super) inlined: Option<&'a Static<'a>>,
}

#[derive(Serialize)]
struct PuppetCatalog<'a> {
    tags: &'a [String],
    name: &'a Certname,
    version: u64,
    code_id: CodeId,
    catalog_uuid: String,
    catalog_format: u32,
    environment: &'a Environment,
    resources: Vec<PuppetResource<'a>>,
    edges: Vec<PuppetEdge<'a>>,
    classes: &'a [String],
    #[serde(flatten)]
    inlined: Inlined,
}

#[derive(Serialize)]
struct PuppetEdge<'a> {
    source: &'a ResourceRef,
    target: &'a ResourceRef,
}

#[derive(Serialize)]
struct PuppetResource<'a> {
    #[serde(rename = "type")]
    resource_type: &'a str,
    title: &'a str,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    exported: bool,
    kind: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'a str, PuppetValue<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sensitive_parameters: Vec<&'a str>,
}

impl Document<'_> {
    /// Writes it. Blocking.
    ///
    /// # Errors
    ///
    /// When a content of it is missing or damaged.
    pub(super) fn render(&self) -> Result<Bytes, Failure> {
        let catalog = self.catalog;
        let mut inlined = Inlined::default();
        let mut resources = Vec::with_capacity(catalog.resources.len());
        for resource in &catalog.resources {
            resources.push(self.resource(resource)?);
            if let Some(files) = self.inlined {
                files.add(resource, &mut inlined)?;
            }
        }
        let document = PuppetCatalog {
            tags: &catalog.classes,
            name: &catalog.certname,
            version: self.time,
            code_id: self.code_id,
            catalog_uuid: self.uuid(),
            catalog_format: 2,
            environment: &catalog.environment,
            resources,
            edges: catalog.edges.iter().map(|edge| PuppetEdge { source: &edge.source, target: &edge.target }).collect(),
            classes: &catalog.classes,
            inlined,
        };
        let mut bytes = serde_json::to_vec(&document).map_err(|error| Failure::internal(&error))?;
        // It may be kept.
        bytes.shrink_to_fit();
        Ok(bytes.into())
    }

    /// An id of what was compiled, as Puppet's reports repeat it: the same catalog of the same code has the same.
    fn uuid(&self) -> String {
        let hex = Digest::of(format!("{} {}", self.catalog_id, self.code_id).as_bytes()).to_hex();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }

    fn resource<'a>(&self, resource: &'a Resource) -> Result<PuppetResource<'a>, Failure> {
        let (mut parameters, mut sensitive_parameters) = (BTreeMap::new(), Vec::new());
        let is_rich = self.is_rich;
        for (name, value) in &resource.parameters {
            let value = match value {
                Value::Sensitive(value) => {
                    sensitive_parameters.push(name.as_str());
                    value
                }
                value => value,
            };
            if *value != Value::Undef {
                parameters.insert(name.as_str(), PuppetValue { value: Cow::Borrowed(value), is_rich });
            }
        }
        if let Some(content) = self.compiled_content(resource)? {
            parameters.insert("content", PuppetValue { value: Cow::Owned(content), is_rich });
        }
        Ok(PuppetResource {
            resource_type: &resource.resource_type,
            title: &resource.title,
            tags: &resource.tags,
            file: resource.file.as_deref(),
            line: resource.line,
            exported: false,
            kind: kind(resource),
            parameters,
            sensitive_parameters,
        })
    }

    /// Returns the content of a file that the compile made: it is in the catalog and nowhere else.
    fn compiled_content(&self, resource: &Resource) -> Result<Option<Value>, Failure> {
        let Some(resolved) = resource.resolved.as_ref().filter(|resolved| resolved.uri.is_none()) else { return Ok(None) };
        let Some(EntryKind::File { digest, .. }) = resolved.entries.first().map(|entry| &entry.kind) else { return Ok(None) };
        let content = match self.store.read(digest, MAX_CATALOG_BYTES) {
            Err(error) if error.kind == FsErrorKind::DigestMismatch => None,
            read => read.map_err(ServerError::from)?,
        };
        let content = content.ok_or_else(|| Failure::gone("a content of the catalog was lost on this server: try again"))?;
        Ok(Some(String::from_utf8(content.to_vec()).map_or_else(|error| Value::Binary(error.into_bytes()), Value::String)))
    }
}

/// Puppet's word for what a resource is; what is no compilable type only holds others.
fn kind(resource: &Resource) -> &'static str {
    match resource.resource_type.as_str() {
        "Class" => "class",
        "Node" => "unknown",
        "Stage" => "compilable_type",
        _ if resource.container => "defined_type",
        _ => "compilable_type",
    }
}
