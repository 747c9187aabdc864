//! What is said to the program, and what it answers: the head of `worker.rb` tells of both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use direct_puppet_transport::protocol::{Resource, Value};
use serde::{Deserialize, Serialize};

/// Metaparameters that the engine heeds by itself. `audit` goes along: it makes properties be looked at.
const OF_THE_ENGINE: [&str; 6] = ["alias", "before", "notify", "require", "schedule", "subscribe"];

/// What the program is told when it starts.
#[derive(Debug, Serialize)]
pub(super) struct Settings<'a> {
    pub(super) certname: &'a str,
    pub(super) environment: &'a str,
    pub(super) libraries: &'a [PathBuf],
    pub(super) settings: &'a [(String, String)],
    pub(super) noop: bool,
    pub(super) show_diff: bool,
}

/// The first thing that the program says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Announcement {
    Ready(Versions),
    /// There is no library of Puppet's.
    Missing(String),
    Failed(String),
}

/// What is ready.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Versions {
    pub(super) puppet: String,
    pub(super) ruby: String,
    /// Where types of modules are looked for.
    pub(super) libraries: Vec<PathBuf>,
}

/// All resources that the program manages. `Debug` does not show it: there may be secrets in it.
#[derive(Serialize)]
pub(super) struct Load<'a> {
    pub(super) call: &'static str,
    pub(super) resources: Vec<Item<'a>>,
    /// Type and title of all others.
    pub(super) others: Vec<(&'a str, &'a str)>,
}

/// One resource, as Puppet reads it from a catalog.
#[derive(Serialize)]
pub(super) struct Item<'a> {
    #[serde(rename = "type")]
    resource_type: &'a str,
    title: &'a str,
    tags: &'a [String],
    file: Option<&'a str>,
    line: Option<u32>,
    parameters: BTreeMap<&'a str, &'a Value>,
    /// Parameters that are secrets as a whole: in catalogs of Puppet these are plain, and named here.
    sensitive_parameters: Vec<&'a str>,
}

impl<'a> Item<'a> {
    pub(super) fn of(resource: &'a Resource) -> Self {
        let of_type =
            |(name, value): &(&'a String, &'a Value)| !OF_THE_ENGINE.contains(&name.as_str()) && **value != Value::Undef;
        let (mut parameters, mut sensitive_parameters) = (BTreeMap::new(), Vec::new());
        for (name, value) in resource.parameters.iter().filter(of_type) {
            let plain = match value {
                Value::Sensitive(held) => {
                    sensitive_parameters.push(name.as_str());
                    held.as_ref()
                }
                plain => plain,
            };
            parameters.insert(name.as_str(), plain);
        }
        Self {
            resource_type: &resource.resource_type,
            title: &resource.title,
            tags: &resource.tags,
            file: resource.file.as_deref(),
            line: resource.line,
            parameters,
            sensitive_parameters,
        }
    }
}

/// A question about one resource.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ask {
    pub(super) call: &'static str,
    /// Its place in what was loaded.
    pub(super) resource: usize,
}

/// An answer: what belongs to other questions is not there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// Why there is none.
    pub(super) error: Option<String>,
    /// What was logged meanwhile: level and text.
    pub(super) log: Vec<(String, String)>,
    /// Of `load`.
    pub(super) resources: Vec<Loaded>,
    /// Of `check`.
    pub(super) changes: Vec<Found>,
    /// Of `apply`, one for each change that `check` found.
    pub(super) made: Vec<Made>,
    /// Of `apply`: why what was changed is not there yet.
    pub(super) flush: Option<String>,
    /// Of `refresh`: whether there was anything to do.
    pub(super) refreshed: bool,
    /// Of `audit`.
    pub(super) values: BTreeMap<String, String>,
}

impl Answer {
    /// Reads an answer. Only an object is one, with why there is none or with what was asked for.
    pub(super) fn read(bytes: &[u8], call: &str) -> serde_json::Result<Self> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)?;
        let wanted = match call {
            "load" => "resources",
            "check" => "changes",
            "apply" => "made",
            "refresh" => "refreshed",
            "audit" => "values",
            _ => "log",
        };
        if !object.contains_key(wanted) && !object.contains_key("error") {
            return Err(serde::de::Error::custom(format!("there is no {wanted} in it")));
        }
        serde_json::from_value(object.into())
    }
}

/// What is known of one resource before any is applied.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Loaded {
    /// Whether there is such a type.
    pub(super) known: bool,
    /// What is wrong with the type, or with the parameters.
    pub(super) error: Option<String>,
    /// Whether it reacts to a refresh.
    pub(super) refreshes: bool,
    /// By which other title it is known.
    pub(super) alias: Option<String>,
    pub(super) relations: Vec<Relation>,
}

/// What a resource is ordered by without being asked.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Relation {
    pub(super) kind: RelationKind,
    /// Type and title.
    pub(super) other: (String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RelationKind {
    Require,
    Before,
    Subscribe,
    Notify,
}

/// One property that is out of sync.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    pub(super) property: String,
    /// Its values are secrets, and not said.
    pub(super) secret: bool,
    pub(super) previous: String,
    pub(super) desired: String,
    /// What is there and what is wanted, as messages have it.
    pub(super) is: String,
    pub(super) should: String,
    /// Why it could not be compared.
    pub(super) broken: Option<String>,
}

/// What became of one change.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Made {
    pub(super) failed: Option<String>,
    /// What is told of it.
    pub(super) message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_written_as_in_a_catalog_of_puppet() {
        let secret = |value: Value| Value::Sensitive(Box::new(value));
        let nested = Value::Array(vec!["a".into(), secret("b".into())]);
        let resource = Resource::new("Level", "water")
            .with("value", secret(Value::Integer(7)))
            .with("list", nested)
            .with("bytes", Value::Binary(b"\xff".to_vec()))
            .with("nothing", Value::Undef)
            .with("require", "File[/a]")
            .with("alias", "sea")
            .with("noop", true);
        let expected = serde_json::json!({
            "type": "Level", "title": "water", "tags": [], "file": null, "line": null,
            "parameters": {
                "value": 7, "noop": true,
                "list": ["a", {"__ptype": "Sensitive", "__pvalue": "b"}],
                "bytes": {"__ptype": "Binary", "__pvalue": "/w=="},
            },
            "sensitive_parameters": ["value"],
        });
        assert_eq!(serde_json::to_value(Item::of(&resource)).unwrap(), expected);
    }

    #[test]
    fn answers_have_what_belongs_to_them() {
        let answer = Answer::read(
            br#"{"changes":[{"property":"a","secret":false,"broken":null,"previous":"1","desired":"2","is":"1","should":"'2'"}],"log":[["warning","x"]]}"#,
            "check",
        )
        .unwrap();
        assert_eq!((answer.changes.len(), answer.log[0].1.as_str(), answer.error), (1, "x", None));
        for bad in [
            r#"{"changes":1,"log":[]}"#,
            r#"{"log":[],"resources":[{"relations":[{"kind":"x","other":["a","b"]}]}]}"#,
            "[]",
            "null",
            "puts",
        ] {
            assert!(Answer::read(bad.as_bytes(), "end").is_err(), "{bad}");
        }
        // The answer to another question is none.
        for call in ["load", "check", "refresh", "audit"] {
            assert!(Answer::read(br#"{"made":[{"message":"x"}],"log":[]}"#, call).is_err(), "{call}");
            assert!(Answer::read(br#"{"error":"x","log":[]}"#, call).is_ok(), "{call}");
        }
    }
}
