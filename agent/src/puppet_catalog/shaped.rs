//! The short way to read a catalog: straight into what the agent applies, with nothing between the text and its values.
//!
//! Nearly all catalogs have just the shape that they should have. Anything that has not, or that an error would have to speak of, is left to the long
//! way ([`document`](super::document)), which reads the whole JSON and looks at it piece by piece.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use direct_puppet_transport::protocol::{Edge, Resource, Value};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::document::{Head, Metadata};
use super::reference;
use super::resource::{self, is_relationship};
use super::value::ValueSeed;

/// A catalog as it was read.
pub(super) struct Shaped {
    pub(super) head: Head,
    pub(super) edges: Vec<Edge>,
    pub(super) resources: Vec<Plain>,
    pub(super) metadata: Metadata,
}

/// A resource as it was read: all of its parameters are there, whatever it is.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) resource: Resource,
    /// Whether its `kind` says that it is a container.
    pub(super) container: Option<bool>,
    /// Names of parameters that are secret.
    pub(super) secrets: Vec<String>,
}

/// Reads a catalog; `None` when it is to be looked at piece by piece.
pub(super) fn read(json: &[u8]) -> Option<Shaped> {
    // All of it at once: then no string in it has to be looked at.
    let text = std::str::from_utf8(json).ok()?;
    let Object(read): Object<Read> = serde_json::from_str(text).ok()?;
    let head = Head {
        catalog_format: read.catalog_format,
        name: read.name,
        environment: read.environment,
        classes: read.classes,
        version: read.version,
        code_id: read.code_id,
        catalog_uuid: read.catalog_uuid,
    };
    let metadata = Metadata { single: read.metadata.unwrap_or_default(), recursive: read.recursive_metadata.unwrap_or_default() };
    Some(Shaped { head, edges: read.edges.unwrap_or_default(), resources: read.resources, metadata })
}

#[derive(Deserialize)]
struct Read {
    catalog_format: Option<Json>,
    name: Option<Json>,
    environment: Option<Json>,
    classes: Option<Json>,
    #[serde(default, deserialize_with = "edges")]
    edges: Option<Vec<Edge>>,
    #[serde(deserialize_with = "resources")]
    resources: Vec<Plain>,
    version: Option<Json>,
    code_id: Option<Json>,
    catalog_uuid: Option<Json>,
    metadata: Option<Map<String, Json>>,
    recursive_metadata: Option<Map<String, Json>>,
}

fn edges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Edge>>, D::Error> {
    let read: Option<Each<Object<ReadEdge<'de>>, Edge>> = Option::deserialize(deserializer)?;
    Ok(read.map(|Each(edges, _)| edges))
}

fn resources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Plain>, D::Error> {
    Each::<Object<ReadResource<'de>>, Plain>::deserialize(deserializer).map(|Each(resources, _)| resources)
}

/// A list, each element of which is made into what is kept of it as soon as it is read.
struct Each<R, T>(Vec<T>, PhantomData<R>);

impl<'de, R: Deserialize<'de>, T: TryFrom<R>> Deserialize<'de> for Each<R, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<R, T>(PhantomData<(R, T)>);
        impl<'de, R: Deserialize<'de>, T: TryFrom<R>> Visitor<'de> for List<R, T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = list.next_element::<R>()? {
                    all.push(T::try_from(element).map_err(|_| A::Error::custom("not of that shape"))?);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_seq(List(PhantomData)).map(|all| Self(all, PhantomData))
    }
}

/// What is an object in JSON; a list of the values of its keys would do for serde otherwise.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Read(PhantomData)).map(Self)
    }
}

#[derive(Deserialize)]
struct ReadEdge<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    target: Cow<'a, str>,
}

impl TryFrom<Object<ReadEdge<'_>>> for Edge {
    type Error = ();

    fn try_from(Object(edge): Object<ReadEdge<'_>>) -> Result<Self, ()> {
        let end = |text: &str| reference::parse(text).ok_or(());
        Ok(Self { source: end(&edge.source)?, target: end(&edge.target)? })
    }
}

#[derive(Deserialize)]
struct ReadResource<'a> {
    #[serde(rename = "type", borrow)]
    resource_type: Cow<'a, str>,
    #[serde(borrow)]
    title: Cow<'a, str>,
    #[serde(borrow)]
    kind: Option<&'a str>,
    tags: Option<Vec<String>>,
    file: Option<String>,
    line: Option<Json>,
    parameters: Option<Parameters>,
    sensitive_parameters: Option<Vec<String>>,
}

impl TryFrom<Object<ReadResource<'_>>> for Plain {
    type Error = ();

    fn try_from(Object(read): Object<ReadResource<'_>>) -> Result<Self, ()> {
        let reference = reference::of(&read.resource_type, &read.title).ok_or(())?;
        let line = resource::line(read.line.as_ref());
        let container = read.kind.and_then(resource::kind_of);
        let resource = Resource {
            resource_type: reference.resource_type,
            title: reference.title,
            parameters: read.parameters.map(|Parameters(parameters)| parameters).unwrap_or_default(),
            tags: read.tags.unwrap_or_default(),
            resolved: None,
            container: false,
            unusable: None,
            file: read.file,
            line,
        };
        Ok(Self { resource, container, secrets: read.sensitive_parameters.unwrap_or_default() })
    }
}

/// All parameters of a resource. Those that name other resources hold plain values alone.
struct Parameters(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = BTreeMap<String, Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<String, Value>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let seed = if is_relationship(&name) { ValueSeed::PLAIN } else { ValueSeed::RICH };
                    let value = map.next_value_seed(seed)?;
                    all.insert(name, value);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(Read).map(Self)
    }
}
