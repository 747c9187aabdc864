//! One resource.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Resource, ResourceRef, Value};
use serde_json::{Map, Value as Json};

use super::deferred::Deferreds;
use super::document::Declared;
use super::taking::PIECE;
use super::{PuppetCatalogError, Resolve, reference, shape, strings, value};

/// Metaparameters that name other resources.
const RELATIONSHIPS: [&str; 4] = ["before", "notify", "require", "subscribe"];

/// What counts of a container: nobody manages its other parameters, whatever they hold.
const OF_CONTAINERS: [&str; 4] = ["alias", "noop", "schedule", "tag"];

/// Types that have a source which a server may have.
const WITH_SOURCES: [&str; 2] = ["File", PIECE];

/// A resource, and why it cannot be managed if it cannot.
pub(super) struct ReadResource {
    pub(super) resource: Resource,
    pub(super) unusable: Option<String>,
}

/// How resources are read.
pub(super) struct Reading<'a> {
    pub(super) deferreds: Deferreds,
    pub(super) resolve: &'a mut Resolve<'a>,
    /// Whether edges come from a resource.
    pub(super) holds: &'a dyn Fn(&ResourceRef) -> bool,
}

/// Reads the resource at index `at`.
pub(super) fn read(at: usize, json: Declared, reading: &mut Reading<'_>) -> Result<ReadResource, PuppetCatalogError> {
    let (Some(Json::String(resource_type)), Some(Json::String(title))) = (&json.resource_type, &json.title) else {
        return Err(shape(format!("type and title of resource {at}"), "text"));
    };
    let Some(reference) = reference::of(resource_type, title) else {
        return Err(shape(format!("resource {at}, {resource_type:?} with the title {title:?},"), "a type with a title"));
    };
    let mut resource = Resource::new(&reference.resource_type, &reference.title);
    resource.tags = strings(json.tags, || format!("tags of {reference}"))?;
    resource.file = match json.file {
        None | Some(Json::Null) => None,
        Some(Json::String(file)) => Some(file),
        Some(_) => return Err(shape(format!("file of {reference}"), "text")),
    };
    // A line that does not fit, or is text, is of no use to anybody, but does no harm.
    resource.line = json.line.as_ref().and_then(Json::as_u64).and_then(|line| u32::try_from(line).ok());
    resource.container = is_container(json.kind.as_ref(), &reference, reading.holds);
    let parameters = match json.parameters {
        None | Some(Json::Null) => Map::new(),
        Some(Json::Object(parameters)) => parameters,
        Some(_) => return Err(shape(format!("parameters of {reference}"), "an object")),
    };
    let secrets = strings(json.sensitive_parameters, || format!("sensitive_parameters of {reference}"))?;
    let mut unusable = read_parameters(&mut resource, parameters, reading.deferreds)?;
    for name in secrets {
        if let Some(held) = resource.parameters.get_mut(&name)
            && !matches!(held, Value::Sensitive(_))
        {
            *held = Value::Sensitive(Box::new(std::mem::take(held)));
        }
    }
    if WITH_SOURCES.contains(&resource.resource_type.as_str()) && unusable.is_none() {
        unusable = (reading.resolve)(&mut resource).err();
    }
    Ok(ReadResource { resource, unusable })
}

/// Catalogs of old servers have no `kind`: there, what holds others is a container.
fn is_container(kind: Option<&Json>, reference: &ResourceRef, holds: &dyn Fn(&ResourceRef) -> bool) -> bool {
    match (reference.resource_type.as_str(), kind.and_then(Json::as_str)) {
        ("Class" | "Stage" | "Node", _) | (_, Some("class" | "defined_type")) => true,
        (_, Some("compilable_type")) => false,
        (resource_type, _) => resource_type.contains("::") || holds(reference),
    }
}

/// Reads the parameters into `resource`; returns why it cannot be managed, if one makes no sense.
fn read_parameters(
    resource: &mut Resource,
    parameters: Map<String, Json>,
    deferreds: Deferreds,
) -> Result<Option<String>, PuppetCatalogError> {
    let mut unusable = None;
    let mut read = BTreeMap::new();
    for (name, json) in parameters {
        let refuse = |reason: String| PuppetCatalogError::Metaparameter {
            resource: resource.reference(),
            parameter: name.clone(),
            reason,
        };
        if RELATIONSHIPS.contains(&name.as_str()) {
            let targets = targets(json).map_err(refuse)?;
            read.insert(name, targets);
        } else if !resource.is_container() {
            match value::value(json, deferreds) {
                Ok(value) => {
                    read.insert(name, value);
                }
                Err(reason) => unusable = unusable.or(Some(format!("parameter {name} {reason}"))),
            }
        } else if OF_CONTAINERS.contains(&name.as_str()) {
            let value = value::value(json, deferreds).map_err(refuse)?;
            read.insert(name, value);
        }
    }
    resource.parameters = read;
    Ok(unusable)
}

/// Reads what a relationship names: references, in lists of any depth.
fn targets(json: Json) -> Result<Value, String> {
    fn gather(json: Json, found: &mut Vec<Value>) -> Result<(), String> {
        match json {
            Json::Null => Ok(()),
            Json::Array(list) => list.into_iter().try_for_each(|json| gather(json, found)),
            Json::String(text) => match reference::parse(&text) {
                Some(reference) => {
                    found.push(Value::String(reference.to_string()));
                    Ok(())
                }
                None => Err(format!("names {text:?}, which is no reference: it must be as Type[title]")),
            },
            other => Err(format!("names {other}, which is no reference: it must be as Type[title]")),
        }
    }
    let mut found = Vec::new();
    gather(json, &mut found)?;
    Ok(if found.len() == 1 { found.remove(0) } else { Value::Array(found) })
}
