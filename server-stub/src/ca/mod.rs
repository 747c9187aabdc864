//! The certificate authority of a site, in the directory and with the answers of Puppet's.
//!
//! ```text
//! <cadir>/ca_crt.pem               certificates of the authority and of those above it
//!        /ca_key.pem               its private key
//!        /ca_crl.pem               revocation lists, the own one among them
//!        /serial                   number of the next certificate, in hexadecimal
//!        /inventory.txt            every certificate that was ever issued
//!        /signed/<certname>.pem    the last certificate of a name
//!        /requests/<certname>.pem  a request that waits for a signature
//!        /.lock                    held by whoever changes something here
//! ```
//!
//! The directory of an existing Puppet CA works as it is, with keys of RSA (2048 to 4096 bits), P-256 or P-384, and with intermediate
//! authorities. Nothing is held in memory: a running server, `direct-puppet-server ca` and Puppet's own tools may take turns.
//!
//! Every change is durable before it is told. A number is taken before a certificate is made, and the certificate is in the inventory
//! before anybody can get it, so that `revoke` finds all of them whenever the power was cut.

mod autosign;
mod crl;
mod date;
mod dir;
mod error;
mod inventory;
mod issue;
mod known;
mod oid;
mod options;
mod renew;
mod request;
mod revoke;
mod routes;
mod setup;
mod signer;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use direct_puppet_transport::protocol::Certname;
use time::{Duration, OffsetDateTime};
use tokio::sync::Semaphore;

pub use autosign::Autosign;
pub use error::CaError;
pub use issue::Signed;
pub use options::{CaOptions, Clock, DEFAULT_TTL};
pub use routes::CaRoutes;
#[cfg(any(test, feature = "testing"))]
pub(crate) use routes::lines;
pub use setup::{Generate, Generated, Import, Setup};
pub use status::CertificateStatus;

use crl::Lists;
use dir::Dir;
use signer::Signer;

/// A certificate authority.
#[derive(Debug)]
pub struct Ca {
    dir: Dir,
    path: PathBuf,
    options: CaOptions,
    /// Turns of requests that are taken and decided on.
    submissions: Arc<Semaphore>,
    /// Requests that a policy program was asked about, by digest.
    asked: Mutex<HashMap<Certname, blake3::Hash>>,
}

impl Ca {
    fn at(path: PathBuf, options: CaOptions) -> Self {
        let submissions = Arc::new(Semaphore::new(issue::SUBMITTED_AT_ONCE));
        Self { dir: Dir::new(path.clone()), path, options, submissions, asked: Mutex::default() }
    }

    /// Opens the authority in `path`. Blocking.
    ///
    /// # Errors
    ///
    /// When there is none, or a file of it cannot be used; the file is named.
    pub fn open(path: impl Into<PathBuf>, options: CaOptions) -> Result<Self, CaError> {
        let ca = Self::at(path.into(), options);
        if matches!(ca.dir.key().try_exists(), Ok(false)) {
            return Err(CaError::Absent { path: ca.path });
        }
        let signer = ca.signer()?;
        Lists::load(&ca.dir.lists(), &signer)?;
        Dir::create(&ca.path)?;
        Ok(ca)
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the clock says.
    fn now(&self) -> OffsetDateTime {
        // As in certificates, without parts of seconds.
        let now = (self.options.clock)();
        now.replace_nanosecond(0).unwrap_or(now)
    }

    fn ttl(&self) -> Duration {
        Duration::try_from(self.options.ttl).unwrap_or(Duration::MAX)
    }

    fn signer(&self) -> Result<Signer, CaError> {
        Signer::load(&self.dir.certificates(), &self.dir.key())
    }
}

fn lost(error: &tokio::task::JoinError) -> CaError {
    CaError::damaged("the certificate authority", format!("a part of the work ended without an answer: {error}"))
}

/// Returns a DER as PEM.
fn pem_text(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
