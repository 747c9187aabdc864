//! Names that a site gives to extensions of certificates: `custom_trusted_oid_mapping.yaml`.
//!
//! Puppet reads the file and gives the names; here it is looked at before anything is compiled, for what would make one extension stand in
//! for another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use direct_puppet_transport::extensions::{name_of, oid_of};
use serde::Deserialize;

/// The file, in the directory of `puppet.conf`.
const NAME: &str = "custom_trusted_oid_mapping.yaml";

/// Two extensions that would have one name, or one that has a name already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct OidMappingError {
    /// The file.
    pub path: PathBuf,
    /// Which identifiers and names, and what to do.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
struct File {
    oid_mapping: BTreeMap<String, Names>,
}

#[derive(Debug, Deserialize)]
struct Names {
    shortname: String,
}

/// Looks at the file of this directory, if it has one. What cannot be read is left to Puppet, which says so to who compiles. Blocking.
pub(super) fn check(confdir: &Path) -> Result<(), OidMappingError> {
    let path = confdir.join(NAME);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let Ok(file) = serde_saphyr::from_str::<File>(&text) else { return Ok(()) };
    match collision(&file) {
        Some(reason) => Err(OidMappingError { path, reason }),
        None => Ok(()),
    }
}

fn collision(file: &File) -> Option<String> {
    let mut by_name: BTreeMap<&str, &str> = BTreeMap::new();
    for (oid, Names { shortname }) in &file.oid_mapping {
        if let Some(other) = by_name.insert(shortname, oid) {
            return Some(format!("{other} and {oid} have one name, {shortname}: give each its own"));
        }
        match (name_of(oid), oid_of(shortname)) {
            (Some(name), _) if name != shortname => {
                return Some(format!("{oid} is {name} in Puppet and cannot be {shortname}: take it out"));
            }
            (None, Some(known)) => {
                return Some(format!("{shortname} is Puppet's name of {known} and cannot be that of {oid}: choose another"));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let mut text = "oid_mapping:\n".to_owned();
        for (oid, name) in entries {
            text += &format!("  '{oid}':\n    shortname: '{name}'\n    longname: 'x'\n");
        }
        std::fs::write(dir.path().join(NAME), text).unwrap();
        check(dir.path()).map_err(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn one_name_is_that_of_one_extension() {
        const OWN: &str = "1.3.6.1.4.1.34380.1.2.1";
        assert_eq!(of(&[(OWN, "rack"), ("1.3.6.1.4.1.34380.1.2.2", "row")]), Ok(()));
        assert_eq!(of(&[("1.3.6.1.4.1.34380.1.1.13", "pp_role")]), Ok(()));
        for (entries, reason) in [
            (&[(OWN, "rack"), ("1.3.6.1.4.1.34380.1.2.2", "rack")][..], "1.2.1 and 1.3.6.1.4.1.34380.1.2.2 have one name, rack"),
            (&[(OWN, "pp_role")], "pp_role is Puppet's name of 1.3.6.1.4.1.34380.1.1.13 and cannot be that of"),
            (&[("1.3.6.1.4.1.34380.1.1.13", "duty")], "1.3.6.1.4.1.34380.1.1.13 is pp_role in Puppet and cannot be duty"),
        ] {
            let error = of(entries).unwrap_err();
            assert!(error.starts_with(&format!("/{NAME}: ")) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn no_file_and_one_that_is_puppets_to_judge() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path()), Ok(()));
        std::fs::write(dir.path().join(NAME), "- nothing\n").unwrap();
        assert_eq!(check(dir.path()), Ok(()));
    }
}
