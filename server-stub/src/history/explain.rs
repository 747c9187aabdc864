//! Provenance: who published what a node has, when, and from which revision of the source.

use direct_puppet_agent::{Origin, origin};
use direct_puppet_transport::protocol::{Catalog, CatalogId, Certname, CodeId, Digest, Environment};
use serde::{Deserialize, Serialize};

use super::VersionName;
use crate::code::Version;
use crate::error::ServerError;
use crate::nodes::{CompiledCatalog, NodeSummary};
use crate::role::is_taken_over;
use crate::server::Server;
use crate::shared;

/// What to explain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The environment. Default: that of the node, or `production`.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// A version; without it what the node has, or what is live.
    #[serde(default)]
    pub version: Option<VersionName>,
    /// A node.
    #[serde(default)]
    pub node: Option<Certname>,
    /// A path on that node.
    #[serde(default)]
    pub path: Option<String>,
}

/// Where something came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The version. One that a promotion took over has the time of that, and what else was said when its code was published.
    pub version: Version,
    /// When its code was published, in seconds since 1970 UTC; `None` where only a promotion that took it over is known here.
    pub published_unix_seconds: Option<u64>,
    /// Whether a promotion has left it out.
    pub is_left_out: bool,
    /// Nodes that said they have this code.
    pub nodes: Vec<Certname>,
    /// The catalog of the node that was asked for; `None` also when none of that version is kept.
    pub catalog: Option<CatalogOrigin>,
    /// What manages the path that was asked for; `None` also when nothing does.
    pub origin: Option<Origin>,
}

/// How a catalog was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogOrigin {
    /// Its id.
    pub catalog_id: CatalogId,
    /// When it was compiled, in seconds since 1970 UTC.
    pub time_unix_seconds: u64,
    /// Name and version of the compiler.
    pub compiler: String,
    /// Digest of the facts that were used.
    pub facts: Digest,
}

