//! Values as Puppet writes them into catalogs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use direct_puppet_transport::protocol::Value;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// A key that marks a hash as a rich data value, and the key of what it holds.
const PTYPE: &str = "__ptype";
const PVALUE: &str = "__pvalue";

/// Keys of rich data in the order in which Puppet reads them: it takes what a `Deferred` is made from by its place, not by its name.
const ORDER: [&str; 3] = [PTYPE, "name", "arguments"];

/// A value. Where no rich data is read, a secret inside another value is written as it is, and bytes as Base64.
pub(super) struct PuppetValue<'a> {
    pub(super) value: Cow<'a, Value>,
    pub(super) is_rich: bool,
}

impl PuppetValue<'_> {
    fn inner<'a>(&self, value: &'a Value) -> PuppetValue<'a> {
        PuppetValue { value: Cow::Borrowed(value), is_rich: self.is_rich }
    }

    fn hash<S: Serializer>(&self, values: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(values.len()))?;
        let is_ordered = values.contains_key(PTYPE);
        if is_ordered {
            for key in ORDER {
                if let Some(value) = values.get(key) {
                    map.serialize_entry(key, &self.inner(value))?;
                }
            }
        }
        for (key, value) in values.iter().filter(|(key, _)| !is_ordered || !ORDER.contains(&key.as_str())) {
            map.serialize_entry(key, &self.inner(value))?;
        }
        map.end()
    }
}

impl Serialize for PuppetValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.value {
            Value::Sensitive(value) if !self.is_rich => self.inner(value).serialize(serializer),
            Value::Sensitive(value) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry(PTYPE, "Sensitive")?;
                map.serialize_entry(PVALUE, &self.inner(value))?;
                map.end()
            }
            Value::Array(values) => serializer.collect_seq(values.iter().map(|value| self.inner(value))),
            Value::Hash(values) => self.hash(values, serializer),
            bytes @ Value::Binary(_) if !self.is_rich => {
                let rich = serde_json::to_value(bytes).map_err(serde::ser::Error::custom)?;
                rich.get(PVALUE).serialize(serializer)
            }
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: Value, is_rich: bool) -> String {
        serde_json::to_string(&PuppetValue { value: Cow::Owned(value), is_rich }).unwrap()
    }

    #[test]
    fn rich_and_plain() {
        let secret = Value::Array(vec![Value::Sensitive(Box::new("x".into())), Value::Binary(b"foo".to_vec())]);
        assert_eq!(
            written(secret.clone(), true),
            r#"[{"__ptype":"Sensitive","__pvalue":"x"},{"__ptype":"Binary","__pvalue":"Zm9v"}]"#
        );
        assert_eq!(written(secret, false), r#"["x","Zm9v"]"#);
        let deferred: Value = serde_json::from_str(r#"{"arguments":["a"],"name":"upcase","__ptype":"Deferred"}"#).unwrap();
        assert_eq!(written(deferred, true), r#"{"__ptype":"Deferred","name":"upcase","arguments":["a"]}"#);
        let plain: Value = serde_json::from_str(r#"{"name":1,"arguments":2.5,"a":[true,null]}"#).unwrap();
        assert_eq!(written(plain, true), r#"{"a":[true,null],"arguments":2.5,"name":1}"#);
    }
}
