//! A value of a report as text.

use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize as _};

/// Deepest nesting of a value, as in all that is decoded here.
const MAX_DEPTH: u32 = 64;

/// Text as it is, and anything else as JSON; nothing for null. It is made while it is read, so that it takes no more memory than it has bytes:
/// a list of numbers as values would take thirty times as much.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::new();
        Part { text: &mut text, depth: 0 }.deserialize(deserializer)?;
        Ok(Self(text))
    }
}

/// A value that is written behind what is there.
struct Part<'a> {
    text: &'a mut String,
    /// 0 for the whole.
    depth: u32,
}

impl Part<'_> {
    fn write<E: Error>(self, value: impl fmt::Display) -> Result<(), E> {
        write!(self.text, "{value}").map_err(E::custom)
    }

    fn below<E: Error>(&mut self) -> Result<Part<'_>, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("a value is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Part { text: self.text, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// What `serialize_str` takes: JSON with its quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(self.0.len() + 2);
        self.0.serialize(&mut serde_json::Serializer::new(&mut bytes)).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&bytes).map_err(|_| fmt::Error)?)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.depth == 0 { Ok(()) } else { self.write("null") }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.write(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        // As JSON writes it: 1.0, not 1.
        self.write(serde_json::Value::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.depth == 0 {
            self.text.push_str(value);
            return Ok(());
        }
        self.write(Quoted(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<(), A::Error> {
        self.text.push('[');
        let mut is_first = true;
        loop {
            let before = self.text.len();
            if !is_first {
                self.text.push(',');
            }
            if values.next_element_seed(self.below()?)?.is_none() {
                self.text.truncate(before);
                break;
            }
            is_first = false;
        }
        self.text.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut values: A) -> Result<(), A::Error> {
        self.text.push('{');
        let mut is_first = true;
        while let Some(key) = values.next_key::<String>()? {
            if !is_first {
                self.text.push(',');
            }
            write!(self.text, "{}:", Quoted(&key)).map_err(A::Error::custom)?;
            values.next_value_seed(self.below()?)?;
            is_first = false;
        }
        self.text.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn text(json: &Json) -> String {
        serde_json::from_str::<Text>(&json.to_string()).unwrap().0
    }

    #[test]
    fn values_as_text() {
        for (value, expected) in [
            (json!(null), ""),
            (json!("a \"b\"\n"), "a \"b\"\n"),
            (json!(true), "true"),
            (json!(-7), "-7"),
            (json!(1.0), "1.0"),
            (json!([]), "[]"),
            (json!({}), "{}"),
            (json!([null, "x\"", [1, {"k": [2]}], {}]), r#"[null,"x\"",[1,{"k":[2]}],{}]"#),
        ] {
            assert_eq!(text(&value), expected);
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(serde_json::from_str::<Text>(&deep).unwrap_err().to_string().contains("deeper than 64"));
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        /// The oracle is the value as JSON writes it.
        #[test]
        fn lists_and_maps_are_json(value in any_json()) {
            match &value {
                Json::Array(_) | Json::Object(_) => prop_assert_eq!(text(&value), value.to_string()),
                Json::String(plain) => prop_assert_eq!(&text(&value), plain),
                _ => {}
            }
        }
    }
}