impl Server {
    /// Says where a version, or what a node has, came from; of servers that share a store, whichever of them gave it that.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// When there is no such version, nothing is known of such a node, its catalog is damaged, or the store cannot be asked.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ServerError> {
        let nodes = self.nodes()?;
        let known = request.node.as_ref().and_then(|node| nodes.iter().find(|known| known.certname == *node));
        let environment = request.environment.clone().or_else(|| known?.environment.clone()).unwrap_or_default();
        let known = known.filter(|known| known.environment.as_ref() == Some(&environment));
        let environment = &environment;
        let of_others = match &request.node {
            Some(node) => self.catalogs_in_store(node, environment)?,
            None => Vec::new(),
        };
        let of_code = |code_id| self.catalog_of_code(request.node.as_ref()?, environment, code_id, known, &of_others);
        // What it says it holds, or what it was last given.
        let of_node = match (&request.node, known.filter(|_| self.shared.is_some()).and_then(|known| known.code_id)) {
            // It may have said so elsewhere, and its catalog may wait to be compiled again.
            (Some(_), Some(code_id)) => Some((code_id, of_code(code_id))),
            (Some(node), None) => {
                let held = self.nodes.held_catalog(node, environment).filter(|_| self.shared.is_none());
                let held = held.or_else(|| self.last_given(node, environment, &of_others));
                let held = held.ok_or_else(|| ServerError::UnknownNode { certname: node.to_string() })?;
                Some((held.code_id, Some(held)))
            }
            (None, _) => None,
        };
        let name = request.version.or(of_node.as_ref().map(|(code_id, _)| VersionName::Code(*code_id)));
        let version = self.find_version(environment, name.unwrap_or(VersionName::Live))?;
        let live = self.find_version(environment, VersionName::Live)?;
        let has_it = nodes.iter().filter(|node| node.code_id == Some(version.code_id));
        let compiled = match of_node {
            Some((code_id, compiled)) if code_id == version.code_id => compiled,
            _ => of_code(version.code_id),
        };
        if let Some(node) = &request.node
            && let Some(held) = known.and_then(|known| known.catalog_id)
            && compiled.is_none()
            && request.version.is_none()
            && request.path.is_some()
        {
            // What it manages is not known.
            return Err(self.gone(node, held));
        }
        let origin = match (&request.node, &compiled, &request.path) {
            (Some(node), Some(compiled), Some(path)) => origin(&self.look_into(node, compiled)?, path),
            _ => None,
        };
        Ok(Explanation {
            is_left_out: version.is_left_out_of(&live) || self.orphans().contains(environment),
            nodes: has_it.map(|node| node.certname.clone()).collect(),
            catalog: compiled.map(|compiled| CatalogOrigin {
                catalog_id: compiled.catalog_id,
                time_unix_seconds: compiled.time_unix_seconds,
                compiler: compiled.compiler,
                facts: compiled.facts,
            }),
            origin,
            published_unix_seconds: self.published_at(&version)?,
            version,
        })
    }

    /// Returns the catalogs of a node in the store that servers share; none where there is no store.
    fn catalogs_in_store(&self, node: &Certname, environment: &Environment) -> Result<Vec<CompiledCatalog>, ServerError> {
        let Some(shared) = &self.shared else { return Ok(Vec::new()) };
        let mut catalogs = shared::wait(async { Ok(shared.catalogs(node).await?) })?;
        catalogs.retain(|compiled| compiled.environment == *environment);
        Ok(catalogs)
    }

    /// Returns the catalog that a code made for a node: the one that it says it holds, the one that all servers give, or the one
    /// here.
    fn catalog_of_code(
        &self,
        node: &Certname,
        environment: &Environment,
        code_id: CodeId,
        known: Option<&NodeSummary>,
        of_others: &[CompiledCatalog],
    ) -> Option<CompiledCatalog> {
        let here = self.nodes.catalog_of(node, environment, code_id);
        let there = of_others.iter().find(|compiled| compiled.code_id == code_id).cloned();
        let held = known.and_then(|known| known.catalog_id);
        match (here, there) {
            (Some(here), Some(there)) => Some(if held == Some(here.catalog_id) { here } else { there }),
            (here, there) => there.or(here),
        }
    }

    /// Returns the catalog that a node was last given: the newest that other servers have compiled for it, if that is not known
    /// here and none here is newer.
    fn last_given(&self, node: &Certname, environment: &Environment, of_others: &[CompiledCatalog]) -> Option<CompiledCatalog> {
        let here = self.nodes.newest_catalog(node, environment);
        let there = of_others.iter().max_by_key(|compiled| compiled.time_unix_seconds);
        let there = there.filter(|there| {
            let is_newer = |here: &CompiledCatalog| there.time_unix_seconds > here.time_unix_seconds;
            here.as_ref().is_none_or(is_newer) && !self.nodes.has_catalog(node, there.catalog_id)
        });
        there.cloned().or(here)
    }

    /// Reads a catalog here, or else in the store that servers share.
    fn look_into(&self, node: &Certname, compiled: &CompiledCatalog) -> Result<Catalog, ServerError> {
        let mut catalog = self.nodes.decoded(node, compiled.catalog_id);
        if let (None, Some(shared)) = (&catalog, &self.shared) {
            catalog = shared::wait(shared.look_into(node, compiled))?;
        }
        catalog.ok_or_else(|| self.gone(node, compiled.catalog_id))
    }

    fn gone(&self, node: &Certname, catalog_id: CatalogId) -> ServerError {
        ServerError::Damaged {
            path: self.nodes.path_of(node, catalog_id),
            reason: "the catalog is gone or damaged: it is compiled again when the node asks".to_owned(),
        }
    }

    /// Returns when the code of a version was published: before, if promotions took it over.
    fn published_at(&self, version: &Version) -> Result<Option<u64>, ServerError> {
        if !is_taken_over(version) {
            return Ok(Some(version.time_unix_seconds));
        }
        let history = self.environments.history(&version.environment)?;
        let mut first = version;
        while is_taken_over(first)
            && let Some(end) = first.lineage.last()
            && let Some(before) = history.iter().find(|before| before.version == *end && before.code_id == version.code_id)
            && before.version < first.version
        {
            first = before;
        }
        Ok((!is_taken_over(first)).then_some(first.time_unix_seconds))
    }
}
