//! Why a run did not happen, or stopped before anything was touched.

use std::path::PathBuf;

use direct_puppet_transport::protocol::{CatalogError, CatalogId, CodecError, Environment, VersionCounter};
use direct_puppet_transport::{CallError, TransportError};

use crate::fs::FsError;
use crate::provider::ProviderError;

/// Why a run failed as a whole. Failures of single resources are data in the outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The agent cannot be built with these options.
    #[error("agent cannot be set up: {reason}")]
    Config {
        /// What is wrong and what to do.
        reason: String,
    },
    /// An administrator has disabled the agent.
    #[error("agent is disabled: {message} (enable it with \"direct-puppet enable\")")]
    Disabled {
        /// Why, in the administrator's words.
        message: String,
    },
    /// Another run is going on.
    #[error("another run{} holds the lock {}: wait for it to end", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// Its process, if the lock says so.
        holder: Option<u32>,
    },
    /// There is no catalog to apply: the server could not be asked and none is on disk.
    #[error("no catalog: the server gave none and none is cached for environment {environment}")]
    NoCatalog {
        /// The environment.
        environment: Environment,
        /// Why the server gave none.
        #[source]
        source: Option<Box<Self>>,
    },
    /// The server could not be asked, or said no.
    #[error("check-in failed")]
    CheckIn(#[source] CallError),
    /// The server's answer makes no sense.
    #[error("the server's catalog cannot be used: {reason}")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
    /// The catalog is damaged or contradicts itself.
    #[error("the server's catalog cannot be used")]
    Catalog(#[from] CatalogError),
    /// The server answered from older code than it did before.
    #[error(
        "server answered from version {offered}, this node has accepted {accepted}: refusing to go back (to accept it once, run with --accept-older)"
    )]
    OlderVersion {
        /// What the server offers.
        offered: VersionCounter,
        /// What this node has accepted.
        accepted: VersionCounter,
    },
    /// The catalog is another one than the only one that may be applied.
    #[error("the catalog is {found}, and only {wanted} may be applied: nothing was changed")]
    OtherCatalog {
        /// What was found.
        found: CatalogId,
        /// What may be applied.
        wanted: CatalogId,
    },
    /// A type that no provider manages.
    #[error("{resource}{} cannot be managed: there is no type {resource_type} here, there are {}", declared.as_ref().map(|at| format!(" ({at})")).unwrap_or_default(), known.join(", "))]
    NoProvider {
        /// The resource.
        resource: String,
        /// Its type.
        resource_type: String,
        /// Where it was declared, `file:line`.
        declared: Option<String>,
        /// The types that have a provider.
        known: Vec<String>,
    },
    /// A resource that cannot be managed as the catalog that was given has it.
    #[error("catalog cannot be applied: {reason}")]
    Unusable {
        /// Which, and why.
        reason: String,
    },
    /// A resource whose parameters make no sense.
    #[error("catalog cannot be applied")]
    Provider(#[from] ProviderError),
    /// Resources that wait for each other, or refer to what is not there.
    #[error("catalog cannot be put in order")]
    Graph(#[from] crate::apply::GraphError),
    /// Contents did not come.
    #[error("fetch of {missing} contents failed: nothing was changed")]
    Fetch {
        /// How many are still missing.
        missing: u64,
        /// Why.
        #[source]
        source: CallError,
    },
    /// The server does not have contents that its catalog names.
    #[error("server does not have {} contents that the catalog names, the first for {first}: nothing was changed", count)]
    ContentMissing {
        /// How many.
        count: u64,
        /// A file that needs one.
        first: String,
    },
    /// A content is not what its digest says.
    #[error("content fetched for {path} is not what its digest says: nothing was changed")]
    ContentDamaged {
        /// A file that needs it.
        path: String,
        /// What differs.
        #[source]
        source: FsError,
    },
    /// A file of the agent's own could not be read or written.
    #[error("agent's own files")]
    State(#[from] FsError),
    /// A report or state could not be encoded.
    #[error("agent's own state could not be encoded")]
    Codec(#[from] CodecError),
    /// Facts could not be found out.
    #[error("facts could not be gathered: {reason}")]
    Facts {
        /// Why.
        reason: String,
    },
    /// The run was cancelled before it touched anything.
    #[error("run was cancelled")]
    Cancelled,
    /// The run took too long before it touched anything.
    #[error("run took longer than {limit:?} and was given up before it touched anything")]
    TimedOut {
        /// How long it may take.
        limit: std::time::Duration,
    },
    /// A blocking part ended without an answer.
    #[error("a part of the run ended without an answer")]
    Lost(#[source] tokio::task::JoinError),
}

impl RunError {
    /// Returns whether the same run may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Cancelled | Self::TimedOut { .. } => true,
            Self::CheckIn(error) | Self::Fetch { source: error, .. } => error.is_retryable(),
            Self::NoCatalog { source, .. } => source.as_ref().is_some_and(|source| source.is_retryable()),
            _ => false,
        }
    }
}

impl From<TransportError> for RunError {
    fn from(error: TransportError) -> Self {
        Self::CheckIn(error.into())
    }
}
