//! Puppet's own agent, as it is installed, at this server.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[path = "stock_agent/classified.rs"]
mod classified;
#[path = "library/installed.rs"]
#[allow(dead_code, reason = "agents need no library")]
mod library;
#[path = "stock_agent/refused.rs"]
mod refused;
#[path = "stock_agent/runs.rs"]
mod runs;
#[path = "stock_agent/world.rs"]
mod world;
