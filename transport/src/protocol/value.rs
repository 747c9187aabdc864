//! Values of resource parameters and facts: a closed set, no class names, no code.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

/// A key that marks a hash as a rich data value, and the key of what it holds: as in Puppet's catalogs.
const PTYPE: &str = "__ptype";
const PVALUE: &str = "__pvalue";

/// A value of a resource parameter or a fact.
///
/// Written as the plain MessagePack or JSON type. `Sensitive`, and `Binary` where people read, are hashes with
/// `__ptype`, as in Puppet's rich data. `Debug` never shows what a `Sensitive` holds.
#[derive(Clone, PartialEq, Default)]
pub enum Value {
    /// No value.
    #[default]
    Undef,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction; never NaN on the wire.
    Float(f64),
    /// Text.
    String(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A list.
    Array(Vec<Self>),
    /// A hash with string keys.
    Hash(BTreeMap<String, Self>),
    /// A secret: never shown, logged, reported or kept in clear outside the catalog.
    Sensitive(Box<Self>),
}

impl Value {
    /// Returns the text of a string, also of a sensitive one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Sensitive(value) => value.as_str(),
            _ => None,
        }
    }

    /// Returns a boolean; the strings `true`, `false`, `yes` and `no` count, as in Puppet.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::String(text) => match text.as_str() {
                "true" | "yes" => Some(true),
                "false" | "no" => Some(false),
                _ => None,
            },
            Self::Sensitive(value) => value.as_bool(),
            _ => None,
        }
    }

    /// Returns what a secret holds, and any other value itself.
    #[must_use]
    pub fn opened(&self) -> &Self {
        match self {
            Self::Sensitive(value) => value.opened(),
            other => other,
        }
    }

    /// Returns the elements of an array, also of a sensitive one, or this value as the only element; nothing for `Undef`.
    #[must_use]
    pub fn as_list(&self) -> &[Self] {
        match self.opened() {
            Self::Undef => &[],
            Self::Array(values) => values,
            other => std::slice::from_ref(other),
        }
    }

    /// Returns whether this value, or one inside it, is a secret.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        match self {
            Self::Sensitive(_) => true,
            Self::Array(values) => values.iter().any(Self::is_sensitive),
            Self::Hash(values) => values.values().any(Self::is_sensitive),
            _ => false,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<Vec<Self>> for Value {
    fn from(values: Vec<Self>) -> Self {
        Self::Array(values)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undef => f.write_str("undef"),
            Self::Boolean(value) => fmt::Debug::fmt(value, f),
            Self::Integer(value) => fmt::Debug::fmt(value, f),
            Self::Float(value) => fmt::Debug::fmt(value, f),
            Self::String(text) => fmt::Debug::fmt(text, f),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
            Self::Array(values) => f.debug_list().entries(values).finish(),
            Self::Hash(values) => f.debug_map().entries(values).finish(),
            Self::Sensitive(_) => f.write_str("Sensitive [value redacted]"),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Undef => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::String(text) => serializer.serialize_str(text),
            Self::Binary(bytes) if serializer.is_human_readable() => rich(serializer, "Binary", &base64(bytes)),
            Self::Binary(bytes) => Bytes::new(bytes).serialize(serializer),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Hash(values) => serializer.collect_map(values),
            Self::Sensitive(value) => rich(serializer, "Sensitive", &**value),
        }
    }
}

fn rich<S: Serializer>(serializer: S, ptype: &str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry(PTYPE, ptype)?;
    map.serialize_entry(PVALUE, value)?;
    map.end()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes RFC 4648 base64 with padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let index = (word >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= chunk.len() { char::from(BASE64[index]) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(&text);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.chunks(4) {
        let mut word = 0_u32;
        for &digit in chunk {
            word = word << 6 | u32::try_from(BASE64.iter().position(|&known| known == digit)?).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        // Four digits are three bytes, three are two, two are one; one alone is none.
        let count = chunk.len().checked_sub(1).filter(|&count| count > 0)?;
        bytes.extend_from_slice(&word.to_be_bytes()[1..=count]);
    }
    Some(bytes)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value: undef, boolean, number, string, bytes, array or hash with string keys")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Undef)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        let value = i64::try_from(value).map_err(|_| E::custom(format_args!("integer {value} does not fit 63 bits")))?;
        Ok(Value::Integer(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_nan() { Err(E::custom("a number that is not a number")) } else { Ok(Value::Float(value)) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Binary(bytes.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Binary(ByteBuf::from(bytes).into_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = BTreeMap::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            if values.contains_key(&key) {
                return Err(de::Error::custom(format_args!("key {key:?} twice in one hash")));
            }
            values.insert(key, value);
        }
        rich_value(values).map_err(de::Error::custom)
    }
}

/// Turns a hash that says `__ptype` into the value that it stands for.
fn rich_value(mut values: BTreeMap<String, Value>) -> Result<Value, String> {
    let Some(Value::String(ptype)) = values.get(PTYPE) else {
        return Ok(Value::Hash(values));
    };
    let ptype = ptype.clone();
    match (ptype.as_str(), values.remove(PVALUE)) {
        ("Sensitive", Some(value)) => Ok(Value::Sensitive(Box::new(value))),
        ("Binary", Some(Value::String(text))) => {
            unbase64(&text).map(Value::Binary).ok_or_else(|| "Binary does not hold base64".to_owned())
        }
        ("Sensitive" | "Binary", _) => Err(format!("{ptype} without the __pvalue that it needs")),
        (_, value) => {
            // Other rich types are passed on as they are: their reader knows them.
            values.extend(value.map(|value| (PVALUE.to_owned(), value)));
            Ok(Value::Hash(values))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trips() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")] {
            // The test vectors of RFC 4648 §10.
            assert_eq!(base64(bytes), text);
            assert_eq!(unbase64(text).unwrap(), bytes);
        }
        assert_eq!(unbase64("*"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Value::Sensitive(Box::new("hunter2".into()));
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(Value::Array(vec![secret]).is_sensitive());
    }

    #[test]
    fn rich_values_in_json_are_those_of_puppet() {
        let value: Value =
            serde_json::from_str(r#"{"a":{"__ptype":"Sensitive","__pvalue":"x"},"b":{"__ptype":"Binary","__pvalue":"Zm9v"}}"#)
                .unwrap();
        let Value::Hash(hash) = &value else { panic!("not a hash") };
        assert_eq!(hash["a"], Value::Sensitive(Box::new("x".into())));
        assert_eq!(hash["b"], Value::Binary(b"foo".to_vec()));
        let again: Value = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        assert_eq!(again, value);
    }
}
