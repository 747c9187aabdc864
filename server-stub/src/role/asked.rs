//! What an administrator asks of a promotion, and is told of it.

use serde::{Deserialize, Serialize};

use crate::code::Version;

/// How to promote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromoteRequest {
    /// Leave out servers that cannot be asked to step down, because they were stopped: publishes that are only there are not taken
    /// over. [`Promoted::left_out`] says which those are.
    pub force: bool,
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The epoch that begins.
    pub epoch: u64,
    /// What is live in it: the code that was, with new counters as far as it is not `unfinished`.
    pub live: Vec<Version>,
    /// Servers that were left out. Until they hear of the epoch they may answer from what was published before it: stop them, or keep
    /// nodes and publishers away from them.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// Why what is live could not all be written with new counters, as on a full disk: the server is primary all the same, and tries again
    /// every few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<String>,
}

/// A server that a forced promotion could not ask to step down, or not take everything from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its address.
    pub server: String,
    /// Why.
    pub reason: String,
}
