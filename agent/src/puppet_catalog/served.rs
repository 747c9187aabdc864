//! A catalog that a server of Puppet has just sent, and what it leaves open.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{Digest, ResourceRef};
use serde_json::{Map, Value as Json};

use super::deferred::Deferreds;
use super::document::Document;
use super::metadata::{self, Sources};
use super::taking::{PIECE, SourceTaking};
use super::{PuppetCatalog, PuppetCatalogError, object, read_document, shape, text, unwrapped};

/// Where the server has a content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentPlace {
    /// In the code that made the catalog: a `content_uri`, as `puppet:///modules/app/files/motd`.
    Static(String),
    /// In a mount of the file server: a source, as `puppet:///modules/app/motd`.
    Mount(String),
}

/// A file, or a piece of one, of which the catalog does not say what it is made from, or not by a digest that names a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSource {
    /// The `File` or `Concat_fragment`.
    pub resource: ResourceRef,
    /// Its sources that begin with `puppet:`, in their order; never empty.
    pub sources: Vec<String>,
    /// It has other sources too, so that it needs no answer where none of these is.
    pub has_others: bool,
    /// How they are taken.
    pub taking: SourceTaking,
}

/// What the server says of one source: `FileMetadata` as its file server writes them.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceAnswer {
    /// Of the source that exists, when it is not taken with what lies below it.
    Single {
        /// The source.
        source: String,
        /// What it is.
        metadata: Json,
    },
    /// A list by source, of sources that are.
    Recursive(BTreeMap<String, Json>),
    /// It cannot be known; only this resource fails.
    Refused(String),
}

/// A catalog that a server of Puppet sent.
///
/// [`ServedCatalog::open_sources`] says what else the server must be asked, [`ServedCatalog::answer`] takes what it says, and
/// [`ServedCatalog::finish`] makes of all that what a node applies. A `Deferred` stays in it, so that the node can call its function in
/// each run.
#[derive(Debug, Clone)]
pub struct ServedCatalog {
    document: Map<String, Json>,
    sources: Sources,
    refused: BTreeMap<ResourceRef, String>,
}

/// A [`ServedCatalog`] of which nothing is open any more.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedCatalog {
    /// What is to be applied. Resources that cannot be managed say so themselves too.
    pub puppet: PuppetCatalog,
    /// Where the server has the contents that it names.
    pub places: BTreeMap<Digest, ContentPlace>,
}

impl ServedCatalog {
    /// Reads a catalog.
    ///
    /// # Errors
    ///
    /// When the text is no catalog; whether its resources make sense shows in the other methods.
    pub fn read(json: &[u8]) -> Result<Self, PuppetCatalogError> {
        if json.len() as u64 > MAX_CATALOG_BYTES {
            return Err(PuppetCatalogError::TooLong { length: json.len() });
        }
        let mut document = match serde_json::from_slice(json)? {
            Json::Object(document) => unwrapped(document)?,
            _ => return Err(shape("the catalog", "an object")),
        };
        let mut sources = Sources {
            single: object(document.remove("metadata"), "metadata")?,
            recursive: object(document.remove("recursive_metadata"), "recursive_metadata")?,
            ..Sources::default()
        };
        if text(document.get("code_id").cloned()).is_none() {
            // Nobody could ask for what they name.
            (sources.single, sources.recursive) = (Map::new(), Map::new());
        }
        Ok(Self { document, sources, refused: BTreeMap::new() })
    }

    /// Returns the environment that the catalog was compiled in, if it says one.
    #[must_use]
    pub fn environment(&self) -> Option<&str> {
        self.document.get("environment").and_then(Json::as_str)
    }

    /// Returns the resources about which the server must be asked.
    ///
    /// # Errors
    ///
    /// As [`PuppetCatalog::read`].
    pub fn open_sources(&mut self) -> Result<Vec<OpenSource>, PuppetCatalogError> {
        let mut open = Vec::new();
        let sources = &mut self.sources;
        read_document(Document::of(self.document.clone()), Deferreds::Keep, &mut |resource| {
            let uris = metadata::puppet_sources(resource);
            if !uris.is_empty() && !sources.names_contents(resource) {
                sources.forget(resource);
                let count = resource.parameter("source").map_or(0, |source| source.as_list().len());
                let has_others = count > uris.len();
                let sources = uris.into_iter().map(str::to_owned).collect();
                open.push(OpenSource { resource: resource.reference(), sources, has_others, taking: SourceTaking::of(resource) });
            }
            Ok(())
        })?;
        Ok(open)
    }

    /// Takes what the server says of a resource. What it says of its own paths is not kept.
    pub fn answer(&mut self, resource: &ResourceRef, answer: SourceAnswer) {
        let title = resource.title.clone();
        match answer {
            SourceAnswer::Single { source, metadata: mut found } => {
                metadata::unplace(&mut found, Some(source));
                match resource.resource_type == PIECE {
                    true => self.sources.pieces.insert(title, found),
                    false => self.sources.single.insert(title, found),
                };
            }
            SourceAnswer::Recursive(mut by_source) => {
                by_source.values_mut().filter_map(Json::as_array_mut).flatten().for_each(|found| metadata::unplace(found, None));
                self.sources.recursive.insert(title, Json::Object(by_source.into_iter().collect()));
            }
            SourceAnswer::Refused(reason) => {
                self.refused.insert(resource.clone(), reason);
            }
        }
    }

    /// Returns the catalog for the node.
    ///
    /// # Errors
    ///
    /// As [`PuppetCatalog::read`].
    pub fn finish(self) -> Result<FinishedCatalog, PuppetCatalogError> {
        let Self { document, mut sources, mut refused } = self;
        let mut puppet = read_document(Document::of(document), Deferreds::Keep, &mut |resource| match refused
            .remove(&resource.reference())
        {
            Some(reason) => Err(reason),
            None => sources.resolve(resource),
        })?;
        for resource in &mut puppet.catalog.resources {
            resource.unusable = puppet.unusable.get(&resource.reference()).cloned();
        }
        Ok(FinishedCatalog { puppet, places: sources.places })
    }
}

#[cfg(test)]
mod tests;
