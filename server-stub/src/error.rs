//! Why the server cannot do what it was asked; for its administrator. What a node hears is a
//! [`Refusal`](direct_puppet_transport::protocol::Refusal).

use std::path::PathBuf;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::{CodeId, CodecError, Environment};

use crate::compile::{CompileError, CompileErrorKind};
use crate::store::StoreError;

/// Why the server cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another process works with the data directory.
    #[error("data directory {} is in use by another process: stop it, or talk to it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// A file of the server's own cannot be read or written.
    #[error("server's own files")]
    Disk(#[from] FsError),
    /// There is no room for something on the disk, or none that it may take.
    #[error("{needed} bytes have no space in {}, where {free} are free {what}: make room, or give it more", path.display())]
    NoSpace {
        /// What it takes, in bytes.
        needed: u64,
        /// Where.
        path: PathBuf,
        /// What is free for it, in bytes.
        free: u64,
        /// Which room that is.
        what: &'static str,
    },
    /// There is room for no more files on the disk.
    #[error("{} has no space for another file: only {free} are left on that disk, which stay free; make room", path.display())]
    NoFiles {
        /// Where.
        path: PathBuf,
        /// How many files the disk still takes.
        free: u64,
    },
    /// A file of the server's own is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the server's own was written by a later version of it.
    #[error("{} is in format {format}, which this program does not know: use the one that wrote it, or a later one", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is in.
        format: u32,
    },
    /// Another server has taken over, and this one was given none to follow.
    #[error("another server has taken over, in epoch {epoch}: have this one follow it with --primary")]
    Replaced {
        /// The epoch that it began.
        epoch: u64,
    },
    /// An administrator's act that concerns other servers, while this one does not run.
    #[error("this server works with others, which only a running server can ask: start it, then ask again")]
    Offline,
    /// This server was not promoted.
    #[error("this server was not promoted: {reason}")]
    NotPromoted {
        /// Why.
        reason: String,
    },
    /// Another server speaks of an epoch that cannot be.
    #[error(
        "epoch {epoch} is too far above {known}, the highest that this server knows: whoever says it is damaged or not of this \
         site; if it is right, empty this server's data directory and start it with --primary"
    )]
    EpochTooFar {
        /// What was said.
        epoch: u64,
        /// What is known.
        known: u64,
    },
    /// The store that servers share cannot be used.
    #[error("shared store")]
    Store(#[from] StoreError),
    /// The store that servers share went away while it made a publish live.
    #[error(
        "whether {code_id} is live in {environment} is not known, for the store went away before it said so: ask again with the same request id"
    )]
    OutcomeUnknown {
        /// The environment.
        environment: Environment,
        /// The code that was to be live.
        code_id: CodeId,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// Other servers published all the time.
    #[error("environment {environment} was published at other servers again and again meanwhile: publish again")]
    Outrun {
        /// The environment.
        environment: Environment,
    },
    /// Something could not be encoded.
    #[error("server's own state could not be encoded")]
    Codec(#[from] CodecError),
    /// There is no such environment in staging.
    #[error("environment {environment} is not in staging: expected {}", path.display())]
    NoEnvironment {
        /// The environment.
        environment: Environment,
        /// Where it should be.
        path: PathBuf,
    },
    /// This server has no staging.
    #[error("this server was started without staging: publish at one that has it, or give this one --staging")]
    NoStaging,
    /// No environment is staged where all were to be published.
    #[error(
        "nothing is staged: {} holds no directory whose name is one of an environment (letters, digits and _), deploy into it and publish again",
        path.display()
    )]
    NothingStaged {
        /// Where environments are looked for.
        path: PathBuf,
    },
    /// Staging cannot be read.
    #[error("staging could not be read at {}{}", path.display(), reading_hint(source))]
    Staging {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Staging has something that cannot be published.
    #[error("staging has what cannot be published: {}", list(paths))]
    Unpublishable {
        /// Paths within the environment, each with what is wrong with it.
        paths: Vec<String>,
    },
    /// A text of a request is too long.
    #[error("{field} is {bytes} bytes long, of which {limit} are allowed: say it shorter")]
    TooLong {
        /// Its name in the request.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// Its longest.
        limit: usize,
    },
    /// An id of a request that is empty.
    #[error("request_id is empty: give one that no other request has, or none")]
    EmptyRequestId,
    /// A rollout cannot be both.
    #[error("the request says both pause and resume: say one of them")]
    PauseAndResume,
    /// A publish, a rollback or a collection does not come to its end while a promotion waits for it.
    #[error("a publish, a rollback or a collection is under way here, and nothing was changed: promote when it has ended")]
    Working,
    /// Staging changed while it was copied.
    #[error("staging changed while it was copied, publish again when it is still: {}", list(paths))]
    Unstable {
        /// Paths within the environment that changed.
        paths: Vec<String>,
    },
    /// What is live is not what whoever publishes has seen.
    #[error(
        "environment {environment} has {} live, and this was asked for on top of {}: look at what was published meanwhile, then ask \
         for it on top of that",
        of(live),
        of(expected)
    )]
    Conflict {
        /// The environment.
        environment: Environment,
        /// What was expected to be live.
        expected: Option<CodeId>,
        /// What is.
        live: Option<CodeId>,
    },
    /// An id of a request that was for something else.
    #[error(
        "the request of this id made {} live in environment {environment}, and is for something else: give another id",
        of(made)
    )]
    OtherRequest {
        /// The environment.
        environment: Environment,
        /// What was made live, or was live.
        made: Option<CodeId>,
    },
    /// A condition on what is live for more than one environment.
    #[error("if_live is the code of one environment: name just that one")]
    IfLiveOfOne,
    /// The code does not compile.
    #[error("code is refused")]
    Compile(#[from] CompileError),
    /// There is no such version.
    #[error("environment {environment} has no version {name}: list them with \"direct-puppet-server versions\"")]
    NoVersion {
        /// The environment.
        environment: Environment,
        /// How it was named.
        name: String,
    },
    /// A replica was asked to publish.
    #[error("this server follows {primary}: publish there")]
    Replica {
        /// Its primary.
        primary: String,
    },
    /// The primary could not say which code is live, or its code could not be brought.
    #[error("which code is live could not be confirmed: {reason}")]
    Unconfirmed {
        /// Why.
        reason: String,
    },
    /// A node that never checked in.
    #[error("no node {certname} has checked in")]
    UnknownNode {
        /// The node.
        certname: String,
    },
    /// A part of the work ended without an answer.
    #[error("a part of the work ended without an answer")]
    Lost(#[from] tokio::task::JoinError),
}

fn of(code_id: &Option<CodeId>) -> String {
    code_id.map_or_else(|| "nothing".to_owned(), |code_id| code_id.to_string())
}

impl ServerError {
    /// Returns the stable code of the error, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Disk(_) | Self::NoSpace { .. } | Self::NoFiles { .. } => "disk",
            Self::Damaged { .. } => "damaged",
            Self::Format { .. } => "format",
            Self::NoEnvironment { .. } => "no_environment",
            Self::Staging { .. } => "staging",
            Self::NoStaging => "no_staging",
            Self::NothingStaged { .. } => "nothing_staged",
            Self::Unpublishable { .. } => "unpublishable",
            Self::TooLong { .. } | Self::EmptyRequestId | Self::PauseAndResume | Self::IfLiveOfOne => "bad_request",
            Self::Working => "working",
            Self::Unstable { .. } => "unstable",
            Self::Conflict { .. } | Self::OtherRequest { .. } => "conflict",
            Self::Compile(CompileError { kind: CompileErrorKind::Unreadable { .. }, .. }) => "damaged",
            Self::Compile(CompileError { kind: CompileErrorKind::Server | CompileErrorKind::NoCompiler, .. }) => "compiler",
            Self::Compile(CompileError { kind: CompileErrorKind::Disk, .. }) => "disk",
            Self::Compile(_) => "compile",
            Self::NoVersion { .. } => "no_version",
            Self::Replica { .. } => "replica",
            Self::Replaced { .. } => "replaced",
            Self::Offline => "offline",
            Self::NotPromoted { .. } => "not_promoted",
            Self::EpochTooFar { .. } => "epoch_too_far",
            Self::Unconfirmed { .. } | Self::Store(_) => "unconfirmed",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::Outrun { .. } => "outrun",
            Self::UnknownNode { .. } => "unknown_node",
            Self::Codec(_) | Self::Lost(_) => "internal",
        }
    }

    /// Returns the paths that the error names.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        match self {
            Self::Unpublishable { paths } | Self::Unstable { paths } => paths,
            _ => &[],
        }
    }
}

fn reading_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => " (let the server's user read it, or take it out of staging)",
        _ => "",
    }
}

fn list(paths: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN { format!("{shown} and {} more", paths.len() - SHOWN) } else { shown }
}

/// Returns an error with all its causes, as one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
