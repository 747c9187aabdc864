//! What a replica asks of its primary.
//!
//! A replica confirms which code is live before it answers a node from its own copy, fetches what it lacks, verifies all of it, and
//! switches. Nothing here is believed: a manifest must add up to its `code_id`, a content to its digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::ids::{Certname, CodeId, Environment, VersionCounter};
use super::manifest::ManifestEntry;
use super::path::TreePath;
use super::version::ProtocolVersion;

/// One version of an environment, as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedVersion {
    /// The environment.
    pub environment: Environment,
    /// The code.
    pub code_id: CodeId,
    /// Where it stands.
    pub version: VersionCounter,
    /// When it was published, in seconds since 1970 UTC.
    pub time_unix_seconds: u64,
    /// Who published it: a name.
    #[serde(default)]
    pub author: String,
    /// Who published it: an address.
    #[serde(default)]
    pub email: String,
    /// Why.
    #[serde(default)]
    pub message: String,
    /// The revision of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The request that published it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Files in it.
    pub files: u64,
    /// Where each epoch before its own ended: versions of that epoch beyond were not taken over by the promotion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<VersionCounter>,
}

/// How a request to publish was answered, so that it is answered the same when it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Where the answer stands among those of its environment: the epoch in which it was given, and a number that grows in it.
    pub at: VersionCounter,
    /// Digest of the request's id.
    pub request: Digest,
    /// The code that was live then.
    pub code_id: CodeId,
    /// Where that stood.
    pub version: VersionCounter,
    /// Whether the request had made it so.
    pub is_changed: bool,
    /// Files in it.
    pub files: u64,
    /// Contents that were new.
    pub new_contents: u64,
}

/// What a replica has deployed of one environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The code.
    pub code_id: CodeId,
    /// Where it stood.
    pub version: VersionCounter,
}

/// How new code reaches the nodes that have other code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How many waiting nodes each server wakes in a second; 0 for all at once.
    #[serde(default)]
    pub per_second: u32,
    /// Why no node gets it for now; `None` when they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
}

impl Rollout {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A replica asks which code is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncConfirm {
    /// Version of the protocol.
    pub protocol: ProtocolVersion,
    /// Who the replica thinks it is; the primary compares it with the peer.
    pub replica: Certname,
    /// What it has.
    #[serde(default)]
    pub deployed: BTreeMap<Environment, Deployed>,
    /// How long the primary may hold the answer while what the replica has is what is live, in seconds; 0 for no wait.
    #[serde(default)]
    pub wait_seconds: u32,
    /// The rules of the rollout that it has.
    #[serde(default, skip_serializing_if = "Rollout::is_default")]
    pub rollout: Rollout,
    /// The highest epoch that it knows; 0 when it does not say. A primary with a lower one is none any more: it remembers that,
    /// durably, before it answers.
    #[serde(default)]
    pub epoch: u64,
    /// Where the last answer to a publish stands that it knows, by environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answered: BTreeMap<Environment, VersionCounter>,
    /// Which code nodes have that ask this replica: the primary keeps it, and tells administrators. `None` when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesByCode>,
}

/// How many nodes of each environment have which code; 0 for code that none has, and of which a catalog is kept that one may be given.
pub type NodesByCode = BTreeMap<Environment, BTreeMap<CodeId, u64>>;

/// What is live at the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncConfirmed {
    /// The live version of each environment.
    pub live: Vec<PublishedVersion>,
    /// The rules of the rollout.
    #[serde(default, skip_serializing_if = "Rollout::is_default")]
    pub rollout: Rollout,
    /// The epoch in which it is primary; 0 when it does not say. A replica that knows a higher one does not believe the answer.
    #[serde(default)]
    pub epoch: u64,
    /// Answers to publishes that the replica does not know: the newest of each environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answered: BTreeMap<Environment, Vec<Answered>>,
    /// Whether the replica may have only some environments, and was told of no others: it cannot take the primary's place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_part: bool,
}

impl SyncConfirmed {
    /// Returns the epoch that the primary knows at least: an older one does not say it, but has it in what is live.
    #[must_use]
    pub fn known_epoch(&self) -> u64 {
        self.live.iter().map(|live| live.version.epoch).fold(self.epoch.max(1), u64::max)
    }
}

/// A server tells another which epoch it knows, and hears which the other knows.
///
/// Who hears of a higher one than its own is no primary any more: it remembers that, durably, before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncEpoch {
    /// Version of the protocol.
    pub protocol: ProtocolVersion,
    /// Who the sender thinks it is; the receiver compares it with the peer.
    pub replica: Certname,
    /// The highest epoch that it knows; when it is about to be promoted, the one that it will begin.
    pub epoch: u64,
    /// As [`SyncEpochReply::instance`], of the sender: a server that asks itself raises nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub instance: u64,
}

/// What the other server knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncEpochReply {
    /// The highest epoch that it knows.
    pub epoch: u64,
    /// Whether the request raised it.
    pub is_raised: bool,
    /// Whether it is a primary.
    pub is_primary: bool,
    /// What is live there: after it stepped down, all that it ever acknowledged.
    pub live: Vec<PublishedVersion>,
    /// Its last answers to publishes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answered: BTreeMap<Environment, Vec<Answered>>,
    /// A random number that it chose when it started: by it one server is known that is reached by several addresses, or that asks
    /// itself. An earlier program says 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub instance: u64,
    /// How new code reaches nodes, as far as it knows: of a primary that has stepped down, what an administrator was told last. `None` from an
    /// earlier program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A replica asks what is in a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncManifest {
    /// Who the replica thinks it is; the primary compares it with the peer.
    pub replica: Certname,
    /// The environment.
    pub environment: Environment,
    /// The code.
    pub code_id: CodeId,
    /// Code of the same environment whose manifest the replica has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<CodeId>,
}

/// What is in a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SyncManifestReply {
    /// All of it.
    Whole {
        /// An encoded [`Manifest`](super::manifest::Manifest).
        manifest: Bytes,
    },
    /// What differs from the base.
    Delta {
        /// Paths that are not in it any more.
        removed: Vec<TreePath>,
        /// Entries that are new or differ.
        changed: Vec<ManifestEntry>,
    },
}
