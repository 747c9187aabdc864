//! Why the certificate authority did not do what it was asked.

use std::path::PathBuf;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::Certname;

/// When to come again that was turned away because others are served, in seconds.
pub(super) const BUSY_SECONDS: u32 = 10;

/// Why the certificate authority did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("certificate authority's files")]
    Disk(#[from] FsError),
    /// A file is damaged, or of another kind.
    #[error("{} cannot be used: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no authority in this directory.
    #[error("there is no certificate authority in {}: make one with \"direct-puppet-server ca setup\", or take one over with \"ca import\"", path.display())]
    Absent {
        /// The directory.
        path: PathBuf,
    },
    /// Something that would be overwritten is there already.
    #[error("{} is there already: nothing is overwritten; choose another directory, or move it away", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A request is refused for what it asks or for how it is made.
    #[error("certificate request for {name} is refused: {reason}")]
    Refused {
        /// Who asks, as far as it is known.
        name: String,
        /// Why.
        reason: String,
    },
    /// There is a certificate or a request of that name, with another key or other wishes.
    #[error(
        "{name} already has a {state} certificate: clean it (direct-puppet-server ca clean --certname {name}) before another is asked for"
    )]
    Duplicate {
        /// The name.
        name: Certname,
        /// `requested`, `signed` or `revoked`.
        state: &'static str,
    },
    /// Too many requests wait for a signature.
    #[error("{limit} certificate requests wait already, and no more are kept: sign or clean some")]
    Full {
        /// How many may wait.
        limit: usize,
    },
    /// Too many requests are taken and decided on at once.
    #[error(
        "certificate authority takes {limit} requests at once, and has no time for another: ask again in {BUSY_SECONDS} seconds"
    )]
    Busy {
        /// How many are taken at once.
        limit: usize,
    },
    /// Nobody of that name asks for a certificate.
    #[error(
        "no certificate request for {name} waits: \"direct-puppet-server ca list\" shows those that do, and a node asks with \"direct-puppet ssl bootstrap\""
    )]
    NoRequest {
        /// The name.
        name: Certname,
    },
    /// No certificate of that name was ever issued.
    #[error("no certificate for {name} was issued here: \"direct-puppet-server ca list --all\" shows those that were")]
    NoCertificate {
        /// The name.
        name: Certname,
    },
    /// A certificate cannot be renewed.
    #[error("certificate of {name} is not renewed: {reason}")]
    NotRenewed {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The authority's own certificate is not valid at this time.
    #[error(
        "certificate authority's own certificate is valid from {from} to {to}, and this machine's clock says {now}: set the clock, or renew the authority"
    )]
    Clock {
        /// From when it is valid.
        from: String,
        /// Until when.
        to: String,
        /// What the clock says.
        now: String,
    },
    /// Something could not be signed or encoded.
    #[error("could not make {what}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The policy program did not say yes or no.
    #[error("autosign program {} gave no answer: {reason}", path.display())]
    Policy {
        /// The program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl CaError {
    pub(super) fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), reason: reason.into() }
    }

    pub(super) fn refused(name: impl ToString, reason: impl Into<String>) -> Self {
        Self::Refused { name: name.to_string(), reason: reason.into() }
    }

    pub(super) fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |source| Self::Make { what, source }
    }
}
