//! Real Puppet code: what the server compiles, beside what Puppet Server and Puppet itself make of the same code.
//!
//! What is left out of the comparison with recorded answers of Puppet Server, because our catalogs have no place for it or it differs
//! between any two servers:
//!
//! * `version`, `code_id`, `catalog_uuid`, `catalog_format`, and the `tags` of the catalog as a whole;
//! * of resources `exported`, `kind` (but for telling containers), and parameters of containers that are no metaparameters;
//! * of metadata `path`, `owner`, `group`, `mode`, `links` and the type of checksum: contents are named by BLAKE3, whatever `checksum` says;
//! * `sourceselect`, where the sources were taken together already;
//! * paths of the server, which are those within the environment here.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[path = "puppet/classes.rs"]
mod classes;
#[path = "puppet/concat.rs"]
mod concat;
#[path = "library/installed.rs"]
#[allow(dead_code, reason = "the half that finds Puppet's agent is for another suite")]
mod library;
#[path = "puppet/modules.rs"]
mod modules;
#[path = "library/puppet_server.rs"]
mod puppet_server;
#[path = "puppet/real.rs"]
mod real;
#[path = "puppet/run.rs"]
mod run;
#[path = "puppet/server.rs"]
mod server;
#[path = "puppet/site.rs"]
mod site;
#[path = "puppet/stock.rs"]
mod stock;

use library::has_puppet;
use site::{Site, assert_same, catalog_of_puppet, json, repository};
