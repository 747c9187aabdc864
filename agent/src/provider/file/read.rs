//! Reading single parameters; every error names the parameter and what it may be.

use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use crate::provider::ProviderError;

/// What parameters are read from: a resource, or one of which it is known roughly which parameters it has.
pub(in crate::provider) trait Source<'a>: Copy {
    /// Returns the resource.
    fn resource(self) -> &'a Resource;
    /// Returns a parameter, of a secret what it holds; `None` when absent or undef.
    fn parameter(self, name: &str) -> Option<&'a Value>;
}

impl<'a> Source<'a> for &'a Resource {
    fn resource(self) -> &'a Resource {
        self
    }

    fn parameter(self, name: &str) -> Option<&'a Value> {
        opened(Resource::parameter(self, name))
    }
}

/// Returns what a secret holds.
fn opened(value: Option<&Value>) -> Option<&Value> {
    match value {
        Some(Value::Sensitive(held)) => Some(held.opened()).filter(|value| **value != Value::Undef),
        other => other,
    }
}

/// A resource with a word about the names that its parameters have. Types have dozens, resources few: most that are asked for are not there, and this
/// says so without comparing names.
#[derive(Debug, Clone, Copy)]
pub(in crate::provider) struct Sketched<'a> {
    resource: &'a Resource,
    /// The bits of all names.
    names: u64,
}

/// Returns the bit of a name: of its length, and its first and last byte.
fn bit_of(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let (first, last) = (bytes.first().copied().unwrap_or_default(), bytes.last().copied().unwrap_or_default());
    1 << ((bytes.len() * 7 + usize::from(first) * 5 + usize::from(last) * 3) & 63)
}

impl<'a> Sketched<'a> {
    pub(in crate::provider) fn of(resource: &'a Resource) -> Self {
        Self { resource, names: resource.parameters.keys().fold(0, |names, name| names | bit_of(name)) }
    }

    /// Returns a parameter, of a secret what it holds; `None` when absent or undef.
    pub(in crate::provider) fn parameter(self, name: &str) -> Option<&'a Value> {
        if self.names & bit_of(name) == 0 { None } else { opened(self.resource.parameter(name)) }
    }
}

impl<'a> Source<'a> for Sketched<'a> {
    fn resource(self) -> &'a Resource {
        self.resource
    }

    fn parameter(self, name: &str) -> Option<&'a Value> {
        Sketched::parameter(self, name)
    }
}

impl std::ops::Deref for Sketched<'_> {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        self.resource
    }
}

/// Returns the error of one parameter.
pub(in crate::provider) fn fail<'a>(resource: impl Source<'a>, parameter: &str, reason: impl Into<String>) -> ProviderError {
    ProviderError::Parameter { resource: resource.resource().reference(), parameter: parameter.to_owned(), reason: reason.into() }
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
    if !text.contains("//") {
        return TreePath::from_absolute(text.as_bytes()).map_err(|error| error.to_string());
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !clean.ends_with('/') {
            clean.push(c);
        }
    }
    TreePath::from_absolute(clean.as_bytes()).map_err(|error| error.to_string())
}

/// Reads a string.
pub(in crate::provider) fn string<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<&'a str>, ProviderError> {
    match resource.parameter(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| fail(resource, name, "must be a string")),
    }
}

/// Reads a string or a list of them; `false` is none.
pub(in crate::provider) fn strings<'a>(resource: impl Source<'a>, name: &str) -> Result<Vec<&'a str>, ProviderError> {
    match resource.parameter(name) {
        None | Some(Value::Boolean(false)) => Ok(Vec::new()),
        Some(value) => list(resource, name, value),
    }
}

fn list<'a>(resource: impl Source<'a>, name: &str, value: &'a Value) -> Result<Vec<&'a str>, ProviderError> {
    let text = |value: &'a Value| value.as_str().ok_or_else(|| fail(resource, name, "must be a string or a list of strings"));
    value.as_list().iter().map(text).collect()
}

