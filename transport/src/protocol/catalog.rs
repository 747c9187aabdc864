//! The catalog: every resource of one node, every file in it named by digest.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::codec::{self, CodecError};
use super::digest::Digest;
use super::ids::{CatalogId, Certname, Environment};
use super::limits::MAX_CATALOG_BYTES;
use super::manifest::{EntryKind, ManifestEntry, ManifestError, check_entries};
use super::value::Value;
use crate::hashing::FastState;

/// The catalog format that this crate writes, and the newest that it reads.
pub const CATALOG_FORMAT: u32 = 1;

/// Everything that one node shall be.
///
/// It says nothing of the code that made it, so that new code which changes nothing for a node gives the same
/// [`CatalogId`]; the `code_id` travels beside it, in [`super::messages::CatalogReply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// [`CATALOG_FORMAT`].
    pub format: u32,
    /// The node it is for.
    pub certname: Certname,
    /// The environment it was compiled in.
    pub environment: Environment,
    /// Names of the classes declared, in order.
    #[serde(default)]
    pub classes: Vec<String>,
    /// The resources, in manifest order.
    pub resources: Vec<Resource>,
    /// Containment and explicit ordering; more ordering comes from the resources' relationship parameters.
    #[serde(default)]
    pub edges: Vec<Edge>,
}

/// One thing to manage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// The type, capitalised, as `File`.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// The title, unique within its type.
    pub title: String,
    /// Parameters and metaparameters, by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
    /// Tags, for `--tags`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What the `source` or `content` of a file resolves to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedSource>,
    /// It only holds others, as a class or a defined type does: nothing manages it. `Class` and `Stage` need not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub container: bool,
    /// Why nobody can manage it as it is; only it fails. Catalogs that a server of ours compiles have none such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// Where it was declared: a file within the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where it was declared: a line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// What a file's `source` (the first of them that exists) or `content` was when the catalog was compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedSource {
    /// The source that exists, as the resource gives it (`puppet:///modules/…`); `None` for compiled content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Sorted by path. The first has the empty path and is the source itself; the others, for a recursive source, are
    /// what lies below it.
    pub entries: Vec<ManifestEntry>,
}

/// An order between two resources: `source` before `target`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edge {
    /// What comes first, or contains.
    pub source: ResourceRef,
    /// What comes after, or is contained.
    pub target: ResourceRef,
}

/// A reference to a resource; text form `Type[title]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceRef {
    /// The type, capitalised.
    pub resource_type: String,
    /// The title.
    pub title: String,
}

/// Text that is no `Type[title]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a resource reference: write Type[title]")]
pub struct ResourceRefError {
    /// What was parsed, at most its first 80 characters.
    pub text: String,
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The bytes are no catalog.
    #[error("catalog could not be read")]
    Codec(#[from] CodecError),
    /// The bytes do not have the id that they came under.
    #[error("catalog has id {actual}, not {expected}: it was damaged on its way or on disk")]
    Id {
        /// The id it should have.
        expected: CatalogId,
        /// The id its bytes have.
        actual: CatalogId,
    },
    /// A format newer than this program.
    #[error("catalog has format {format}, this program reads up to {CATALOG_FORMAT}: update it")]
    Format {
        /// The format of the catalog.
        format: u32,
    },
    /// Two resources of the same type and title.
    #[error("{resource} is declared twice")]
    Duplicate {
        /// The resource.
        resource: ResourceRef,
    },
    /// An edge to a resource that is not there.
    #[error("an edge names {resource}, which is not in the catalog")]
    UnknownEdge {
        /// The resource.
        resource: ResourceRef,
    },
    /// A resolved source that is empty, unsorted or does not start at its own root.
    #[error("what {resource} is made from is not valid: {reason}")]
    Resolved {
        /// The resource.
        resource: ResourceRef,
        /// Which rule it breaks.
        reason: &'static str,
    },
}

impl Catalog {
    /// Returns the canonical bytes and the id that they have.
    ///
    /// # Errors
    ///
    /// When a value has no MessagePack form.
    pub fn encode(&self) -> Result<(CatalogId, Bytes), CodecError> {
        let bytes = codec::encode(self)?;
        Ok((CatalogId::of(&bytes), bytes.into()))
    }

    /// Reads a catalog from bytes that must have the id `expected`, and checks what no reader should have to.
    ///
    /// # Errors
    ///
    /// When the bytes have another id, are no catalog, or the catalog contradicts itself.
    pub fn decode(bytes: &[u8], expected: CatalogId) -> Result<Self, CatalogError> {
        let actual = CatalogId::of(bytes);
        if actual != expected {
            return Err(CatalogError::Id { expected, actual });
        }
        let catalog: Self = codec::decode(bytes, MAX_CATALOG_BYTES)?;
        catalog.validate()?;
        Ok(catalog)
    }

    /// Checks references: no resource twice, no edge into nothing, resolved sources sorted below their own root.
    ///
    /// # Errors
    ///
    /// Names the first resource that breaks a rule. Cycles and what providers mind are found when a run is planned.
    pub fn validate(&self) -> Result<(), CatalogError> {
        if self.format == 0 || self.format > CATALOG_FORMAT {
            return Err(CatalogError::Format { format: self.format });
        }
        let mut known = HashSet::with_capacity_and_hasher(self.resources.len(), FastState::default());
        for resource in &self.resources {
            if !known.insert((resource.resource_type.as_str(), resource.title.as_str())) {
                return Err(CatalogError::Duplicate { resource: resource.reference() });
            }
            resource.validate_resolved()?;
        }
        let mut last = None;
        for edge in &self.edges {
            // Mostly what holds many stands before all of them.
            let source = Some(&edge.source).filter(|source| last != Some(*source));
            for end in source.into_iter().chain([&edge.target]) {
                if !known.contains(&(end.resource_type.as_str(), end.title.as_str())) {
                    return Err(CatalogError::UnknownEdge { resource: end.clone() });
                }
            }
            last = Some(&edge.source);
        }
        Ok(())
    }

