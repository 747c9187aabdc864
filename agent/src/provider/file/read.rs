//! Reading single parameters; every error names the parameter and what it may be.

use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use crate::provider::ProviderError;

/// Returns the error of one parameter.
pub(in crate::provider) fn fail(resource: &Resource, parameter: &str, reason: impl Into<String>) -> ProviderError {
    ProviderError::Parameter { resource: resource.reference(), parameter: parameter.to_owned(), reason: reason.into() }
}

/// Parameters that every resource may have; the engine knows what they mean.
const METAPARAMETERS: &[&str] =
    &["alias", "audit", "before", "loglevel", "name", "noop", "notify", "require", "schedule", "stage", "subscribe", "tag"];

/// Refuses parameters that the type does not have.
pub(in crate::provider) fn only_known(resource: &Resource, known: &[&str]) -> Result<(), ProviderError> {
    match resource.parameters.keys().find(|name| !known.contains(&name.as_str()) && !METAPARAMETERS.contains(&name.as_str())) {
        Some(name) => Err(fail(resource, name, format!("is no parameter of {}: look for a misspelling", resource.resource_type))),
        None => Ok(()),
    }
}

/// Parses an absolute path as manifests hold it: repeated slashes count as one.
pub(in crate::provider) fn absolute_path(text: &str) -> Result<TreePath, String> {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !clean.ends_with('/') {
            clean.push(c);
        }
    }
    TreePath::from_absolute(clean.as_bytes()).map_err(|error| error.to_string())
}

/// Reads a string.
pub(in crate::provider) fn string<'a>(resource: &'a Resource, name: &str) -> Result<Option<&'a str>, ProviderError> {
    match resource.parameter(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| fail(resource, name, "must be a string")),
    }
}

/// Reads a string or a list of them; `false` is none.
pub(in crate::provider) fn strings<'a>(resource: &'a Resource, name: &str) -> Result<Vec<&'a str>, ProviderError> {
    match resource.parameter(name) {
        None | Some(Value::Boolean(false)) => Ok(Vec::new()),
        Some(Value::Sensitive(value)) => list(resource, name, value),
        Some(value) => list(resource, name, value),
    }
}

fn list<'a>(resource: &'a Resource, name: &str, value: &'a Value) -> Result<Vec<&'a str>, ProviderError> {
    let text = |value: &'a Value| value.as_str().ok_or_else(|| fail(resource, name, "must be a string or a list of strings"));
    value.as_list().iter().map(text).collect()
}

/// Reads a boolean.
pub(in crate::provider) fn boolean(resource: &Resource, name: &str, default: bool) -> Result<bool, ProviderError> {
    match resource.parameter(name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| fail(resource, name, "must be true or false")),
    }
}

/// Reads a number that is not negative.
pub(in crate::provider) fn count(resource: &Resource, name: &str) -> Result<Option<usize>, ProviderError> {
    let number = match resource.parameter(name) {
        None => return Ok(None),
        Some(Value::Integer(number)) => usize::try_from(*number).ok(),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Some(_) => None,
    };
    number.map(Some).ok_or_else(|| fail(resource, name, "must be a number, 0 or more"))
}

/// Reads one word out of several.
pub(in crate::provider) fn choice<T: Copy>(
    resource: &Resource,
    name: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fail(resource, name, format!("must be one of {}", words.join(", ")))
    })
}

/// Reads a string, or a number or boolean as the string that it is written as.
pub(in crate::provider) fn text(resource: &Resource, name: &str) -> Result<Option<String>, ProviderError> {
    match resource.parameter(name) {
        None => Ok(None),
        Some(value) => as_text(value).map(Some).ok_or_else(|| fail(resource, name, "must be a string")),
    }
}

/// Reads a string or a list of them, numbers as strings; `None` when the parameter is not given.
pub(in crate::provider) fn texts(resource: &Resource, name: &str) -> Result<Option<Vec<String>>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    let mut texts = Vec::new();
    if flatten(value, &mut texts) { Ok(Some(texts)) } else { Err(fail(resource, name, "must be a string or a list of strings")) }
}

fn flatten(value: &Value, texts: &mut Vec<String>) -> bool {
    match value {
        Value::Array(values) => values.iter().all(|value| flatten(value, texts)),
        Value::Sensitive(value) => flatten(value, texts),
        value => as_text(value).map(|text| texts.push(text)).is_some(),
    }
}

/// Returns a string, or what is written as one.
pub(in crate::provider) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Sensitive(value) => as_text(value),
        _ => None,
    }
}

/// Reads a whole number, also as a string.
pub(in crate::provider) fn integer(resource: &Resource, name: &str) -> Result<Option<i64>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    number(value).map(Some).ok_or_else(|| fail(resource, name, "must be a whole number"))
}

/// Returns a whole number, also one that is written as a string.
pub(in crate::provider) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        value => value.as_str().and_then(|text| text.parse().ok()),
    }
}

/// Reads the name of what is managed: the parameter `name`, else the title.
pub(in crate::provider) fn name(resource: &Resource) -> Result<String, ProviderError> {
    Ok(string(resource, "name")?.unwrap_or(&resource.title).to_owned())
}

/// Reads an absolute path below the managed root.
pub(in crate::provider) fn path(resource: &Resource, name: &str) -> Result<Option<TreePath>, ProviderError> {
    let parse = |text| absolute_path(text).map_err(|reason| fail(resource, name, reason));
    string(resource, name)?.map(parse).transpose()
}
