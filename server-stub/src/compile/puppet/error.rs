//! What goes wrong around a compile.

use std::path::PathBuf;
use std::time::Duration;

use super::message::{Answer, Question};
use crate::code::Code;
use crate::compile::{CompileError, CompileErrorKind};

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    #[error(
        "{} could not be run, and without Ruby no Puppet code is compiled: install a package that brings Puppet's library \
         (puppet-agent or openvox-agent), or name its Ruby with --ruby: {source}",
        ruby.display()
    )]
    NoRuby { ruby: PathBuf, source: std::io::Error },
    #[error(
        "Puppet's library is not there for {}: install a package that brings it (puppet-agent or openvox-agent), or name its Ruby \
         with --ruby: {reason}",
        ruby.display()
    )]
    NoLibrary { ruby: PathBuf, reason: String },
    #[error("Puppet's library could not be started: {0}")]
    Start(String),
    /// It ended before it took the question.
    #[error("the process that compiles ended before it was asked: try again")]
    Gone,
    /// The parent could not fork.
    #[error("no process could be started to compile: this server lacks memory or processes; the node asks again by itself")]
    Busy,
    #[error("took longer than {} seconds and was ended: look for a loop, or for what it waits for; --compile-seconds allows more", .0.as_secs())]
    TimedOut(Duration),
    #[error("took more than {} MiB of memory and was ended: look for what grows; --compile-memory allows more", .0 >> 20)]
    TooBig(u64),
    #[error("ended without a catalog, with exit status {0}: some code called exit!, or broke the Ruby that ran it")]
    Exited(i32),
    #[error("ended without a catalog, by signal {0}: some code broke the Ruby that ran it")]
    Crashed(i32),
    #[error("was killed from outside, by signal {0}: the machine may lack memory")]
    Killed(i32),
    #[error("gave a catalog of {0} bytes, more than a catalog may have")]
    TooLong(u64),
    #[error("facts could not be passed on: {0}")]
    Question(String),
    #[error("gave an answer that cannot be read: {0}")]
    Answer(String),
    #[error("could not be talked to: {0}")]
    Io(#[from] std::io::Error),
}

impl WorkerError {
    /// Whether the parent cannot be asked again: it has ended, hangs, or says what makes no sense.
    pub(super) const fn is_fault_of_parent(&self) -> bool {
        matches!(self, Self::Gone | Self::Start(_) | Self::Io(_))
    }

    /// What is at fault: the code where the same would fail the same way again. A loop is not run again and again for a node that asks
    /// again and again.
    pub(super) const fn kind(&self) -> CompileErrorKind {
        match self {
            Self::TimedOut(_) | Self::TooBig(_) | Self::Exited(_) | Self::Crashed(_) | Self::TooLong(_) | Self::Answer(_) => {
                CompileErrorKind::Code
            }
            Self::NoRuby { .. } | Self::NoLibrary { .. } => CompileErrorKind::NoCompiler,
            Self::Start(_) | Self::Gone | Self::Busy | Self::Killed(_) | Self::Question(_) | Self::Io(_) => {
                CompileErrorKind::Server
            }
        }
    }
}

/// Returns what a node is told.
pub(super) fn compile_error(code: &Code, question: &Question<'_>, error: &WorkerError) -> CompileError {
    let what = match question.certname() {
        Some(certname) => format!("the compile for {certname}"),
        None => "the check of its manifests".to_owned(),
    };
    let message = match error {
        WorkerError::NoRuby { .. }
        | WorkerError::NoLibrary { .. }
        | WorkerError::Start(_)
        | WorkerError::Gone
        | WorkerError::Busy => error.to_string(),
        _ => format!("{what} {error}"),
    };
    CompileError::at(&place(code), message).with_kind(error.kind())
}

/// Returns an error for an answer to another question.
pub(super) fn unexpected(code: &Code, answer: &Answer) -> CompileError {
    let what = match answer {
        Answer::Checked => "a check",
        Answer::Compiled(_) => "a catalog",
        Answer::Failed(_) => "an error",
    };
    CompileError::at(&place(code), format!("the process that compiles answered with {what}, which was not asked for")).of_server()
}

/// Returns the place of what has no place in a file.
pub(super) fn place(code: &Code) -> String {
    format!("environment {}", code.version.environment)
}
