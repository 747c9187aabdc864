//! `csr_attributes.yaml`: what a request says beside the name, as Puppet reads it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use direct_puppet_transport::enrol::{Attribute, RequestOptions};
use direct_puppet_transport::extensions::oid_of;
use serde::Deserialize;

/// Longest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    custom_attributes: Option<BTreeMap<String, Scalar>>,
    extension_requests: Option<BTreeMap<String, Scalar>>,
}

/// A value as YAML has it; Puppet makes text of each.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Flag(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Flag(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            // With a point also where nothing follows it: `pp_software_version: 2.0`.
            Self::Float(value) => format!("{value:?}"),
            Self::Text(value) => value,
        }
    }
}

/// Reads the file; without it, there is nothing to say.
pub(super) fn load(path: &Path) -> anyhow::Result<RequestOptions> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RequestOptions::default()),
        Ok(found) if found.len() > MAX_BYTES => bail!("{} is longer than {MAX_BYTES} bytes", path.display()),
        _ => {}
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not valid", path.display()))
}

fn parse(text: &str) -> anyhow::Result<RequestOptions> {
    // A part of the file in an error would show the passwords in it.
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options)?;
    let attributes = |found: Option<BTreeMap<String, Scalar>>| {
        let all = found.unwrap_or_default().into_iter();
        all.map(|(name, value)| Ok(Attribute { oid: oid(&name)?, value: value.text() })).collect::<anyhow::Result<Vec<_>>>()
    };
    Ok(RequestOptions {
        dns_alt_names: Vec::new(),
        extensions: attributes(file.extension_requests)?,
        custom_attributes: attributes(file.custom_attributes)?,
    })
}

/// Returns the identifier of a name, or the identifier itself.
fn oid(name: &str) -> anyhow::Result<String> {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(name.to_owned());
    }
    match (oid_of(name), name) {
        (Some(known), _) => Ok(known.to_owned()),
        (None, "challengePassword") => Ok("1.2.840.113549.1.9.7".to_owned()),
        _ => bail!("{name} is no name of an extension: write its identifier, as 1.3.6.1.4.1.34380.1.2.1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puppets_file_is_read() {
        let text = "---\ncustom_attributes:\n  1.2.840.113549.1.9.7: 342thbjkt82094y0uthhor289jnqthpc2290\nextension_requests:\n  pp_role: web\n  pp_uuid: 7\n  pp_auth_role: 2.0\n  1.3.6.1.4.1.34380.1.2.1: true\n";
        let read = parse(text).unwrap();
        let pairs: Vec<_> = read.extensions.iter().map(|found| (found.oid.as_str(), found.value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("1.3.6.1.4.1.34380.1.2.1", "true"),
                ("1.3.6.1.4.1.34380.1.3.13", "2.0"),
                ("1.3.6.1.4.1.34380.1.1.13", "web"),
                ("1.3.6.1.4.1.34380.1.1.1", "7")
            ]
        );
        assert_eq!(read.custom_attributes[0].oid, "1.2.840.113549.1.9.7");
        for bad in ["extension_requests:\n  pp_rolle: x\n", "extensions: {}\n", "- a\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in
            ["custom_attributes:\n  challengePassword: [hunter2]\n", "custom_attributes:\n  challengePassword: \"hunter2\n"]
        {
            let told = format!("{:#} ", parse(bad).unwrap_err());
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
