//! From JSON, with or without rich data, to values.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use direct_puppet_transport::protocol::Value;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::deferred::{self, Deferreds};

/// A key that marks a hash as rich data, and the key of what it holds: `Puppet::Pops::Serialization`.
const PTYPE: &str = "__ptype";
const PVALUE: &str = "__pvalue";

/// How deep values may be nested: what our own form of a catalog allows, less what lies above a parameter.
const MAX_DEPTH: usize = 40;

/// Turns a value of a parameter into one of ours; the error says what it must be.
pub(super) fn value(json: Json, deferreds: Deferreds) -> Result<Value, String> {
    nested(json, deferreds, 0)
}

fn nested(json: Json, deferreds: Deferreds, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(match json {
        Json::Null => Value::Undef,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::Integer(number),
            (None, Some(_), _) => return Err(format!("has a whole number above {}", i64::MAX)),
            (None, None, Some(number)) if number.is_finite() => Value::Float(number),
            _ => return Err("has a number that is out of range".to_owned()),
        },
        Json::String(text) => Value::String(text),
        Json::Array(list) => {
            Value::Array(list.into_iter().map(|json| nested(json, deferreds, depth + 1)).collect::<Result<_, _>>()?)
        }
        Json::Object(object) if object.contains_key(PTYPE) => rich(object, deferreds, depth)?,
        Json::Object(object) => {
            let entry = |(key, json)| Ok((key, nested(json, deferreds, depth + 1)?));
            Value::Hash(object.into_iter().map(entry).collect::<Result<_, String>>()?)
        }
    })
}

/// Reads a value straight from its text. What would be an error, or is rich data that begins otherwise than Puppet writes it, ends the reading.
#[derive(Clone, Copy)]
pub(super) struct ValueSeed {
    depth: usize,
    is_rich: bool,
}

impl ValueSeed {
    /// Reads rich data too.
    pub(super) const RICH: Self = Self { depth: 0, is_rich: true };
    /// Takes plain values alone.
    pub(super) const PLAIN: Self = Self { depth: 0, is_rich: false };

    const fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom("it is nested too deep"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Undef)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        i64::try_from(number).map(Value::Integer).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        if number.is_finite() { Ok(Value::Float(number)) } else { Err(E::custom("it is out of range")) }
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.below())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if key != PTYPE {
                let value = map.next_value_seed(self.below())?;
                entries.insert(key, value);
                continue;
            }
            if !entries.is_empty() || !self.is_rich {
                return Err(A::Error::custom("it is rich data where or as there should be none"));
            }
            let mut object = Map::from_iter([(key, map.next_value()?)]);
            while let Some((key, json)) = map.next_entry()? {
                object.insert(key, json);
            }
            return rich(object, Deferreds::Evaluate, self.depth).map_err(A::Error::custom);
        }
        Ok(Value::Hash(entries))
    }
}

fn rich(mut object: Map<String, Json>, deferreds: Deferreds, depth: usize) -> Result<Value, String> {
    let Some(Json::String(ptype)) = object.remove(PTYPE) else {
        return Err(format!("has {PTYPE} that is not the name of a type"));
    };
    let held = object.remove(PVALUE);
    match (ptype.as_str(), held) {
        ("Default", None) => Ok(Value::String("default".to_owned())),
        ("Sensitive", Some(held)) => Ok(match nested(held, deferreds, depth + 1)? {
            secret @ Value::Sensitive(_) => secret,
            other => Value::Sensitive(Box::new(other)),
        }),
        ("Binary", Some(Json::String(text))) => {
            let text: String = text.split_ascii_whitespace().collect();
            STANDARD.decode(text).map(Value::Binary).map_err(|_| "has a Binary that is not base64".to_owned())
        }
        ("SemVer" | "SemVerRange" | "Timestamp" | "Timespan" | "Regexp" | "Symbol" | "URI", Some(Json::String(text))) => {
            Ok(Value::String(text))
        }
        ("Hash", Some(Json::Array(flat))) => hash(flat, deferreds, depth),
        ("Deferred", None) => deferred(object, deferreds, depth),
        ("Default" | "Sensitive" | "Binary" | "SemVer" | "SemVerRange" | "Timestamp" | "Timespan" | "Regexp" | "Symbol", _)
        | ("URI" | "Hash" | "Deferred", _) => Err(format!("has a {ptype} without the value that it needs")),
        (other, _) => Err(format!("has a value of type {other}, which this program does not know")),
    }
}

