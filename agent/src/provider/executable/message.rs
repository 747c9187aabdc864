//! What is said to a program, and what it answers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use direct_puppet_transport::protocol::{Resource, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::provider::Change;

/// The version of what is said.
pub(super) const VERSION: u32 = 1;

/// What a program is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Call {
    Check,
    Apply,
    Refresh,
}

/// One request. `Debug` does not show it: it may hold secrets.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    version: u32,
    call: Call,
    #[serde(rename = "type")]
    resource_type: &'a str,
    title: &'a str,
    parameters: BTreeMap<&'a str, Json>,
    /// The names of parameters that are secrets.
    secret: Vec<&'a str>,
    /// The managed root.
    root: String,
    noop: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Wanted<'a>>>,
}

/// A change that is to be made.
#[derive(Serialize)]
struct Wanted<'a> {
    property: &'a str,
    previous: &'a str,
    desired: &'a str,
}

/// Returns a value as JSON: a secret as what it is, bytes in base64.
fn json(value: &Value) -> Json {
    match value {
        Value::Undef => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Integer(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::Binary(bytes) => STANDARD.encode(bytes).into(),
        Value::Array(values) => values.iter().map(json).collect(),
        Value::Hash(values) => Json::Object(values.iter().map(|(name, value)| (name.clone(), json(value))).collect()),
        Value::Sensitive(value) => json(value),
    }
}

impl<'a> Request<'a> {
    pub(super) fn new(call: Call, resource: &'a Resource, root: String, noop: bool, changes: Option<&'a [Change]>) -> Self {
        let wanted =
            |change: &'a Change| Wanted { property: &change.property, previous: &change.previous, desired: &change.desired };
        Self {
            version: VERSION,
            call,
            resource_type: &resource.resource_type,
            title: &resource.title,
            parameters: resource.parameters.iter().map(|(name, value)| (name.as_str(), json(value))).collect(),
            secret: resource.parameters.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect(),
            root,
            noop,
            changes: changes.map(|changes| changes.iter().map(wanted).collect()),
        }
    }
}

/// An answer: what belongs to other calls is not there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    /// Of `check`: what is out of sync, in the order in which it will be changed.
    #[serde(default)]
    pub(super) changes: Vec<Found>,
    /// Of `apply`: why changes failed, by property. All others were made.
    #[serde(default)]
    pub(super) failures: BTreeMap<String, String>,
    /// Of `refresh`: whether there was anything to do.
    #[serde(default)]
    pub(super) refreshed: bool,
    /// Why the call failed as a whole.
    pub(super) error: Option<String>,
    /// The parameter that makes no sense, when that is the error.
    pub(super) parameter: Option<String>,
}

/// One property that is out of sync.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Found {
    pub(super) property: String,
    /// What is there; `absent` for nothing.
    pub(super) previous: String,
    /// What is wanted.
    pub(super) desired: String,
    /// What is told once it is done, where the values alone do not say it.
    pub(super) message: Option<String>,
    /// The values are secrets.
    #[serde(default)]
    pub(super) secret: bool,
}
