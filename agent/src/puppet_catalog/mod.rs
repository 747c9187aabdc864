//! Catalogs as a Puppet Server writes them: JSON of format 1 or 2, plain or with rich data, static or not.
//!
//! [`PuppetCatalog::read`] makes of one what the agent applies:
//!
//! * Classes, nodes, stages and defined types become containers; what they hold comes from the edges.
//! * `metadata` and `recursive_metadata` say what the `source` of a file resolves to. Contents are named by SHA-256. They say nothing
//!   of the `source` of a `Concat_fragment`.
//! * Rich data become plain values: a `SemVer`, `SemVerRange`, `Timestamp`, `Timespan`, `Regexp`, `Symbol` or `URI` the text that it has
//!   in the catalog, `Default` the word `default`, a `Hash` with odd keys one with the keys as text. `Sensitive` and `Binary` stay.
//!   What `sensitive_parameters` names is `Sensitive` too.
//! * A `Deferred` is evaluated while the catalog is read: see [`DEFERRED_FUNCTIONS`].
//! * `exported`, `kind` (but for telling containers) and keys that are not known are passed over.
//!
//! A resource that cannot be managed as the catalog has it is in [`PuppetCatalog::unusable`], with the reason; only it fails. What makes
//! the catalog as a whole senseless (two of one name, an edge into nothing) is a [`PuppetCatalogError`].

mod deferred;
mod document;
mod metadata;
mod reference;
mod resource;
mod served;
mod shaped;
mod taking;
mod value;

#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{Catalog, CatalogError, Certname, Edge, Environment, Resource, ResourceRef};
use serde_json::{Map, Value as Json};

pub use deferred::DEFERRED_FUNCTIONS;
use deferred::Deferreds;
pub(crate) use deferred::evaluate as evaluate_deferred;
use document::{Document, Head, Metadata};
pub use served::{ContentPlace, FinishedCatalog, OpenSource, ServedCatalog, SourceAnswer};
pub use taking::{SourcePermissions, SourceTaking, merge_sources};

/// Says what a `File` or a `Concat_fragment` is made from, or why that cannot be known.
type Resolve<'a> = dyn FnMut(&mut Resource) -> Result<(), String> + 'a;

/// The newest `catalog_format` that is read.
const MAX_PUPPET_FORMAT: u64 = 2;

/// A catalog that Puppet compiled, as this agent applies it.
#[derive(Debug, Clone, PartialEq)]
pub struct PuppetCatalog {
    /// What is to be applied.
    pub catalog: Catalog,
    /// Resources of it that cannot be managed, and why. Applying the catalog fails them and skips what depends on them.
    pub unusable: BTreeMap<ResourceRef, String>,
    /// The `version` of the catalog, as text: what reports call `configuration_version`.
    pub version: Option<String>,
    /// The `code_id` of the catalog: the code that a static catalog was compiled from.
    pub code_id: Option<String>,
    /// The `catalog_uuid`.
    pub catalog_uuid: Option<String>,
}