/// Reads a hash whose keys are not all text: keys and values by turns. Keys become text.
fn hash(flat: Vec<Json>, deferreds: Deferreds, depth: usize) -> Result<Value, String> {
    if !flat.len().is_multiple_of(2) {
        return Err("has a Hash with a key that has no value".to_owned());
    }
    let mut entries = BTreeMap::new();
    let mut flat = flat.into_iter();
    while let (Some(key), Some(json)) = (flat.next(), flat.next()) {
        let key = text(&nested(key, deferreds, depth + 1)?).ok_or("has a Hash with a list, a hash or a secret as a key")?;
        if key == PTYPE {
            return Err(format!("has a Hash with the key {PTYPE}, which cannot be told from rich data"));
        }
        if entries.insert(key, nested(json, deferreds, depth + 1)?).is_some() {
            return Err("has a Hash with two keys that are written alike".to_owned());
        }
    }
    Ok(Value::Hash(entries))
}

fn deferred(mut object: Map<String, Json>, deferreds: Deferreds, depth: usize) -> Result<Value, String> {
    let Some(Json::String(name)) = object.remove("name") else { return Err("has a Deferred without a name".to_owned()) };
    let arguments = match object.remove("arguments") {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::Array(list)) => list.into_iter().map(|json| nested(json, deferreds, depth + 1)).collect::<Result<_, _>>()?,
        Some(_) => return Err(format!("has a Deferred {name} whose arguments are no list")),
    };
    match deferreds {
        Deferreds::Evaluate => deferred::call(&name, arguments),
        Deferreds::Keep => Ok(deferred::kept(name, arguments)),
    }
}

/// Returns a scalar as Puppet writes it into text; `None` for lists, hashes, bytes and secrets.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Undef => Some(String::new()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        // Ruby shows that it is no whole number.
        Value::Float(number) => Some(format!("{number:?}")),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        value(serde_json::from_str(text).unwrap(), Deferreds::Evaluate)
    }

    fn rich(ptype: &str, held: &str) -> Result<Value, String> {
        read(&format!(r#"{{"__ptype":"{ptype}","__pvalue":{held}}}"#))
    }

    #[test]
    fn plain() {
        let value = read(r#"{"a":[null,true,-3,2.5,"x"]}"#).unwrap();
        let list = vec![Value::Undef, true.into(), Value::Integer(-3), Value::Float(2.5), "x".into()];
        assert_eq!(value, Value::Hash([("a".to_owned(), Value::Array(list))].into()));
        assert!(read("18446744073709551615").unwrap_err().contains("9223372036854775807"));
    }

    #[test]
    fn rich_data() {
        assert_eq!(rich("SemVer", r#""1.2.3-rc.1""#).unwrap(), "1.2.3-rc.1".into());
        assert_eq!(rich("SemVerRange", r#"">=1.0.0 <2.0.0""#).unwrap(), ">=1.0.0 <2.0.0".into());
        assert_eq!(rich("Timespan", r#""0-01:00:00.0""#).unwrap(), "0-01:00:00.0".into());
        assert_eq!(rich("Timestamp", r#""2026-01-01T00:00:00.0 UTC""#).unwrap(), "2026-01-01T00:00:00.0 UTC".into());
        assert_eq!(rich("Regexp", r#""^a.b$""#).unwrap(), "^a.b$".into());
        assert_eq!(rich("Symbol", r#""undef""#).unwrap(), "undef".into());
        assert_eq!(rich("Binary", r#""Zm9v\n""#).unwrap(), Value::Binary(b"foo".to_vec()));
        assert_eq!(rich("Sensitive", r#"[1]"#).unwrap(), Value::Sensitive(Box::new(vec![Value::Integer(1)].into())));
        assert_eq!(read(r#"{"__ptype":"Default"}"#).unwrap(), "default".into());
    }

    #[test]
    fn hashes_with_odd_keys() {
        let expected = [("1".to_owned(), "a".into()), ("true".to_owned(), Value::Undef), ("1.5".to_owned(), "b".into())];
        assert_eq!(rich("Hash", r#"[1,"a",true,null,1.5,"b"]"#).unwrap(), Value::Hash(expected.into()));
        for (flat, reason) in [
            ("[1]", "no value"),
            ("[[1],2]", "as a key"),
            (r#"[1,2,"1",3]"#, "two keys"),
            (r#"["__ptype","Sensitive","__pvalue","x"]"#, "rich data"),
        ] {
            assert!(rich("Hash", flat).unwrap_err().contains(reason), "{flat}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, reason) in [
            (r#"{"__ptype":1}"#, "name of a type"),
            (r#"{"__ptype":"SemVer"}"#, "a SemVer without"),
            (r#"{"__ptype":"SemVer","__pvalue":{}}"#, "a SemVer without"),
            (r#"{"__ptype":"Binary","__pvalue":"*"}"#, "base64"),
            (r#"{"__ptype":"Pcore::Type","__pvalue":"x"}"#, "Pcore::Type"),
            (r#"{"__ptype":"Deferred","name":"vault_lookup::lookup","arguments":["a"]}"#, "vault_lookup::lookup"),
            (r#"{"__ptype":"Deferred"}"#, "without a name"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let deep = "[".repeat(50) + &"]".repeat(50);
        assert!(read(&deep).unwrap_err().contains("deeper"));
    }
}
