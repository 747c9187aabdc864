//! Puppet 8: what the server compiles with its library, and its agent, as it is, at this server. The tests are those of `puppet.rs` and
//! `stock_agent.rs`, which say what is compared.
//!
//! Puppet 8 is in a root directory of its own, as `tests/puppet/puppet-root.sh` makes it; where there is none, the tests say so.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[path = "library/rooted.rs"]
mod library;
#[path = "puppet/run.rs"]
mod run;
#[path = "stock_agent/runs.rs"]
mod runs;
#[path = "puppet/server.rs"]
mod server;
#[path = "puppet/site.rs"]
mod site;
#[path = "puppet/stock.rs"]
mod stock;
#[path = "puppet/types.rs"]
mod types;
#[path = "stock_agent/world.rs"]
mod world;

use library::{Root, has_puppet};
use site::{Site, assert_same, catalog_of_puppet, json, repository};

const ROOT: Root = Root { shown: "Puppet 8", name: "puppet-8", variable: "PUPPET_8_ROOT", says: "puppet 8." };
