//! The long way to read a catalog: its whole JSON, looked at piece by piece, so that an error can say what is wrong where.

use direct_puppet_transport::protocol::Edge;
use serde_json::{Map, Value as Json};

use super::{PuppetCatalogError, reference, shape};

/// What a catalog says besides its resources and edges.
pub(super) struct Head {
    pub(super) catalog_format: Option<Json>,
    pub(super) name: Option<Json>,
    pub(super) environment: Option<Json>,
    pub(super) classes: Option<Json>,
    pub(super) version: Option<Json>,
    pub(super) code_id: Option<Json>,
    pub(super) catalog_uuid: Option<Json>,
}

/// A catalog whose resources are not looked at yet.
pub(super) struct Document {
    pub(super) head: Head,
    /// An error where they are none.
    pub(super) edges: Result<Vec<Edge>, PuppetCatalogError>,
    pub(super) resources: Result<Vec<Declared>, PuppetCatalogError>,
}

/// A resource as it stands in a catalog.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) resource_type: Option<Json>,
    pub(super) title: Option<Json>,
    pub(super) kind: Option<Json>,
    pub(super) tags: Option<Json>,
    pub(super) file: Option<Json>,
    pub(super) line: Option<Json>,
    pub(super) parameters: Option<Json>,
    pub(super) sensitive_parameters: Option<Json>,
}

/// What the sources of files resolve to, as the catalog has it.
pub(super) struct Metadata {
    pub(super) single: Map<String, Json>,
    pub(super) recursive: Map<String, Json>,
}

impl Document {
    pub(super) fn of(mut json: Map<String, Json>) -> Self {
        let resources = match json.remove("resources") {
            Some(Json::Array(list)) => list.into_iter().enumerate().map(|(at, json)| Declared::of(at, json)).collect(),
            _ => Err(shape("resources", "a list")),
        };
        let head = Head {
            catalog_format: json.remove("catalog_format"),
            name: json.remove("name"),
            environment: json.remove("environment"),
            classes: json.remove("classes"),
            version: json.remove("version"),
            code_id: json.remove("code_id"),
            catalog_uuid: json.remove("catalog_uuid"),
        };
        Self { head, edges: edges(json.remove("edges")), resources }
    }
}

impl Declared {
    fn of(at: usize, json: Json) -> Result<Self, PuppetCatalogError> {
        let Json::Object(mut json) = json else { return Err(shape(format!("resource {at}"), "an object")) };
        Ok(Self {
            resource_type: json.remove("type"),
            title: json.remove("title"),
            kind: json.remove("kind"),
            tags: json.remove("tags"),
            file: json.remove("file"),
            line: json.remove("line"),
            parameters: json.remove("parameters"),
            sensitive_parameters: json.remove("sensitive_parameters"),
        })
    }
}

fn edges(json: Option<Json>) -> Result<Vec<Edge>, PuppetCatalogError> {
    let list = match json {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(list)) => list,
        Some(_) => return Err(shape("edges", "a list")),
    };
    let end = |edge: &Json, name: &str, at: usize| {
        let Some(Json::String(text)) = edge.get(name) else {
            return Err(shape(format!("{name} of edge {at}"), "a reference, as Type[title]"));
        };
        reference::parse(text).ok_or_else(|| shape(format!("{name} of edge {at}, {text:?},"), "a reference, as Type[title]"))
    };
    list.iter()
        .enumerate()
        .map(|(at, edge)| Ok(Edge { source: end(edge, "source", at)?, target: end(edge, "target", at)? }))
        .collect()
}
