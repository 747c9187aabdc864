//! Pieces that are YAML or JSON: each is read, and what they say is put together.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::puppet_report::write_yaml;

/// What a file is put together as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One piece after the other.
    Plain,
    /// Hashes become one, lists too.
    Yaml,
    Json {
        is_pretty: bool,
    },
    /// A list of all pieces.
    JsonArray {
        is_pretty: bool,
    },
}

impl Format {
    /// The words of the parameter `format`.
    pub(super) const NAMES: [(&str, Self); 6] = [
        ("plain", Self::Plain),
        ("yaml", Self::Yaml),
        ("json", Self::Json { is_pretty: false }),
        ("json-pretty", Self::Json { is_pretty: true }),
        ("json-array", Self::JsonArray { is_pretty: false }),
        ("json-array-pretty", Self::JsonArray { is_pretty: true }),
    ];
}

/// A value of YAML or JSON, with its keys in the order in which they stand.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Null,
    Scalar(Scalar),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Scalar {
    Boolean(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a boolean, a list or a hash")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Tree, D::Error> {
        Tree::deserialize(value)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Boolean(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Integer(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(i64::try_from(value).map_or(Scalar::Unsigned(value), Scalar::Integer)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Scalar::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Tree, A::Error> {
        let mut map: Vec<(String, Tree)> = Vec::new();
        while let Some((key, value)) = pairs.next_entry::<String, Tree>()? {
            match map.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = value,
                None => map.push((key, value)),
            }
        }
        Ok(Tree::Map(map))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Scalar(scalar) => scalar.serialize(to),
            Self::List(list) => {
                let mut items = to.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|item| items.serialize_element(item))?;
                items.end()
            }
            Self::Map(map) => {
                let mut pairs = to.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| pairs.serialize_entry(key, value))?;
                pairs.end()
            }
        }
    }
}

impl Tree {
    fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Scalar(_) => false,
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }
}

/// Merges two values: lists without what comes twice, hashes key by key. Of a key with two values the first stays when that is `forced`.
fn merge(first: Tree, second: Tree, forced: bool) -> Result<Tree, String> {
    match (first, second) {
        (first, second) if second.is_empty() => Ok(first),
        (first, second) if first.is_empty() => Ok(second),
        (Tree::List(first), Tree::List(second)) => {
            let mut all: Vec<Tree> = Vec::with_capacity(first.len() + second.len());
            for item in first.into_iter().chain(second) {
                if !all.contains(&item) {
                    all.push(item);
                }
            }
            Ok(Tree::List(all))
        }
        (Tree::Map(mut first), Tree::Map(second)) => {
            for (key, value) in second {
                let Some((_, known)) = first.iter_mut().find(|(known, _)| *known == key) else {
                    first.push((key, value));
                    continue;
                };
                match (&*known, &value) {
                    (Tree::Map(_), Tree::Map(_)) | (Tree::List(_), Tree::List(_)) => {
                        *known = merge(std::mem::replace(known, Tree::Null), value, forced)?;
                    }
                    (one, other) if one == other || forced => {}
                    _ => {
                        return Err(format!("two pieces have different values for the key {key:?}: set force to keep the first"));
                    }
                }
            }
            Ok(Tree::Map(first))
        }
        _ => Err("a hash, a list and other values cannot be put together".to_owned()),
    }
}

/// Reads numbers as Ruby does: 0644 is 420.
fn read_yaml(text: &str) -> Option<Tree> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).ok()
}

/// Reads pieces, each with its name, and puts them together; the error names the piece, and repeats nothing of it.
pub(super) fn merged(format: Format, pieces: &[(&str, Vec<u8>)], forced: bool) -> Result<Vec<u8>, String> {
    let read = |(name, piece): &(&str, Vec<u8>)| {
        let (kind, tree) = match format {
            Format::Yaml => ("YAML", std::str::from_utf8(piece).ok().and_then(read_yaml)),
            _ => ("JSON", serde_json::from_slice::<Tree>(piece).ok()),
        };
        tree.ok_or_else(|| format!("Concat_fragment[{name}] is no {kind}, or has keys that are no text"))
    };
    let trees = pieces.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let tree = match format {
        Format::JsonArray { .. } => Tree::List(trees),
        _ => trees.into_iter().try_fold(Tree::Map(Vec::new()), |whole, piece| merge(whole, piece, forced))?,
    };
    let mut text = Vec::new();
    match format {
        Format::Plain | Format::Yaml => {
            text.extend_from_slice(b"---");
            write_yaml(&tree, &mut text).map_err(|error| error.to_string())?;
        }
        Format::Json { is_pretty: true } | Format::JsonArray { is_pretty: true } => {
            text = serde_json::to_vec_pretty(&tree).map_err(|error| error.to_string())?;
        }
        _ => text = serde_json::to_vec(&tree).map_err(|error| error.to_string())?,
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: Format, pieces: &[&str], forced: bool) -> Result<String, String> {
        let pieces: Vec<(&str, Vec<u8>)> = pieces.iter().map(|piece| ("p", piece.as_bytes().to_vec())).collect();
        merged(format, &pieces, forced).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn hashes_and_lists_become_one() {
        let json = Format::Json { is_pretty: false };
        let pieces = [r#"{"z":1,"l":[1,2],"h":{"a":null}}"#, r#"{"a":1.5,"l":[2,3],"h":{"b":"x/y"}}"#, "{}"];
        assert_eq!(of(json, &pieces, false).unwrap(), r#"{"z":1,"l":[1,2,3],"h":{"a":null,"b":"x/y"},"a":1.5}"#);
        assert_eq!(of(json, &["[1]", "[1,2]"], false).unwrap(), "[1,2]");
        let pretty = Format::Json { is_pretty: true };
        assert_eq!(of(pretty, &[r#"{"a":[],"b":[true]}"#], false).unwrap(), "{\n  \"a\": [],\n  \"b\": [\n    true\n  ]\n}");
        assert_eq!(of(Format::JsonArray { is_pretty: false }, &pieces[1..], false).unwrap(), format!("[{},{{}}]", pieces[1]));
        assert_eq!(of(Format::Yaml, &["z: 1\nl: [a]\n", "---\nl:\n- b\n"], false).unwrap(), "---\nz: 1\nl:\n- a\n- b\n");
        assert_eq!(of(Format::Yaml, &["mode: 0644\n"], false).unwrap(), "---\nmode: 420\n");
    }

    #[test]
    fn what_cannot_be_put_together_is_named() {
        let json = Format::Json { is_pretty: false };
        assert!(of(json, &[r#"{"a":1}"#, r#"{"a":2}"#], false).unwrap_err().contains("key \"a\""));
        assert_eq!(of(json, &[r#"{"a":1}"#, r#"{"a":2}"#], true).unwrap(), r#"{"a":1}"#);
        assert!(of(json, &[r#"{"a":1}"#, "[1]"], false).is_err());
        assert!(of(json, &["{"], false).unwrap_err().contains("Concat_fragment[p] is no JSON"));
        assert!(of(Format::Yaml, &["a: [\n"], false).unwrap_err().contains("is no YAML"));
    }
}
