//! The protocol: ids, messages and their encoding. Pure: no async, no I/O, no clock.

pub mod catalog;
pub mod codec;
mod columns;
pub mod compress;
pub mod digest;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod messages;
pub mod pack;
pub mod packed_catalog;
pub mod path;
pub mod pieces;
pub mod report;
#[cfg(test)]
mod round_trip;
pub mod sync;
pub mod value;
pub mod version;

pub use catalog::{Catalog, CatalogError, Edge, ResolvedSource, Resource, ResourceRef};
pub use codec::CodecError;
pub use digest::{Algorithm, Digest, Hasher};
pub use ids::{CatalogId, Certname, CodeId, Environment, VersionCounter, VersionCounterError};
pub use manifest::{EntryKind, Manifest, ManifestBuilder, ManifestEntry};
pub use messages::{CatalogReply, CheckIn, Fetch, Held, Operation, Refusal, RefusalCode, ReportAccepted, SubmitFacts};
pub use pack::{Encoding, Pack, PackBase, PackedFetch, Span};
pub use packed_catalog::CatalogLayout;
pub use path::TreePath;
pub use pieces::{Grain, Part, Piece};
pub use report::{Report, RunStatus};
pub use sync::{
    Answered, Deployed, NodesByCode, PublishedVersion, Rollout, SyncConfirm, SyncConfirmed, SyncEpoch, SyncEpochReply,
    SyncManifest, SyncManifestReply,
};
pub use value::Value;
pub use version::ProtocolVersion;
