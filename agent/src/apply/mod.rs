//! Applying a catalog: order, noop, events, skipped dependants.

mod engine;
mod graph;
mod managed;

pub(crate) use engine::{Engine, EngineOptions, EngineResult, Prior, error_chain};
pub use graph::GraphError;
pub(crate) use graph::{Graph, Relations};
pub(crate) use managed::managed_paths;
