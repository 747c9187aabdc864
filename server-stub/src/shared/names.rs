//! What the server keeps in a shared store, and under which names.
//!
//! ```text
//! live/env/<environment>                            which code is live: swapping this is the publish
//! live/rollout                                      how new code reaches nodes
//! live/recompile/<certname>/at                      swapped when an administrator has a node's catalogs made anew
//! live/wanted/<digest>                              a content that is damaged or missing in the store
//! version/<environment>/<epoch>.<sequence>          every publish, 20 digits each
//! catalog/<certname>/<environment>/<hex of code>    the one catalog that a code made for a node
//! report/<certname>/<nanoseconds>-<uuid>            reports; 20 digits
//! node/<certname>/summary                           what is known of a node
//! server/<certname>/seen                            when a server was last heard of, and what it has
//! ```
//!
//! Values are JSON. Contents are files, manifests, what differs between two manifests, and canonical bytes of catalogs.

use direct_puppet_transport::protocol::{Certname, CodeId, Digest, Environment, VersionCounter};

pub(super) const LIVE: &str = "live/";
pub(super) const ENVIRONMENTS: &str = "live/env/";
pub(super) const ROLLOUT: &str = "live/rollout";
pub(super) const RECOMPILE: &str = "live/recompile/";
pub(super) const WANTED: &str = "live/wanted/";
pub(super) const VERSIONS: &str = "version/";
pub(super) const CATALOGS: &str = "catalog/";
pub(super) const NODES: &str = "node/";
pub(super) const SERVERS: &str = "server/";

pub(super) fn live(environment: &Environment) -> String {
    format!("{ENVIRONMENTS}{environment}")
}

pub(super) fn recompile(certname: &Certname) -> String {
    format!("{RECOMPILE}{certname}/at")
}

pub(super) fn wanted(digest: &Digest) -> String {
    format!("{WANTED}{digest}")
}

pub(super) fn versions(environment: &Environment) -> String {
    format!("{VERSIONS}{environment}/")
}

pub(super) fn version(environment: &Environment, counter: VersionCounter) -> String {
    format!("{VERSIONS}{environment}/{:020}.{:020}", counter.epoch, counter.sequence)
}

pub(super) fn catalogs(certname: &Certname) -> String {
    format!("{CATALOGS}{certname}/")
}

pub(super) fn catalog(certname: &Certname, environment: &Environment, code_id: CodeId) -> String {
    format!("{CATALOGS}{certname}/{environment}/{}", code_id.digest().to_hex())
}

pub(super) fn reports(certname: &Certname) -> String {
    format!("report/{certname}/")
}

pub(super) fn node(certname: &Certname) -> String {
    format!("{NODES}{certname}/summary")
}

pub(super) fn server(certname: &Certname) -> String {
    format!("{SERVERS}{certname}/seen")
}

/// Returns the segment after `prefix`.
pub(super) fn segment<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.split('/').next()
}