    /// Returns every content that the catalog names, with its size in bytes; the same one may come more than once.
    pub fn contents(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.resources.iter().flat_map(Resource::contents)
    }
}

impl Resource {
    /// Returns every content that the resource names, with its size in bytes.
    pub fn contents(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.resolved.iter().flat_map(|resolved| &resolved.entries).filter_map(|entry| match entry.kind {
            EntryKind::File { digest, size } => Some((digest, size)),
            _ => None,
        })
    }

    /// Returns a resource without parameters.
    #[must_use]
    pub fn new(resource_type: &str, title: &str) -> Self {
        Self {
            resource_type: resource_type.to_owned(),
            title: title.to_owned(),
            parameters: BTreeMap::new(),
            tags: Vec::new(),
            resolved: None,
            container: false,
            unusable: None,
            file: None,
            line: None,
        }
    }

    /// Returns whether it only holds others, so that no provider manages it.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.container || matches!(self.resource_type.as_str(), "Class" | "Stage")
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }

    /// Returns a parameter; `None` when absent or undef.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Value> {
        self.parameters.get(name).filter(|value| **value != Value::Undef)
    }

    /// Returns the reference to this resource.
    #[must_use]
    pub fn reference(&self) -> ResourceRef {
        ResourceRef { resource_type: self.resource_type.clone(), title: self.title.clone() }
    }

    fn validate_resolved(&self) -> Result<(), CatalogError> {
        let Some(resolved) = &self.resolved else { return Ok(()) };
        let fail = |reason| Err(CatalogError::Resolved { resource: self.reference(), reason });
        let Some((first, below)) = resolved.entries.split_first() else {
            return fail("it has no entries");
        };
        if !first.path.is_root() {
            return fail("its first entry is not the source itself");
        }
        if first.kind != EntryKind::Directory && !below.is_empty() {
            return fail("something lies below what is no directory");
        }
        match check_entries(below) {
            Ok(()) => Ok(()),
            Err(ManifestError::Duplicate { .. }) => fail("an entry is listed twice"),
            Err(ManifestError::Orphan { .. }) => fail("an entry is listed without its directory"),
            Err(ManifestError::Unsorted { .. }) => fail("its entries are not sorted by path"),
            Err(_) => fail("an entry has a bad mode or link target"),
        }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.resource_type, self.title)
    }
}

impl FromStr for ResourceRef {
    type Err = ResourceRefError;

    fn from_str(text: &str) -> Result<Self, ResourceRefError> {
        let parsed = text.strip_suffix(']').and_then(|text| text.split_once('[')).filter(|(resource_type, title)| {
            let segment = |segment: &str| {
                segment.starts_with(|c: char| c.is_ascii_uppercase())
                    && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            resource_type.split("::").all(segment) && !title.is_empty()
        });
        let Some((resource_type, title)) = parsed else {
            return Err(ResourceRefError { text: text.chars().take(80).collect() });
        };
        Ok(Self { resource_type: resource_type.to_owned(), title: title.to_owned() })
    }
}

impl Serialize for ResourceRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResourceRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::path::TreePath;

    fn catalog(resources: Vec<Resource>) -> Catalog {
        Catalog {
            format: CATALOG_FORMAT,
            certname: "n1".parse().unwrap(),
            environment: Environment::default(),
            classes: vec!["base".to_owned()],
            resources,
            edges: Vec::new(),
        }
    }

    #[test]
    fn id_is_that_of_the_bytes() {
        let catalog = catalog(vec![Resource::new("File", "/etc/motd").with("mode", "0644")]);
        let (id, bytes) = catalog.encode().unwrap();
        assert_eq!(Catalog::decode(&bytes, id).unwrap(), catalog);
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(Catalog::decode(&damaged, id), Err(CatalogError::Id { .. })));
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let twice = catalog(vec![Resource::new("File", "/a"), Resource::new("File", "/a")]);
        assert!(matches!(twice.validate(), Err(CatalogError::Duplicate { .. })));
        let mut edge = catalog(vec![Resource::new("File", "/a")]);
        edge.edges.push(Edge { source: "File[/a]".parse().unwrap(), target: "File[/b]".parse().unwrap() });
        assert!(matches!(edge.validate(), Err(CatalogError::UnknownEdge { .. })));
        let mut newer = catalog(Vec::new());
        newer.format = CATALOG_FORMAT + 1;
        assert!(matches!(newer.validate(), Err(CatalogError::Format { .. })));
        let mut resource = Resource::new("File", "/a");
        resource.resolved = Some(ResolvedSource {
            uri: None,
            entries: vec![
                ManifestEntry { path: TreePath::root(), mode: 0o755, kind: EntryKind::Directory },
                ManifestEntry { path: "b/c".parse().unwrap(), mode: 0o755, kind: EntryKind::Directory },
            ],
        });
        assert!(matches!(catalog(vec![resource]).validate(), Err(CatalogError::Resolved { .. })));
    }

    #[test]
    fn references() {
        let reference: ResourceRef = "Foo::Bar[a [b]]".parse().unwrap();
        assert_eq!((reference.resource_type.as_str(), reference.title.as_str()), ("Foo::Bar", "a [b]"));
        for bad in ["", "file[a]", "File", "File[]", "[a]", "File[a"] {
            assert!(bad.parse::<ResourceRef>().is_err(), "{bad}");
        }
    }
}
