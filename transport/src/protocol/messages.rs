//! One request and response pair for each operation.
//!
//! | Operation | Request | Response |
//! |---|---|---|
//! | `check_in` | [`CheckIn`] | [`CatalogReply`] |
//! | `submit_facts` | [`SubmitFacts`] | [`CatalogReply`] |
//! | `fetch` | [`Fetch`] | a stream, see [`super::frame`] |
//! | `report` | [`super::report::Report`] | [`ReportAccepted`] |
//! | `sync_confirm` | [`super::sync::SyncConfirm`] | [`super::sync::SyncConfirmed`] |
//! | `sync_epoch` | [`super::sync::SyncEpoch`] | [`super::sync::SyncEpochReply`] |
//! | `sync_manifest` | [`super::sync::SyncManifest`] | [`super::sync::SyncManifestReply`] |
//! | `sync_fetch` | [`Fetch`], by a replica | a stream, see [`super::frame`] |
//!
//! Any of them may be answered by a [`Refusal`] instead. No field is trusted to say who the sender is: a `certname` is
//! compared with the authenticated peer.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::ids::{CatalogId, Certname, CodeId, Environment, VersionCounter};
use super::limits::{
    MAX_FACTS_BYTES, MAX_FETCH_REQUEST_BYTES, MAX_REPORT_BYTES, MAX_SMALL_MESSAGE_BYTES, MAX_SYNC_CONFIRM_BYTES,
};
use super::pack::PackedFetch;
use super::packed_catalog::CatalogLayout;
use super::value::Value;
use super::version::ProtocolVersion;

/// What a node can ask of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Say which catalog was last applied; hear whether it is current.
    CheckIn,
    /// Send facts, because a compile needs them.
    SubmitFacts,
    /// Get contents by digest.
    Fetch,
    /// Tell how a run went.
    Report,
    /// As a replica: ask which code is live.
    SyncConfirm,
    /// Between servers: tell and hear which epoch is known.
    SyncEpoch,
    /// As a replica: ask what is in a version.
    SyncManifest,
    /// As a replica: get contents of published code by digest.
    SyncFetch,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 8] = [
        Self::CheckIn,
        Self::SubmitFacts,
        Self::Fetch,
        Self::Report,
        Self::SyncConfirm,
        Self::SyncEpoch,
        Self::SyncManifest,
        Self::SyncFetch,
    ];

    /// Returns the name: the last segment of the HTTP path, and the header on a Unix socket.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CheckIn => "check_in",
            Self::SubmitFacts => "submit_facts",
            Self::Fetch => "fetch",
            Self::Report => "report",
            Self::SyncConfirm => "sync_confirm",
            Self::SyncEpoch => "sync_epoch",
            Self::SyncManifest => "sync_manifest",
            Self::SyncFetch => "sync_fetch",
        }
    }

    /// Returns the operation of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// Returns whether asking twice does no more than asking once, so that a lost answer may be asked for again.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Report)
    }

    /// Returns the most bytes that a request may have.
    #[must_use]
    pub const fn max_request_bytes(self) -> u64 {
        match self {
            Self::CheckIn | Self::SyncEpoch | Self::SyncManifest => MAX_SMALL_MESSAGE_BYTES,
            Self::SyncConfirm => MAX_SYNC_CONFIRM_BYTES,
            Self::SubmitFacts => MAX_FACTS_BYTES,
            Self::Fetch | Self::SyncFetch => MAX_FETCH_REQUEST_BYTES,
            Self::Report => MAX_REPORT_BYTES,
        }
    }
}

/// The catalog that an agent holds, and the code that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The id of the catalog last applied.
    pub catalog_id: CatalogId,
    /// The code that made it, as the server last said.
    pub code_id: CodeId,
    /// Where that code stood.
    pub version: VersionCounter,
}

/// An agent says which catalog it last applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// Version of the protocol.
    pub protocol: ProtocolVersion,
    /// Who the agent thinks it is; the server compares it with the peer.
    pub certname: Certname,
    /// The environment it wants to be in.
    pub environment: Environment,
    /// What it holds; `None` on the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Features that it understands beyond the base of this version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// How long the server may hold the answer while nothing is new, in seconds; 0 for no wait.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_seconds: u32,
    /// Nothing older than this is to be answered, as after a publish that made it; without it, nothing older than what is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<VersionCounter>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An agent sends its facts, because it was asked to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitFacts {
    /// The check-in that this goes on with.
    pub check_in: CheckIn,
    /// Facts by name.
    pub facts: BTreeMap<String, Value>,
}