/// Reads a boolean.
pub(in crate::provider) fn boolean<'a>(resource: impl Source<'a>, name: &str, default: bool) -> Result<bool, ProviderError> {
    match resource.parameter(name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| fail(resource, name, "must be true or false")),
    }
}

/// Reads a number that is not negative.
pub(in crate::provider) fn count<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<usize>, ProviderError> {
    let number = match resource.parameter(name) {
        None => return Ok(None),
        Some(Value::Integer(number)) => usize::try_from(*number).ok(),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Some(_) => None,
    };
    number.map(Some).ok_or_else(|| fail(resource, name, "must be a number, 0 or more"))
}

/// Reads one word out of several.
pub(in crate::provider) fn choice<'a, T: Copy>(
    resource: impl Source<'a>,
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
pub(in crate::provider) fn text<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<String>, ProviderError> {
    match resource.parameter(name) {
        None => Ok(None),
        Some(value) => as_text(value).map(Some).ok_or_else(|| fail(resource, name, "must be a string")),
    }
}

/// Reads a string or a list of them, numbers as strings; `None` when the parameter is not given.
pub(in crate::provider) fn texts<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<Vec<String>>, ProviderError> {
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
pub(in crate::provider) fn integer<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<i64>, ProviderError> {
    let Some(value) = resource.parameter(name) else { return Ok(None) };
    number(value).map(Some).ok_or_else(|| fail(resource, name, "must be a whole number"))
}

/// Returns a whole number, also one that is written as a string.
pub(in crate::provider) fn number(value: &Value) -> Option<i64> {
    match value.opened() {
        Value::Integer(number) => Some(*number),
        value => value.as_str().and_then(|text| text.parse().ok()),
    }
}

/// Reads the name of what is managed: the parameter `name`, else the title.
pub(in crate::provider) fn name<'a>(resource: impl Source<'a>) -> Result<String, ProviderError> {
    Ok(string(resource, "name")?.unwrap_or(&resource.resource().title).to_owned())
}

/// Reads an absolute path below the managed root.
pub(in crate::provider) fn path<'a>(resource: impl Source<'a>, name: &str) -> Result<Option<TreePath>, ProviderError> {
    let parse = |text| absolute_path(text).map_err(|reason| fail(resource, name, reason));
    string(resource, name)?.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_hides_nothing() {
        let names = ["ensure", "owner", "content", "a", "", "unless", "path", "\u{e9}t\u{e9}"];
        let resource =
            names.iter().fold(Resource::new("T", "t").with("gone", Value::Undef), |resource, name| resource.with(name, *name));
        let sketched = Sketched::of(&resource);
        for name in names.iter().chain(&["gone", "group", "mode", "source", "onlyif", "e"]) {
            assert_eq!(sketched.parameter(name), resource.parameter(name), "{name}");
        }
        assert_eq!(Sketched::of(&Resource::new("T", "t")).parameter("ensure"), None);
    }

    #[test]
    fn secrets_are_read_as_what_they_hold() {
        let secret = |value: Value| Value::Sensitive(Box::new(value));
        let resource = Resource::new("T", "t")
            .with("count", secret("3".into()))
            .with("number", secret(secret(Value::Integer(-3))))
            .with("is", secret(Value::Boolean(false)))
            .with("list", secret(vec![secret("a".into()), "b".into()].into()))
            .with("none", secret(Value::Undef));
        assert_eq!(count(&resource, "count").unwrap(), Some(3));
        assert_eq!(integer(&resource, "number").unwrap(), Some(-3));
        assert!(!boolean(&resource, "is", true).unwrap());
        assert_eq!(strings(&resource, "is").unwrap(), [""; 0]);
        assert_eq!(strings(Sketched::of(&resource), "list").unwrap(), ["a", "b"]);
        assert_eq!(texts(&resource, "list").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(string(&resource, "none").unwrap(), None);
    }
}
