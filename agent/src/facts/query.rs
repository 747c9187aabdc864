//! Asking for one fact, or for a part of one.

use direct_puppet_transport::protocol::Value;

use super::Facts;

/// Returns the fact of this name, or the part of a fact that a dotted name leads to, as `os.release.major` or
/// `processors.models.0`.
#[must_use]
pub fn query<'a>(facts: &'a Facts, name: &str) -> Option<&'a Value> {
    // External facts may have points in their names.
    if let Some(fact) = facts.get(name) {
        return Some(fact);
    }
    let mut parts = name.split('.');
    let fact = facts.get(parts.next()?)?;
    parts.try_fold(fact, |value, part| match value {
        Value::Hash(values) => values.get(part),
        Value::Array(values) => values.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::json;

    #[test]
    fn parts_of_facts() {
        let Value::Hash(facts) = json(r#"{"os": {"release": {"major": "12"}}, "models": ["a", "b"], "a.b": 1, "a": {"b": 2}}"#)
        else {
            panic!("not a hash")
        };
        for (name, value) in [
            ("os.release.major", Some(r#""12""#)),
            ("os.release", Some(r#"{"major": "12"}"#)),
            ("models.1", Some(r#""b""#)),
            ("a.b", Some("1")),
            ("models.2", None),
            ("models.x", None),
            ("models.-1", None),
            ("os.release.major.x", None),
            ("os.", None),
            ("", None),
            ("none", None),
        ] {
            assert_eq!(query(&facts, name).cloned(), value.map(json), "{name}");
        }
    }
}
