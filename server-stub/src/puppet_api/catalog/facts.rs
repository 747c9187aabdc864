//! Facts as agents of Puppet send them.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::limits::{MAX_DEPTH, MAX_FACTS_BYTES};
use direct_puppet_transport::protocol::{Certname, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::puppet_api::answer::Failure;
use crate::puppet_api::query::form_text;

/// Levels of a message of ours above a fact.
const DEPTH_ABOVE: usize = 4;

/// Facts of a node: JSON that has been looked at and not been read yet, for they are seldom needed.
pub(super) struct Facts(Vec<u8>);

/// What facts must have.
#[derive(Deserialize)]
struct Shape {
    name: String,
    #[serde(rename = "values")]
    _values: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Read {
    values: BTreeMap<String, Value>,
}

impl Facts {
    /// Takes facts out of a form: there they are URL-encoded once more than the form is.
    pub(super) fn posted(text: &str, certname: &Certname) -> Result<Self, Failure> {
        let json = match text.starts_with('{') {
            // Some clients encode but once.
            true => text.to_owned(),
            false => form_text(text).ok_or_else(|| Failure::bad_request("facts are not URL-encoded UTF-8"))?,
        };
        Self::parse(json.into_bytes(), certname)
    }

    /// Checks that they are facts, and those of `certname`.
    pub(super) fn parse(json: Vec<u8>, certname: &Certname) -> Result<Self, Failure> {
        if json.len() as u64 > MAX_FACTS_BYTES {
            return Err(Failure::too_large(format!("facts have {} bytes, and {MAX_FACTS_BYTES} may be sent", json.len())));
        }
        let shape: Shape = serde_json::from_slice(&json).map_err(|error| unreadable(&error))?;
        if shape.name != certname.as_str() {
            return Err(Failure::bad_request(format!("these are no facts of {certname}: their name is another")));
        }
        Ok(Self(json))
    }

    /// Reads the values.
    pub(super) fn values(&self) -> Result<BTreeMap<String, Value>, Failure> {
        let read: Read = serde_json::from_slice(&self.0).map_err(|error| unreadable(&error))?;
        match read.values.values().all(|value| is_within(value, MAX_DEPTH - DEPTH_ABOVE)) {
            true => Ok(read.values),
            false => Err(Failure::bad_request(format!("facts are nested deeper than {} levels", MAX_DEPTH - DEPTH_ABOVE))),
        }
    }
}

/// Whether a value is nested no deeper than that.
fn is_within(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (_, None) => false,
        (Value::Array(values), Some(levels)) => values.iter().all(|value| is_within(value, levels)),
        (Value::Hash(values), Some(levels)) => values.values().all(|value| is_within(value, levels)),
        (Value::Sensitive(value), Some(levels)) => is_within(value, levels),
        _ => true,
    }
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::bad_request(format!("facts cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    #[test]
    fn facts_that_are_too_long_are_told_so() {
        let node: Certname = "n1".parse().unwrap();
        let status = |json: Vec<u8>| Facts::parse(json, &node).err().map(|failure| failure.status);
        let limit = usize::try_from(MAX_FACTS_BYTES).unwrap();
        let mut json = br#"{"name":"n1","values":{}}"#.to_vec();
        json.resize(limit, b' ');
        assert_eq!(status(json.clone()), None);
        json.push(b' ');
        assert_eq!(status(json), Some(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
