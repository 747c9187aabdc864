//! `facts`: what this node knows of itself, in Facter's formats.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use direct_puppet_agent::facts::{Facts, query};
use direct_puppet_agent::system::System as _;
use direct_puppet_transport::protocol::Value;

use crate::options::Common;
use crate::output;

/// Arguments of `facts`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Facts to show, or parts of them, as "os.release.major" [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print YAML instead of text
    #[arg(long, conflicts_with = "json")]
    yaml: bool,
}

pub(crate) fn facts(common: &Common, arguments: &Arguments) -> anyhow::Result<u8> {
    let facts = common.system()?.facts().map_err(anyhow::Error::msg).context("could not gather the facts")?;
    let shown = select(&facts, &arguments.names);
    if common.json {
        output::json(&shown)?;
    } else if arguments.yaml {
        output::raw(&serde_saphyr::to_string(&shown).context("could not write the facts as YAML")?)?;
    } else if let [name] = arguments.names.as_slice() {
        output::raw(&line(&one(shown[name.as_str()])))?;
    } else {
        output::raw(&shown.iter().map(|(name, value)| line(&format!("{name} => {}", one(*value)))).collect::<String>())?;
    }
    Ok(0)
}

/// Returns the facts that were asked for, by the names they were asked by; nothing for one that there is not.
fn select<'a>(facts: &'a Facts, names: &'a [String]) -> BTreeMap<&'a str, Option<&'a Value>> {
    if names.is_empty() {
        return facts.iter().map(|(name, value)| (name.as_str(), Some(value))).collect();
    }
    names.iter().map(|name| (name.as_str(), query(facts, name))).collect()
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

/// Writes a fact as Facter does: text as it is, what it is made of indented, `name => value`.
fn one(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Undef) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => {
            let mut out = String::new();
            nested(&mut out, value, 0);
            out
        }
    }
}

fn nested(out: &mut String, value: &Value, depth: usize) {
    let (begin, end) = if matches!(value, Value::Hash(_)) { ("{", "}") } else { ("[", "]") };
    let entries: Vec<(Option<&str>, &Value)> = match value {
        Value::Hash(values) => values.iter().map(|(name, value)| (Some(name.as_str()), value)).collect(),
        Value::Array(values) => values.iter().map(|value| (None, value)).collect(),
        other => {
            // Floats, numbers, words in quotes, secrets that are not shown: as in JSON, but for backslashes.
            *out += &serde_json::to_string(other).unwrap_or_default().replace("\\\\", "\\");
            return;
        }
    };
    *out += begin;
    for (at, (name, value)) in entries.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(out, "{}\n{:indent$}", if at == 0 { "" } else { "," }, "", indent = 2 * (depth + 1));
        if let Some(name) = name {
            let _ = write!(out, "{name} => ");
        }
        nested(out, value, depth + 1);
    }
    let blank = if matches!(value, Value::Array(_)) && entries.is_empty() { "\n" } else { "" };
    let _ = write!(out, "\n{blank}{:indent$}{end}", "", indent = 2 * depth);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        serde_json::from_str(
            r#"{"kernel": "Linux", "load": {"1m": 2.0, "list": ["a", {"b": 1}], "none": {}, "empty": []},
                "count": 2, "text": "a \"b\" \\ c", "deep": {"text": "a \"b\" \\ c", "nothing": null}}"#,
        )
        .unwrap()
    }

    #[test]
    fn as_facter_prints_them() {
        let facts = facts();
        for (name, printed) in [
            ("kernel", "Linux"),
            ("count", "2"),
            ("text", "a \"b\" \\ c"),
            ("load.list.1.b", "1"),
            ("none", ""),
            ("load.list", "[\n  \"a\",\n  {\n    b => 1\n  }\n]"),
            ("load.none", "{\n}"),
            (
                "load",
                "{\n  1m => 2.0,\n  empty => [\n\n  ],\n  list => [\n    \"a\",\n    {\n      b => 1\n    }\n  ],\n  none => {\n  }\n}",
            ),
            ("deep", "{\n  nothing => null,\n  text => \"a \\\"b\\\" \\ c\"\n}"),
        ] {
            assert_eq!(one(query(&facts, name)), printed, "{name}");
        }
    }

    #[test]
    fn selected_by_name() {
        let names = ["none".to_owned(), "load.1m".to_owned()];
        let facts = facts();
        let shown = select(&facts, &names);
        assert_eq!(serde_json::to_string(&shown).unwrap(), r#"{"load.1m":2.0,"none":null}"#);
        assert_eq!(select(&facts, &[]).len(), 5);
    }
}
