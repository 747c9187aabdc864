//! Takes secrets out of what is said of a resource, and keeps it short.

use direct_puppet_transport::protocol::{Resource, Value};

/// What stands for a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// A line of a secret is one by itself from so many bytes on: shorter ones, as `}`, stand anywhere.
const SHORTEST_LINE: usize = 8;

/// Longest text that is kept, in bytes. The program cuts its own: this is for one that does not.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// The secrets of one resource. `Debug` does not show them.
pub(crate) struct Secrets {
    /// The longest first: one may be part of another.
    texts: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.texts.len())
    }
}

impl Secrets {
    pub(crate) fn of(resource: &Resource) -> Self {
        let mut texts = Vec::new();
        resource.parameters.values().for_each(|value| gather(value, false, &mut texts));
        let otherwise: Vec<String> = texts.iter().flat_map(|text| spelled_otherwise(text)).collect();
        texts.extend(otherwise);
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Self { texts }
    }

    pub(crate) const fn are_there(&self) -> bool {
        !self.texts.is_empty()
    }

    /// Returns text without the secrets that stand in it.
    pub(crate) fn hide(&self, text: String) -> String {
        let hidden = self.texts.iter().fold(text, |text, secret| match text.contains(secret) {
            true => text.replace(secret, REDACTED),
            false => text,
        });
        short(hidden)
    }

    /// Returns why something failed in Ruby. Of a resource with a secret nothing is told: it may be there in another form.
    #[cfg(any(feature = "providers", test))]
    pub(crate) fn hide_reason(&self, reason: String) -> String {
        if self.are_there() { REDACTED.to_owned() } else { short(reason) }
    }
}

/// Collects what is secret, in the forms in which it may be said.
fn gather(value: &Value, is_secret: bool, into: &mut Vec<String>) {
    match value {
        Value::Sensitive(held) => gather(held, true, into),
        Value::Array(values) => values.iter().for_each(|value| gather(value, is_secret, into)),
        Value::Hash(values) => {
            for (name, value) in values {
                if is_secret && !name.is_empty() {
                    into.push(name.clone());
                }
                gather(value, is_secret, into);
            }
        }
        _ if !is_secret => {}
        Value::String(text) if !text.is_empty() => into.push(text.clone()),
        Value::Integer(number) => into.push(number.to_string()),
        Value::Float(number) => into.push(number.to_string()),
        Value::Binary(bytes) => into.extend(std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)),
        Value::String(_) | Value::Undef | Value::Boolean(_) => {}
    }
}

/// Returns how types and Puppet may say a text: without spaces around it, line by line, in JSON, in Ruby's and Puppet's quotes.
fn spelled_otherwise(text: &str) -> Vec<String> {
    let trimmed = text.trim();
    let json = serde_json::to_string(trimmed).unwrap_or_default();
    let json = json.get(1..json.len().saturating_sub(1)).unwrap_or_default().to_owned();
    // As `inspect` has it.
    let inspected = json.replace("#{", "\\#{").replace("#$", "\\#$").replace("#@", "\\#@");
    let quoted = trimmed.replace('\\', "\\\\").replace('\'', "\\'");
    let only_quotes = trimmed.replace('\'', "\\'");
    let lines = trimmed.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE).map(str::to_owned);
    [trimmed.to_owned(), json, inspected, quoted, only_quotes].into_iter().filter(|text| !text.is_empty()).chain(lines).collect()
}

fn short(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensitive(value: impl Into<Value>) -> Value {
        Value::Sensitive(Box::new(value.into()))
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let nested = Value::Hash([("user".to_owned(), "bob".into()), ("key".to_owned(), sensitive("tre"))].into());
        let resource = Resource::new("Level", "a")
            .with("password", sensitive(vec![Value::from("trespass"), Value::Integer(4711)]))
            .with("options", nested)
            .with("comment", "open");
        let secrets = Secrets::of(&resource);
        assert_eq!(
            secrets.hide("bob trespasses 4711 for tre, open".to_owned()),
            "bob [redacted]es [redacted] for [redacted], open"
        );
        assert_eq!(secrets.hide_reason("c2VjcmV0".to_owned()), REDACTED);
        assert!(!format!("{secrets:?}").contains("tre"));
        let none = Secrets::of(&Resource::new("Level", "a").with("comment", "open"));
        assert_eq!((none.are_there(), none.hide_reason("open".to_owned())), (false, "open".to_owned()));
    }

    #[test]
    fn secrets_are_hidden_however_they_are_spelled() {
        for (secret, said) in [
            ("hunter2\n", "was hunter2 before"),
            ("hunt\"er2", r#"["hunt\"er2"]"#),
            (r"a\b", r#"["a\\b"]"#),
            ("o'brien", r"'o\'brien'"),
            (
                "-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n",
                r"key -----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n",
            ),
            ("-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n", "line MIIEvQIBADAN"),
        ] {
            let hidden = Secrets::of(&Resource::new("Level", "a").with("password", sensitive(secret))).hide(said.to_owned());
            assert!(hidden.contains(REDACTED), "{secret}: {hidden}");
            for part in ["hunter2", "er2", "brien", "MIIE", "a\\"] {
                assert!(!hidden.contains(part), "{secret}: {hidden}");
            }
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        let none = Secrets::of(&Resource::new("Level", "a"));
        let cut = none.hide("ä".repeat(MAX_TEXT_BYTES));
        assert_eq!(cut.len(), MAX_TEXT_BYTES);
        assert_eq!(none.hide(format!("a{}", "ä".repeat(MAX_TEXT_BYTES))).len(), MAX_TEXT_BYTES - 1);
    }
}
