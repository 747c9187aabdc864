//! Applying a catalog: order, noop, events, skipped dependants.

mod ahead;
mod audit;
mod engine;
mod events;
mod graph;
mod limit;
mod managed;
mod metaparameters;
mod neighbours;
mod places;
mod prior;
mod reasons;
mod schedule;
mod statuses;

pub(crate) use ahead::Ahead;
pub(crate) use engine::{Engine, EngineOptions, EngineResult, Remembered, error_chain};
pub use graph::GraphError;
pub(crate) use graph::{Drawing, Graph, Relations};
pub(crate) use managed::{BadPaths, managed_paths};
pub(crate) use metaparameters::{Metaparameters, handed_down, parameter_error};
pub(crate) use places::Places;
pub(crate) use prior::{Left, LeftValues, Prior};
pub(crate) use schedule::Schedules;
#[cfg(feature = "providers")]
pub(crate) use schedule::{SCHEDULE_PARAMETERS, Schedule};
