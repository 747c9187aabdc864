//! The outermost shape of a catalog's JSON.
//!
//! Nearly all catalogs have it just as it should be: these are read straight into the structs here. Of any other the whole JSON is read, and
//! looked at piece by piece, so that the error can say what is wrong where.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::{PuppetCatalogError, shape};

/// A catalog whose resources are not looked at yet.
pub(super) struct Document {
    pub(super) catalog_format: Option<Json>,
    pub(super) name: Option<Json>,
    pub(super) environment: Option<Json>,
    pub(super) classes: Option<Json>,
    /// Source and target of each; an error where they are no text.
    pub(super) edges: Result<Vec<(String, String)>, PuppetCatalogError>,
    pub(super) resources: Result<Vec<Declared>, PuppetCatalogError>,
    pub(super) version: Option<Json>,
    pub(super) code_id: Option<Json>,
    pub(super) catalog_uuid: Option<Json>,
}

/// A resource as it stands in a catalog.
#[derive(Debug, Deserialize)]
pub(super) struct Declared {
    #[serde(rename = "type")]
    pub(super) resource_type: Option<Json>,
    pub(super) title: Option<Json>,
    pub(super) kind: Option<Json>,
    pub(super) tags: Option<Json>,
    pub(super) file: Option<Json>,
    pub(super) line: Option<Json>,
    pub(super) parameters: Option<Json>,
    pub(super) sensitive_parameters: Option<Json>,
}

#[derive(Deserialize)]
struct Shaped<'a> {
    catalog_format: Option<Json>,
    name: Option<Json>,
    environment: Option<Json>,
    classes: Option<Json>,
    #[serde(borrow)]
    edges: Option<Vec<Object<ShapedEdge<'a>>>>,
    resources: Vec<Object<Declared>>,
    version: Option<Json>,
    code_id: Option<Json>,
    catalog_uuid: Option<Json>,
    metadata: Option<Map<String, Json>>,
    recursive_metadata: Option<Map<String, Json>>,
}

#[derive(Deserialize)]
struct ShapedEdge<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    target: Cow<'a, str>,
}

/// What is an object in JSON; a list of the values of its keys would do for serde otherwise.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Read(PhantomData)).map(Self)
    }
}

/// What the sources of files resolve to, as the catalog has it.
pub(super) struct Metadata {
    pub(super) single: Map<String, Json>,
    pub(super) recursive: Map<String, Json>,
}

/// Reads a catalog that has the shape of one; `None` when it is to be looked at piece by piece.
pub(super) fn read_shaped(json: &[u8]) -> Option<(Document, Metadata)> {
    let Object(shaped): Object<Shaped<'_>> = serde_json::from_slice(json).ok()?;
    let edges = shaped.edges.unwrap_or_default().into_iter();
    let document = Document {
        catalog_format: shaped.catalog_format,
        name: shaped.name,
        environment: shaped.environment,
        classes: shaped.classes,
        edges: Ok(edges.map(|Object(edge)| (edge.source.into_owned(), edge.target.into_owned())).collect()),
        resources: Ok(shaped.resources.into_iter().map(|Object(resource)| resource).collect()),
        version: shaped.version,
        code_id: shaped.code_id,
        catalog_uuid: shaped.catalog_uuid,
    };
    let metadata =
        Metadata { single: shaped.metadata.unwrap_or_default(), recursive: shaped.recursive_metadata.unwrap_or_default() };
    Some((document, metadata))
}

impl Document {
    pub(super) fn of(mut json: Map<String, Json>) -> Self {
        let resources = match json.remove("resources") {
            Some(Json::Array(list)) => list.into_iter().enumerate().map(|(at, json)| Declared::of(at, json)).collect(),
            _ => Err(shape("resources", "a list")),
        };
        Self {
            catalog_format: json.remove("catalog_format"),
            name: json.remove("name"),
            environment: json.remove("environment"),
            classes: json.remove("classes"),
            edges: edges(json.remove("edges")),
            resources,
            version: json.remove("version"),
            code_id: json.remove("code_id"),
            catalog_uuid: json.remove("catalog_uuid"),
        }
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

fn edges(json: Option<Json>) -> Result<Vec<(String, String)>, PuppetCatalogError> {
    let list = match json {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(list)) => list,
        Some(_) => return Err(shape("edges", "a list")),
    };
    let end = |edge: &Json, name: &str, at: usize| match edge.get(name) {
        Some(Json::String(text)) => Ok(text.clone()),
        _ => Err(shape(format!("{name} of edge {at}"), "a reference, as Type[title]")),
    };
    list.iter().enumerate().map(|(at, edge)| Ok((end(edge, "source", at)?, end(edge, "target", at)?))).collect()
}