/// What the server says of an agent's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CatalogReply {
    /// Keep yours: it is what the live code makes for you.
    Current {
        /// The live code.
        code_id: CodeId,
        /// Where it stands.
        version: VersionCounter,
        /// For how long the server could not confirm, with its primary, that this code is live, in seconds; `None` when it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unconfirmed_seconds: Option<u32>,
    },
    /// A catalog that you do not have.
    Catalog {
        /// The id of `catalog`.
        catalog_id: CatalogId,
        /// The code that made it.
        code_id: CodeId,
        /// Where that code stands.
        version: VersionCounter,
        /// As in [`CatalogReply::Current`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unconfirmed_seconds: Option<u32>,
        /// The canonical bytes of a [`super::catalog::Catalog`]; the receiver checks them against `catalog_id`.
        catalog: Bytes,
    },
    /// A catalog that you do not have, packed; only for who says [`PACKED_CATALOG`](super::packed_catalog::PACKED_CATALOG) among its features.
    Packed {
        /// The id of the catalog that comes out.
        catalog_id: CatalogId,
        /// As in [`CatalogReply::Catalog`].
        code_id: CodeId,
        /// As in [`CatalogReply::Catalog`].
        version: VersionCounter,
        /// As in [`CatalogReply::Current`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unconfirmed_seconds: Option<u32>,
        /// Whether it is packed against the catalog that the check-in says is held.
        #[serde(default)]
        is_against_held: bool,
        /// What the frame holds; other than as it is only for who says
        /// [`CATALOG_IN_COLUMNS`](super::packed_catalog::CATALOG_IN_COLUMNS) among its features.
        #[serde(default, skip_serializing_if = "CatalogLayout::is_as_it_is")]
        layout: CatalogLayout,
        /// How long it is unpacked, in bytes.
        size: u64,
        /// One zstd frame, see [`super::packed_catalog::unpack_catalog`].
        packed: Bytes,
    },
    /// A compile is due: send your facts.
    FactsNeeded,
}

/// An agent asks for contents that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Who the agent thinks it is; the server compares it with the peer.
    pub certname: Certname,
    /// The contents, each once.
    pub digests: Vec<Digest>,
    /// Of contents that a broken fetch left in part: how many bytes are already there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offsets: BTreeMap<Digest, u64>,
    /// Contents that may come packed, by their places in catalogs. A server that does not know this, or those catalogs, passes over
    /// it: none of them is answered then, not even as missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedFetch>,
}

/// The report was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAccepted {
    /// Whether it had been taken before.
    #[serde(default)]
    pub duplicate: bool,
}

/// Why a server says no; stable codes, each with its retry rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The message is malformed or breaks a limit. Final.
    BadRequest,
    /// The peer is not who it says, or has no right. Final.
    Forbidden,
    /// No such environment, operation or thing. Final.
    NotFound,
    /// The protocol versions do not meet. Final.
    UnsupportedVersion,
    /// Nothing is published in this environment yet. Try again later.
    NotPublished,
    /// The code does not compile for this node. Final until new code is published.
    CompileFailed,
    /// Too much to do. Try again after the time said.
    Busy,
    /// What the server has is, or may be, older than what is live or was asked for. Try again, or ask another server.
    Stale,
    /// The server is about to stop. Try again.
    ShuttingDown,
    /// Something broke in the server; its log says what. Try again later.
    Internal,
    /// A code of a later program; the message says what it is about. Final.
    #[serde(other)]
    Unknown,
}

impl RefusalCode {
    /// Returns whether the same request may succeed later without anybody's doing.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Stale | Self::ShuttingDown | Self::Internal)
    }

    /// Returns the code as it stands on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::UnsupportedVersion => "unsupported_version",
            Self::NotPublished => "not_published",
            Self::CompileFailed => "compile_failed",
            Self::Busy => "busy",
            Self::Stale => "stale",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// A server's no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("server refused ({}): {message}", code.name())]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// For people: what was wrong and what to do.
    pub message: String,
    /// When to try again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

impl Refusal {
    /// Returns a refusal without a time to try again.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_seconds: None }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
