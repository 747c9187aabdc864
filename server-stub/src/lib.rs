//! The reference server: publish staged code, compile catalogs from it, answer nodes.
//!
//! [`Server`] is a [`Handler`](direct_puppet_transport::Handler): put it behind a listener, or in the same process behind a
//! [`MemoryTransport`](direct_puppet_transport::MemoryTransport).
//!
//! ```text
//! <data>/lock                                  held while a process works with the directory
//!       /store/                                every content, by digest
//!       /code/<environment>/live.json          which code is live: replaced atomically, this is the switch
//!                          /history.jsonl      every publish that changed something
//!                          /manifests/<hex>    the manifest of a code_id, MessagePack
//!                          /collected.jsonl    codes whose manifests were collected
//!                          /answered.json      how the last requests to publish were answered
//!                          /staging-index      what staging files were when they were last read
//!       /nodes/<hex of the certname's digest>/node.json    what is known of a node, and which catalogs it has
//!                                            /<hex>.catalog    canonical bytes of a catalog
//!                                            /reports/<uuid>.json
//!                                            /bucket/<algorithm>-<hex>    what files of the node held before Puppet's agent changed them
//!       /compile/                              code that Puppet compiles from; emptied at each start
//!       /role.json                             who is primary, once an administrator or another server has said so
//!       /rollout.json                          how new code reaches nodes
//!       /audit.jsonl                           what administrators did
//! ```

mod answer;
mod blobs;
mod blocking;
pub mod ca;
pub mod code;
pub mod compile;
mod disk;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod every_route;
pub mod history;
#[cfg(any(test, feature = "testing"))]
pub mod linearisable;
pub mod listen;
mod nodes;
pub mod publish;
mod puppet_api;
mod replica;
mod role;
pub mod rollout;
mod route_table;
mod routes;
mod server;
mod shared;
pub mod store;
#[cfg(test)]
mod tests;

pub use blobs::BlobRoutes;
pub use ca::{Ca, CaRoutes};
pub use error::ServerError;
pub use nodes::NodeSummary;
pub use puppet_api::PuppetRoutes;
pub use replica::{AllowedReplica, Follower, NoReplica, ToldNodes};
pub use role::{LeftOut, Peers, PromoteRequest, Promoted};
pub use routes::AdminRoutes;
pub use server::{Confirmed, Server, ServerOptions, Staging};
pub use shared::Sharing;
