//! One resource.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Resource, ResourceRef, Value};
use serde_json::{Map, Value as Json};

use super::deferred::Deferreds;
use super::document::Declared;
use super::shaped::Plain;
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
    resource.line = line(json.line.as_ref());
    resource.container = is_container(json.kind.as_ref().and_then(Json::as_str).and_then(kind_of), &resource, reading.holds);
    let parameters = match json.parameters {
        None | Some(Json::Null) => Map::new(),
        Some(Json::Object(parameters)) => parameters,
        Some(_) => return Err(shape(format!("parameters of {reference}"), "an object")),
    };
    let secrets = strings(json.sensitive_parameters, || format!("sensitive_parameters of {reference}"))?;
    let mut unusable = read_parameters(&mut resource, parameters, reading.deferreds)?;
    hide(&mut resource, secrets);
    if WITH_SOURCES.contains(&resource.resource_type.as_str()) && unusable.is_none() {
        unusable = (reading.resolve)(&mut resource).err();
    }
    Ok(ReadResource { resource, unusable })
}

/// Makes a resource of one that was read the short way; `None` when it is to be looked at piece by piece.
pub(super) fn of_plain(plain: Plain, reading: &mut Reading<'_>) -> Option<ReadResource> {
    let Plain { mut resource, container, secrets } = plain;
    resource.container = is_container(container, &resource, reading.holds);
    if resource.container {
        resource.parameters.retain(|name, _| is_relationship(name) || OF_CONTAINERS.contains(&name.as_str()));
    }
    for name in RELATIONSHIPS {
        if let Some(value) = resource.parameters.get_mut(name) {
            *value = plain_targets(value)?;
        }
    }
    hide(&mut resource, secrets);
    let resolves = WITH_SOURCES.contains(&resource.resource_type.as_str());
    let unusable = if resolves { (reading.resolve)(&mut resource).err() } else { None };
    Some(ReadResource { resource, unusable })
}

/// As [`targets`]; `None` when something is no reference.
fn plain_targets(value: &Value) -> Option<Value> {
    fn gather(value: &Value, found: &mut Vec<Value>) -> Option<()> {
        match value {
            Value::Undef => Some(()),
            Value::Array(list) => list.iter().try_for_each(|value| gather(value, found)),
            Value::String(text) => {
                found.push(Value::String(reference::parse(text)?.to_string()));
                Some(())
            }
            _ => None,
        }
    }
    let mut found = Vec::new();
    gather(value, &mut found)?;
    Some(if found.len() == 1 { found.remove(0) } else { Value::Array(found) })
}

/// Makes secrets of parameters.
fn hide(resource: &mut Resource, names: Vec<String>) {
    for name in names {
        if let Some(held) = resource.parameters.get_mut(&name)
            && !matches!(held, Value::Sensitive(_))
        {
            *held = Value::Sensitive(Box::new(std::mem::take(held)));
        }
    }
}

/// Whether a metaparameter names other resources.
pub(super) fn is_relationship(name: &str) -> bool {
    RELATIONSHIPS.contains(&name)
}

/// Reads a line. One that does not fit, or is text, is of no use to anybody, but does no harm.
pub(super) fn line(json: Option<&Json>) -> Option<u32> {
    json.and_then(Json::as_u64).and_then(|line| u32::try_from(line).ok())
}

/// Returns whether a `kind` is that of a container, if it is known.
pub(super) fn kind_of(kind: &str) -> Option<bool> {
    match kind {
        "class" | "defined_type" => Some(true),
        "compilable_type" => Some(false),
        _ => None,
    }
}

/// Catalogs of old servers have no `kind`: there, what holds others is a container.
fn is_container(kind: Option<bool>, resource: &Resource, holds: &dyn Fn(&ResourceRef) -> bool) -> bool {
    match (resource.resource_type.as_str(), kind) {
        ("Class" | "Stage" | "Node", _) => true,
        (_, Some(is_container)) => is_container,
        (resource_type, None) => resource_type.contains("::") || holds(&resource.reference()),
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