/// Why text is no catalog of Puppet's that can be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PuppetCatalogError {
    /// It is longer than catalogs may be.
    #[error("catalog has {length} bytes, at most {MAX_CATALOG_BYTES} are read")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// It is no JSON.
    #[error("catalog is not JSON")]
    Json(#[from] serde_json::Error),
    /// It is a server's refusal, kept in the place of a catalog.
    #[error("this is no catalog but the error of a server: {message}")]
    ServerError {
        /// What the server said.
        message: String,
    },
    /// A newer format.
    #[error("catalog has catalog_format {format}, this program reads up to {MAX_PUPPET_FORMAT}")]
    Format {
        /// The `catalog_format`.
        format: String,
    },
    /// Something has not the shape that a catalog has.
    #[error("catalog is malformed: {at} must be {expected}")]
    Shape {
        /// What.
        at: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A name that no node or environment can have.
    #[error("catalog is malformed: {at} cannot be used: {reason}")]
    Name {
        /// Which.
        at: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A relationship, or a metaparameter of a container, that makes no sense.
    #[error("{resource}: {parameter} {reason}")]
    Metaparameter {
        /// The resource.
        resource: ResourceRef,
        /// The metaparameter.
        parameter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The catalog contradicts itself.
    #[error("catalog contradicts itself")]
    Catalog(#[from] CatalogError),
}

impl PuppetCatalog {
    /// Reads a catalog. `environment` missing or null counts as `production`, `catalog_format` missing as 1, as in Puppet.
    ///
    /// # Errors
    ///
    /// When the text is no catalog, or one that contradicts itself. What concerns single resources is in
    /// [`PuppetCatalog::unusable`].
    pub fn read(json: &[u8]) -> Result<Self, PuppetCatalogError> {
        if json.len() as u64 > MAX_CATALOG_BYTES {
            return Err(PuppetCatalogError::TooLong { length: json.len() });
        }
        if let Some(read) = shaped::read(json).and_then(read_shaped) {
            return read;
        }
        let (document, metadata) = read_pieces(json)?;
        let mut sources = metadata::Sources::of(metadata);
        read_document(document, Deferreds::Evaluate, &mut |resource| sources.resolve(resource))
    }

    /// Reads a catalog that was compiled in this process's care, for nodes to apply. A `Deferred` stays in it, for the node to call its
    /// function; what a `File` or a `Concat_fragment` is made from says `resolve`, or why it cannot be known.
    ///
    /// # Errors
    ///
    /// As [`PuppetCatalog::read`].
    pub fn from_compiler(
        document: Map<String, Json>,
        resolve: &mut dyn FnMut(&mut Resource) -> Result<(), String>,
    ) -> Result<Self, PuppetCatalogError> {
        read_document(Document::of(document), Deferreds::Keep, resolve)
    }
}

/// Reads a catalog of whatever shape.
fn read_pieces(json: &[u8]) -> Result<(Document, Metadata), PuppetCatalogError> {
    let Json::Object(document) = serde_json::from_slice(json)? else { return Err(shape("the catalog", "an object")) };
    let mut document = unwrapped(document)?;
    let metadata = Metadata {
        single: object(document.remove("metadata"), "metadata")?,
        recursive: object(document.remove("recursive_metadata"), "recursive_metadata")?,
    };
    Ok((Document::of(document), metadata))
}

/// Takes a catalog out of the envelope in which old servers send it, and knows a refusal.
fn unwrapped(mut document: Map<String, Json>) -> Result<Map<String, Json>, PuppetCatalogError> {
    if document.contains_key("resources") {
        return Ok(document);
    }
    if let Some(Json::String(message)) = document.get("message") {
        return Err(PuppetCatalogError::ServerError { message: message.clone() });
    }
    match document.remove("data") {
        Some(Json::Object(data)) if document.get("document_type").is_some_and(|kind| kind == "Catalog") => Ok(data),
        _ => Err(shape("resources", "a list: this is no catalog")),
    }
}

/// Makes a catalog of one that was read the short way; `None` when it is to be looked at piece by piece.
fn read_shaped(shaped: shaped::Shaped) -> Option<Result<PuppetCatalog, PuppetCatalogError>> {
    let node = match Node::of(shaped.head) {
        Ok(node) => node,
        Err(error) => return Some(Err(error)),
    };
    let edges = shaped.edges;
    let mut sources = metadata::Sources::of(shaped.metadata);
    let holders = LazyCell::new(|| holders(&edges));
    let holds = |reference: &ResourceRef| holders.contains(reference);
    let resolve: &mut Resolve<'_> = &mut |resource| sources.resolve(resource);
    let mut reading = resource::Reading { deferreds: Deferreds::Evaluate, resolve, holds: &holds };
    let read: Option<Vec<_>> = shaped.resources.into_iter().map(|plain| resource::of_plain(plain, &mut reading)).collect();
    let read = read?;
    drop(holders);
    Some(node.with(read, edges))
}

fn read_document<'a>(
    document: Document,
    deferreds: Deferreds,
    resolve: &'a mut Resolve<'a>,
) -> Result<PuppetCatalog, PuppetCatalogError> {
    let node = Node::of(document.head)?;
    let edges = document.edges?;
    let declared = document.resources?;
    let holders = LazyCell::new(|| holders(&edges));
    let holds = |reference: &ResourceRef| holders.contains(reference);
    let mut reading = resource::Reading { deferreds, resolve, holds: &holds };
    let read = declared.into_iter().enumerate().map(|(at, declared)| resource::read(at, declared, &mut reading));
    let read = read.collect::<Result<Vec<_>, _>>()?;
    drop(holders);
    node.with(read, edges)
}

/// Returns what edges come from.
fn holders(edges: &[Edge]) -> HashSet<&ResourceRef, FastState> {
    edges.iter().map(|edge| &edge.source).collect()
}

/// What a catalog says of itself.
struct Node {
    certname: Certname,
    environment: Environment,
    classes: Vec<String>,
    version: Option<String>,
    code_id: Option<String>,
    catalog_uuid: Option<String>,
}

impl Node {
    fn of(head: Head) -> Result<Self, PuppetCatalogError> {
        check_format(head.catalog_format.as_ref())?;
        let Some(Json::String(name)) = head.name else { return Err(shape("name", "the name of the node")) };
        let certname = name.parse().map_err(|error| PuppetCatalogError::Name { at: "name", reason: format!("{error}") })?;
        let environment = match head.environment {
            None | Some(Json::Null) => Environment::default(),
            Some(Json::String(name)) => {
                name.parse().map_err(|error| PuppetCatalogError::Name { at: "environment", reason: format!("{error}") })?
            }
            Some(_) => return Err(shape("environment", "the name of an environment")),
        };
        Ok(Self {
            certname,
            environment,
            classes: strings(head.classes, || "classes".to_owned())?,
            version: text(head.version),
            code_id: text(head.code_id),
            catalog_uuid: text(head.catalog_uuid),
        })
    }

    /// Completes it to a catalog.
    fn with(self, read: Vec<resource::ReadResource>, edges: Vec<Edge>) -> Result<PuppetCatalog, PuppetCatalogError> {
        let mut unusable = BTreeMap::new();
        let mut resources = Vec::with_capacity(read.len());
        for read in read {
            if let Some(reason) = read.unusable {
                unusable.insert(read.resource.reference(), reason);
            }
            resources.push(read.resource);
        }
        let Self { certname, environment, classes, version, code_id, catalog_uuid } = self;
        let catalog = Catalog { format: CATALOG_FORMAT, certname, environment, classes, resources, edges };
        catalog.validate()?;
        Ok(PuppetCatalog { catalog, unusable, version, code_id, catalog_uuid })
    }
}

fn check_format(format: Option<&Json>) -> Result<(), PuppetCatalogError> {
    match format {
        None | Some(Json::Null) => Ok(()),
        Some(Json::Number(number)) if number.as_u64().is_some_and(|format| format <= MAX_PUPPET_FORMAT) => Ok(()),
        Some(other) => Err(PuppetCatalogError::Format { format: other.to_string() }),
    }
}

fn strings(json: Option<Json>, at: impl Fn() -> String) -> Result<Vec<String>, PuppetCatalogError> {
    let list = match json {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::Array(list)) => list,
        Some(_) => return Err(shape(at(), "a list of text")),
    };
    let text = |json| if let Json::String(text) = json { Ok(text) } else { Err(shape(at(), "a list of text")) };
    list.into_iter().map(text).collect()
}

fn object(json: Option<Json>, at: &str) -> Result<Map<String, Json>, PuppetCatalogError> {
    match json {
        None | Some(Json::Null) => Ok(Map::new()),
        Some(Json::Object(object)) => Ok(object),
        Some(_) => Err(shape(at, "an object")),
    }
}

/// Returns what only goes into reports: a number is as good as text.
fn text(json: Option<Json>) -> Option<String> {
    match json {
        Some(Json::String(text)) => Some(text),
        Some(Json::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}

fn shape(at: impl Into<String>, expected: &'static str) -> PuppetCatalogError {
    PuppetCatalogError::Shape { at: at.into(), expected }
}
