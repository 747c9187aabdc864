//! The Direct Puppet agent as a library: check in, scan, fetch, apply, report, over any
//! [`Transport`](direct_puppet_transport::Transport).
//!
//! [`Agent::builder`] is the front door; [`Agent::run`] makes one run and returns an [`Outcome`] with counters and events.
//! What it manages lies below one root, what it remembers below one state directory; it reads no environment but for
//! facts, installs no signal handler, subscriber or pool, and starts nothing that outlives a run. Types are managed by
//! [`Provider`](provider::Provider)s; files, commands and messages come with the feature `providers`.
//!
//! What it does not do: serve, compile, or decide which catalog is right for a node.

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

mod agent;
mod apply;
mod catalog_cache;
mod catalog_lists;
mod compression;
mod error;
mod event;
mod explain;
pub mod facts;
pub mod fs;
mod given;
pub mod glob;
mod inspect;
mod line_listener;
mod lock;
mod mount_table;
mod outcome;
pub mod provider;
mod puppet_catalog;
#[cfg(feature = "providers")]
pub mod puppet_code;
pub mod puppet_report;
mod report;
pub mod report_processor;
mod run;
pub mod store;
mod summary;
mod sync;
pub mod system;
pub mod tree;
pub mod undo;

pub use agent::{Agent, AgentBuilder, DEFAULT_STATE_DIR, RunOptions, disable, disabled, enable};
pub use apply::GraphError;
pub use compression::{Compression, CompressionError};
pub use error::RunError;
pub use event::{Phase, RunEvent};
pub use explain::{Origin, explain, origin};
pub use given::GivenCatalog;
pub use inspect::InspectError;
pub use line_listener::LineListener;
pub use outcome::{Answer, Outcome, ResourceCounters, WireCounters};
pub use puppet_catalog::{
    ContentPlace, DEFERRED_FUNCTIONS, FinishedCatalog, OpenSource, PuppetCatalog, PuppetCatalogError, ServedCatalog,
    SourceAnswer, SourcePermissions, SourceTaking, merge_sources,
};
pub use summary::RunMode;
pub use sync::fetch_as_replica;
