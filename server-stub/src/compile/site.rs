//! `site.yaml` as data.

use std::collections::BTreeMap;
use std::fmt;

use direct_puppet_transport::protocol::Value;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::{CompileError, CompileErrorKind};

/// Where the site's manifest stands in an environment.
pub(super) const SITE: &str = "site.yaml";

/// A whole site.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    /// Which classes a node has; the first match wins.
    pub(super) nodes: Vec<NodeRule>,
    /// What classes hold.
    pub(super) classes: BTreeMap<String, Vec<Spanned<Declaration>>>,
}

/// One rule for nodes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeRule {
    /// A certname, with `*` for any text and `?` for one character.
    #[serde(rename = "match")]
    pub(super) pattern: String,
    /// Names of classes, in order.
    #[serde(default)]
    pub(super) classes: Vec<String>,
    /// Values for templates.
    #[serde(default)]
    pub(super) data: BTreeMap<String, Value>,
}

/// One resource: the first key is its type with its title, the others are parameters.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) resource_type: String,
    pub(super) title: String,
    pub(super) parameters: Vec<(String, Value)>,
}

impl<'de> Deserialize<'de> for Declaration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Declaration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a resource, as \"file: /etc/motd\" with its parameters below")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Declaration, A::Error> {
                let (resource_type, title) = map
                    .next_entry::<String, Value>()?
                    .ok_or_else(|| de::Error::custom("a resource without a type: write \"type: title\" first"))?;
                let title = match title {
                    Value::String(title) if !title.is_empty() => title,
                    Value::Integer(title) => title.to_string(),
                    _ => return Err(de::Error::custom(format_args!("{resource_type} needs a title, as text"))),
                };
                let mut parameters: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if parameters.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format_args!("parameter {name} is given twice")));
                    }
                    parameters.push((name, value));
                }
                Ok(Declaration { resource_type, title, parameters })
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Site {
    /// Reads a site; errors say line and column.
    pub(super) fn parse(text: &[u8]) -> Result<Self, CompileError> {
        let text = std::str::from_utf8(text).map_err(|error| CompileError::at(SITE, format!("it is not UTF-8: {error}")))?;
        let site: Self = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location();
            // The error shows the lines around it; the first line says what is wrong.
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            // The place is said by file, line and column already.
            let first = location
                .and_then(|at| first.strip_prefix(&format!("error: line {} column {}: ", at.line(), at.column())))
                .unwrap_or(first)
                .to_owned();
            CompileError {
                file: SITE.to_owned(),
                line: location.map(|location| location.line()),
                column: location.map(|location| location.column()),
                message: first,
                kind: CompileErrorKind::Code,
            }
        })?;
        for rule in &site.nodes {
            if let Some(unknown) = rule.classes.iter().find(|class| !site.classes.contains_key(*class)) {
                let known = site.classes.keys().cloned().collect::<Vec<_>>().join(", ");
                let message =
                    format!("node rule {:?} names class {unknown}, which is not there; there are {known}", rule.pattern);
                return Err(CompileError::at(SITE, message));
            }
        }
        Ok(site)
    }

    /// Returns the first rule for a node.
    pub(super) fn rule(&self, certname: &str) -> Option<&NodeRule> {
        self.nodes.iter().find(|rule| matches(rule.pattern.as_bytes(), certname.as_bytes()))
    }
}

/// Whether a name fits a pattern; linear in both, whatever the pattern.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut star) = ((0, 0), None);
    while at.1 < name.len() {
        match pattern.get(at.0) {
            Some(b'*') => {
                star = Some(at);
                at.0 += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at.1] => at = (at.0 + 1, at.1 + 1),
            _ => match &mut star {
                Some((from, reached)) => {
                    *reached += 1;
                    at = (*from + 1, *reached);
                }
                None => return false,
            },
        }
    }
    pattern[at.0..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*", "anything", true),
            ("web*.example.com", "web01.example.com", true),
            ("web*.example.com", "db.example.com", false),
            ("web?", "web1", true),
            ("web?", "web12", false),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxcxxb", false),
            ("", "", true),
            ("", "a", false),
            ("*a", "baba", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn errors_say_where() {
        let error = Site::parse(b"nodes: []\nclasses:\n  base:\n    - file: [\n").unwrap_err();
        assert!(error.line.is_some_and(|line| line >= 4) && error.column.is_some(), "{error}");
        let error = Site::parse(b"nodes:\n  - match: x\n    classes: [nope]\nclasses: {}\n").unwrap_err();
        assert!(error.message.contains("nope"), "{error}");
        let error = Site::parse(b"nodes: []\nclases: {}\n").unwrap_err();
        assert!(error.message.contains("clases"), "{error}");
    }
}
