//! Reading single parameters; every error names the parameter and what it may be.

use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use crate::provider::ProviderError;

/// Returns the error of one parameter.
pub(super) fn fail(resource: &Resource, parameter: &str, reason: impl Into<String>) -> ProviderError {
    ProviderError::Parameter { resource: resource.reference(), parameter: parameter.to_owned(), reason: reason.into() }
}

/// Parses an absolute path as manifests hold it: repeated slashes count as one.
pub(super) fn absolute_path(text: &str) -> Result<TreePath, String> {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !clean.ends_with('/') {
            clean.push(c);
        }
    }
    TreePath::from_absolute(clean.as_bytes()).map_err(|error| error.to_string())
}

/// Reads a string.
pub(super) fn string<'a>(resource: &'a Resource, name: &str) -> Result<Option<&'a str>, ProviderError> {
    match resource.parameter(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| fail(resource, name, "must be a string")),
    }
}

/// Reads a string or a list of them; `false` is none.
pub(super) fn strings<'a>(resource: &'a Resource, name: &str) -> Result<Vec<&'a str>, ProviderError> {
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
pub(super) fn boolean(resource: &Resource, name: &str, default: bool) -> Result<bool, ProviderError> {
    match resource.parameter(name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| fail(resource, name, "must be true or false")),
    }
}

/// Reads a number that is not negative.
pub(super) fn count(resource: &Resource, name: &str) -> Result<Option<usize>, ProviderError> {
    let number = match resource.parameter(name) {
        None => return Ok(None),
        Some(Value::Integer(number)) => usize::try_from(*number).ok(),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Some(_) => None,
    };
    number.map(Some).ok_or_else(|| fail(resource, name, "must be a number, 0 or more"))
}

/// Reads one word out of several.
pub(super) fn choice<T: Copy>(resource: &Resource, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fail(resource, name, format!("must be one of {}", words.join(", ")))
    })
}
