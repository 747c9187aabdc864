//! What a certificate says of its node beside the name: Puppet's extensions, below 1.3.6.1.4.1.34380.1.
//!
//! Below `.1` are those that Puppet has registered, below `.2` those of a site, below `.3` those for authorization. The authority has
//! signed them, so they are as sure as the name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::protocol::Digest;

/// Identifiers that Puppet has named, as in its `lib/puppet/ssl/oids.rb` (8.11).
const NAMES: [(&str, &str); 30] = [
    ("1.3.6.1.4.1.34380.1.1.1", "pp_uuid"),
    ("1.3.6.1.4.1.34380.1.1.2", "pp_instance_id"),
    ("1.3.6.1.4.1.34380.1.1.3", "pp_image_name"),
    ("1.3.6.1.4.1.34380.1.1.4", "pp_preshared_key"),
    ("1.3.6.1.4.1.34380.1.1.5", "pp_cost_center"),
    ("1.3.6.1.4.1.34380.1.1.6", "pp_product"),
    ("1.3.6.1.4.1.34380.1.1.7", "pp_project"),
    ("1.3.6.1.4.1.34380.1.1.8", "pp_application"),
    ("1.3.6.1.4.1.34380.1.1.9", "pp_service"),
    ("1.3.6.1.4.1.34380.1.1.10", "pp_employee"),
    ("1.3.6.1.4.1.34380.1.1.11", "pp_created_by"),
    ("1.3.6.1.4.1.34380.1.1.12", "pp_environment"),
    ("1.3.6.1.4.1.34380.1.1.13", "pp_role"),
    ("1.3.6.1.4.1.34380.1.1.14", "pp_software_version"),
    ("1.3.6.1.4.1.34380.1.1.15", "pp_department"),
    ("1.3.6.1.4.1.34380.1.1.16", "pp_cluster"),
    ("1.3.6.1.4.1.34380.1.1.17", "pp_provisioner"),
    ("1.3.6.1.4.1.34380.1.1.18", "pp_region"),
    ("1.3.6.1.4.1.34380.1.1.19", "pp_datacenter"),
    ("1.3.6.1.4.1.34380.1.1.20", "pp_zone"),
    ("1.3.6.1.4.1.34380.1.1.21", "pp_network"),
    ("1.3.6.1.4.1.34380.1.1.22", "pp_securitypolicy"),
    ("1.3.6.1.4.1.34380.1.1.23", "pp_cloudplatform"),
    ("1.3.6.1.4.1.34380.1.1.24", "pp_apptier"),
    ("1.3.6.1.4.1.34380.1.1.25", "pp_hostname"),
    ("1.3.6.1.4.1.34380.1.1.26", "pp_owner"),
    ("1.3.6.1.4.1.34380.1.3.1", "pp_authorization"),
    ("1.3.6.1.4.1.34380.1.3.2", "pp_auth_auto_renew"),
    ("1.3.6.1.4.1.34380.1.3.13", "pp_auth_role"),
    ("1.3.6.1.4.1.34380.1.3.39", "pp_cli_auth"),
];

/// Returns the name of a dotted identifier that Puppet has named.
#[must_use]
pub fn name_of(oid: &str) -> Option<&'static str> {
    NAMES.iter().find_map(|(known, name)| (*known == oid).then_some(*name))
}

/// Returns the dotted identifier that Puppet has given this name.
#[must_use]
pub fn oid_of(name: &str) -> Option<&'static str> {
    NAMES.iter().find_map(|(oid, known)| (*known == name).then_some(*oid))
}

/// The Puppet extensions of a certificate, by the name that Puppet has given to one, else by dotted identifier. Cheap to clone, and to
/// compare with others by digest.
#[derive(Clone, PartialEq, Eq)]
pub struct Extensions(Arc<All>);

#[derive(PartialEq, Eq)]
struct All {
    by_name: BTreeMap<String, String>,
    digest: Digest,
}

impl Extensions {
    /// Returns the value of one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.by_name.get(name).map(String::as_str)
    }

    /// Returns all of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.by_name.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns a digest of all names and values, which is made once, with these.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.by_name.is_empty()
    }
}

impl Default for Extensions {
    fn default() -> Self {
        std::iter::empty().collect()
    }
}

impl FromIterator<(String, String)> for Extensions {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Self {
        let by_name: BTreeMap<String, String> = all.into_iter().collect();
        let mut bytes = Vec::new();
        for text in by_name.iter().flat_map(|(name, value)| [name, value]) {
            // With its length before it, no text runs into the next.
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        Self(Arc::new(All { by_name, digest: Digest::of(&bytes) }))
    }
}

/// Names alone: a value may be a `pp_preshared_key`, and peers are written to logs.
impl Debug for Extensions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.by_name.keys()).finish()
    }
}

impl Serialize for Extensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_puppets_and_each_is_there_once() {
        assert_eq!(name_of("1.3.6.1.4.1.34380.1.1.13"), Some("pp_role"));
        assert_eq!(oid_of("pp_auth_role"), Some("1.3.6.1.4.1.34380.1.3.13"));
        assert_eq!((name_of("1.3.6.1.4.1.34380.1.1.130"), oid_of("pp_rolle")), (None, None));
        for (oid, name) in NAMES {
            assert_eq!((name_of(oid), oid_of(name)), (Some(name), Some(oid)));
        }
    }

    #[test]
    fn digests_differ_where_extensions_do() {
        let of = |pairs: &[(&str, &str)]| -> Extensions {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let some = [of(&[]), of(&[("a", "bc")]), of(&[("ab", "c")]), of(&[("a", "b"), ("c", "")]), of(&[("a", "b"), ("c", "d")])];
        for (at, one) in some.iter().enumerate() {
            assert_eq!(some.iter().filter(|other| other.digest() == one.digest()).count(), 1, "{at}");
        }
        assert_eq!(of(&[("c", "d"), ("a", "b")]).digest(), some[4].digest());
        assert_eq!(Extensions::default().digest(), some[0].digest());
    }

    #[test]
    fn no_value_is_in_a_log() {
        let all: Extensions = [("pp_preshared_key".to_owned(), "hush".to_owned())].into_iter().collect();
        assert_eq!(format!("{all:?}"), r#"{"pp_preshared_key"}"#);
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"{"pp_preshared_key":"hush"}"#);
    }
}
