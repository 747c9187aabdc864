//! The Direct Puppet agent as a library.

mod agent;
mod apply;
mod catalog_cache;
mod error;
mod event;
mod facts;
pub mod fs;
mod lock;
mod outcome;
pub mod provider;
mod report;
mod run;
pub mod store;
mod summary;
mod sync;
pub mod system;
pub mod tree;
pub mod undo;

pub use agent::{Agent, AgentBuilder, DEFAULT_STATE_DIR, RunOptions, disable, disabled, enable};
pub use apply::GraphError;
pub use error::RunError;
pub use event::{Phase, RunEvent};
pub use outcome::{Answer, Outcome, ResourceCounters, WireCounters};
