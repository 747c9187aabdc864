//! A catalog in Puppet's format 2.

use bytes::Bytes;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{Catalog, CatalogId, CodeId, Digest, EntryKind, Resource, Value};
use serde_json::{Map, Value as Json, json};

use crate::error::ServerError;
use crate::puppet_api::answer::Failure;

pub(super) use super::sources::Static;

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

impl Document<'_> {
    /// Writes it. Blocking.
    ///
    /// # Errors
    ///
    /// When a content of it is missing or damaged.
    pub(super) fn render(&self) -> Result<Bytes, Failure> {
        let catalog = self.catalog;
        let (mut metadata, mut recursive) = (Map::new(), Map::new());
        let mut resources = Vec::with_capacity(catalog.resources.len());
        for resource in &catalog.resources {
            resources.push(self.resource(resource)?);
            if let Some(inlined) = self.inlined {
                inlined.add(resource, &mut metadata, &mut recursive)?;
            }
        }
        let edge = |edge: &direct_puppet_transport::protocol::Edge| json!({"source": edge.source.to_string(), "target": edge.target.to_string()});
        let mut document = json!({
            "name": catalog.certname,
            "version": self.time,
            "code_id": self.code_id,
            "catalog_uuid": self.uuid(),
            "catalog_format": 2,
            "environment": catalog.environment,
            "tags": catalog.classes,
            "classes": catalog.classes,
            "resources": resources,
            "edges": catalog.edges.iter().map(edge).collect::<Vec<_>>(),
        });
        if let Some(document) = document.as_object_mut() {
            for (name, inlined) in [("metadata", metadata), ("recursive_metadata", recursive)] {
                if !inlined.is_empty() {
                    document.insert(name.to_owned(), Json::Object(inlined));
                }
            }
        }
        serde_json::to_vec(&document).map(Bytes::from).map_err(|error| Failure::internal(&error))
    }

    /// An id of what was compiled, as Puppet's reports repeat it: the same catalog of the same code has the same.
    fn uuid(&self) -> String {
        let hex = Digest::of(format!("{} {}", self.catalog_id, self.code_id).as_bytes()).to_hex();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }

    fn resource(&self, resource: &Resource) -> Result<Json, Failure> {
        let (mut parameters, mut secrets) = (Map::new(), Vec::new());
        for (name, value) in &resource.parameters {
            let value = match value {
                Value::Sensitive(value) => {
                    secrets.push(name.as_str());
                    value
                }
                value => value,
            };
            if *value != Value::Undef {
                parameters.insert(name.clone(), self.value(value)?);
            }
        }
        if let Some(content) = self.compiled_content(resource)? {
            parameters.insert("content".to_owned(), content);
        }
        let mut json = json!({
            "type": resource.resource_type,
            "title": resource.title,
            "tags": resource.tags,
            "exported": false,
            "kind": kind(resource),
        });
        if let Some(object) = json.as_object_mut() {
            let mut put = |name: &str, value: Option<Json>| drop(value.map(|value| object.insert(name.to_owned(), value)));
            put("file", resource.file.clone().map(Json::from));
            put("line", resource.line.map(Json::from));
            put("parameters", (!parameters.is_empty()).then(|| Json::Object(parameters)));
            put("sensitive_parameters", (!secrets.is_empty()).then(|| json!(secrets)));
        }
        Ok(json)
    }

    /// Returns the content of a file that the compile made: it is in the catalog and nowhere else.
    fn compiled_content(&self, resource: &Resource) -> Result<Option<Json>, Failure> {
        let Some(resolved) = resource.resolved.as_ref().filter(|resolved| resolved.uri.is_none()) else { return Ok(None) };
        let Some(EntryKind::File { digest, .. }) = resolved.entries.first().map(|entry| &entry.kind) else { return Ok(None) };
        let content = self.store.read(digest, MAX_CATALOG_BYTES).map_err(ServerError::from)?;
        let content = content.ok_or_else(|| Failure::server("a content of the catalog is gone from this server: try again"))?;
        match std::str::from_utf8(&content) {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => self.value(&Value::Binary(content.to_vec())).map(Some),
        }
    }

    /// Writes a value. Where no rich data is read, a secret inside another value is written as it is, and bytes as Base64.
    fn value(&self, value: &Value) -> Result<Json, Failure> {
        if self.is_rich {
            return serde_json::to_value(value).map_err(|error| Failure::internal(&error));
        }
        Ok(match value {
            Value::Sensitive(value) => self.value(value)?,
            Value::Array(values) => Json::Array(values.iter().map(|value| self.value(value)).collect::<Result<_, _>>()?),
            Value::Hash(values) => {
                let pair = |(name, value): (&String, &Value)| Ok((name.clone(), self.value(value)?));
                Json::Object(values.iter().map(pair).collect::<Result<_, Failure>>()?)
            }
            Value::Binary(_) => {
                let mut rich = serde_json::to_value(value).map_err(|error| Failure::internal(&error))?;
                rich.get_mut("__pvalue").map(Json::take).unwrap_or_default()
            }
            plain => serde_json::to_value(plain).map_err(|error| Failure::internal(&error))?,
        })
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
