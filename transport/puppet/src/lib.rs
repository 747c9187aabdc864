//! A transport to an unmodified Puppet Server.
//!
//! [`PuppetTransport`] answers the operations of the protocol by Puppet's v3 HTTP API, so that an agent does not know the difference:
//!
//! | Operation | Requests |
//! |---|---|
//! | `check_in` | none: the answer is that facts are needed, as such a server compiles for each run |
//! | `submit_facts` | `POST catalog`; `GET file_metadata` or `file_metadatas` for each source that the catalog leaves open |
//! | `fetch` | per content `GET static_file_content` by `code_id`, or `GET file_content` where the catalog did not make it static |
//! | `report` | `PUT report`, format 12 |
//!
//! A catalog that is equal to the one that the node holds is answered as *current*, so that the node does no more than for a server of
//! ours. Contents are named by SHA-256 and verified by whoever receives them, as always; what the node has, by that digest, is never
//! asked for. Where each content is, and what the server called the catalog, is kept below the state directory ([`places`]), so that a
//! cached catalog can be applied and reported by another process.
//!
//! What it does not do: synchronise plugins (types and facts in Ruby do not run here), submit facts apart from a catalog request, hold a
//! check-in until there are news (a wait ends with "nothing new"), or use the filebucket.

mod api;
mod compile;
mod deadline;
mod encode;
mod fetch;
pub mod places;
mod report;
mod sources;
mod transport;

#[cfg(test)]
mod tests;

pub use api::{Exchange, PUPPET_VERSION};
pub use transport::{PuppetOptions, PuppetTransport};
