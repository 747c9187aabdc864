//! The formats of external facts.

use direct_puppet_transport::protocol::Value;

use super::ExternalError;
use crate::facts::Facts;

/// Reads lines `name=value`; other lines, and comments, are passed over. Values are text, blanks and all.
pub(super) fn key_values(text: &str) -> Facts {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('=')).filter(|(name, value)| !name.is_empty() && !value.is_empty());
    pairs.map(|(name, value)| (name.to_lowercase(), value.into())).collect()
}

pub(super) fn json(text: &str) -> Result<Facts, ExternalError> {
    hash(serde_json::from_str(text).map_err(ExternalError::Json)?)
}

pub(super) fn yaml(text: &str) -> Result<Facts, ExternalError> {
    // As Ruby reads numbers: 0644 is 420. Errors show nothing of the text: it may hold secrets.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    hash(serde_saphyr::from_str_with_options(text, options).map_err(ExternalError::Yaml)?)
}

/// Reads what an executable printed: a hash in YAML, of which JSON is a part, else lines.
pub(super) fn output(bytes: &[u8]) -> Result<Facts, ExternalError> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        return Ok(Facts::new());
    }
    if let Ok(facts) = yaml(&text) {
        return Ok(facts);
    }
    let facts = key_values(&text);
    if facts.is_empty() { Err(ExternalError::Output) } else { Ok(facts) }
}

/// An empty document has no facts, and a fact without a value is none. Names are in lower case, as Facter makes them.
fn hash(value: Value) -> Result<Facts, ExternalError> {
    match value {
        Value::Undef => Ok(Facts::new()),
        Value::Hash(facts) => {
            let facts = facts.into_iter().filter(|(_, value)| *value != Value::Undef);
            Ok(facts.map(|(name, value)| (name.to_lowercase(), value)).collect())
        }
        _ => Err(ExternalError::NoHash),
    }
}
