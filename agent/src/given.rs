//! Catalogs that are given to an agent instead of asked for.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Catalog, Digest, ResourceRef};

use crate::puppet_catalog::{PuppetCatalog, PuppetCatalogError};

/// A catalog of Puppet's for one run: [`Agent::apply`](crate::Agent::apply) takes it as it is, where
/// [`RunOptions::catalog`](crate::RunOptions::catalog) is copied. That it is the one of the run before is known by its text.
#[derive(Debug, Clone)]
pub struct GivenCatalog {
    puppet: PuppetCatalog,
    text: Digest,
}

impl GivenCatalog {
    /// Reads a catalog, as [`PuppetCatalog::read`].
    ///
    /// # Errors
    ///
    /// As [`PuppetCatalog::read`].
    pub fn read(json: &[u8]) -> Result<Self, PuppetCatalogError> {
        Ok(Self { puppet: PuppetCatalog::read(json)?, text: Digest::of(json) })
    }

    /// Returns what was read.
    #[must_use]
    pub const fn puppet(&self) -> &PuppetCatalog {
        &self.puppet
    }
}

/// What a run was given.
#[derive(Debug)]
pub(crate) struct Given {
    /// Until the run takes it.
    pub(crate) catalog: Option<Catalog>,
    /// The text that it was read from, when it is just what was read from it.
    pub(crate) text: Option<Digest>,
    /// Resources that cannot be managed, and why.
    pub(crate) unusable: BTreeMap<ResourceRef, String>,
    pub(crate) version: Option<String>,
    pub(crate) code_id: Option<String>,
    pub(crate) catalog_uuid: Option<String>,
}

impl Given {
    fn new(puppet: PuppetCatalog, text: Option<Digest>) -> Self {
        let PuppetCatalog { catalog, unusable, version, code_id, catalog_uuid } = puppet;
        Self { catalog: Some(catalog), text, unusable, version, code_id, catalog_uuid }
    }
}

impl From<GivenCatalog> for Given {
    fn from(given: GivenCatalog) -> Self {
        Self::new(given.puppet, Some(given.text))
    }
}

impl From<&PuppetCatalog> for Given {
    fn from(puppet: &PuppetCatalog) -> Self {
        Self::new(puppet.clone(), None)
    }
}
