//! Provenance: who published what a node has, when, and from which revision of the source.

use direct_puppet_agent::{Origin, origin};
use direct_puppet_transport::protocol::{CatalogId, Certname, Digest, Environment};
use serde::{Deserialize, Serialize};

use super::VersionName;
use crate::code::Version;
use crate::error::ServerError;
use crate::role::is_taken_over;
use crate::server::Server;

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
    /// Says where a version, or what a node has, came from. Blocking.
    ///
    /// # Errors
    ///
    /// When there is no such version, nothing is known of such a node, or its catalog is damaged.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ServerError> {
        let nodes = self.nodes()?;
        let of_node = request.node.as_ref().and_then(|node| nodes.iter().find(|known| known.certname == *node));
        let environment = request.environment.clone().or_else(|| of_node?.environment.clone()).unwrap_or_default();
        let environment = &environment;
        // What it says it holds, or what it was last given.
        let of_node = match &request.node {
            Some(node) => {
                let held = self.nodes.held_catalog(node, environment).or_else(|| self.nodes.newest_catalog(node, environment));
                Some(held.ok_or_else(|| ServerError::UnknownNode { certname: node.to_string() })?)
            }
            None => None,
        };
        let name = request.version.or(of_node.as_ref().map(|compiled| VersionName::Code(compiled.code_id)));
        let version = self.find_version(environment, name.unwrap_or(VersionName::Live))?;
        let live = self.find_version(environment, VersionName::Live)?;
        let has_it = nodes.into_iter().filter(|node| node.code_id == Some(version.code_id));
        let compiled = match (&request.node, of_node) {
            (Some(node), Some(of_node)) if of_node.code_id != version.code_id => {
                self.nodes.catalog_of(node, environment, version.code_id)
            }
            (_, of_node) => of_node,
        };
        let origin = match (&request.node, &compiled, &request.path) {
            (Some(node), Some(compiled), Some(path)) => {
                let catalog = self.nodes.decoded(node, compiled.catalog_id).ok_or_else(|| ServerError::Damaged {
                    path: self.nodes.path_of(node, compiled.catalog_id),
                    reason: "the catalog is gone or damaged: it is compiled again when the node asks".to_owned(),
                })?;
                origin(&catalog, path)
            }
            _ => None,
        };
        Ok(Explanation {
            is_left_out: version.is_left_out_of(&live) || self.orphans().contains(environment),
            nodes: has_it.map(|node| node.certname).collect(),
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
