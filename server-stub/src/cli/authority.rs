//! Options of the certificate authority, and how a server keeps it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use direct_puppet_server_stub::Ca;
use direct_puppet_server_stub::ca::{Autosign, CaOptions, DEFAULT_TTL};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// How often the revocation list is read, to see whether it ends soon.
const LIST_PACE: Duration = Duration::from_secs(3600);

/// How often it is looked at whether another was put in its place, which is read at once.
const LOOK_PACE: Duration = Duration::from_secs(1);

/// Options of the certificate authority; below `[ca]` in the configuration file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct Options {
    /// Be the certificate authority that is kept here, in Puppet's layout; clients without a certificate may ask for one
    #[arg(long, value_name = "DIR", help_heading = "Certificate authority")]
    cadir: Option<PathBuf>,
    /// Which requests are signed at once: true, false, or a file, either a list of names and globs or a program [default: false]
    #[arg(long, value_name = "true|false|FILE", requires = "cadir", help_heading = "Certificate authority")]
    autosign: Option<String>,
    /// Let requests ask for alternative names
    #[arg(long, requires = "cadir", help_heading = "Certificate authority")]
    allow_subject_alt_names: bool,
    /// Let requests ask for authorization extensions
    #[arg(long, requires = "cadir", help_heading = "Certificate authority")]
    allow_authorization_extensions: bool,
    /// Let a request replace a certificate or a request of the same name
    #[arg(long, requires = "cadir", help_heading = "Certificate authority")]
    allow_duplicate_certs: bool,
    /// How many seconds certificates are valid [default: 157680000, five years]
    #[arg(long, value_name = "SECONDS", requires = "cadir", help_heading = "Certificate authority")]
    ca_ttl: Option<u64>,
}

impl Options {
    /// Fills in from the configuration file what the command line does not say.
    pub(super) fn or(self, config: Self) -> Self {
        Self {
            cadir: self.cadir.or(config.cadir),
            autosign: self.autosign.or(config.autosign),
            allow_subject_alt_names: self.allow_subject_alt_names || config.allow_subject_alt_names,
            allow_authorization_extensions: self.allow_authorization_extensions || config.allow_authorization_extensions,
            allow_duplicate_certs: self.allow_duplicate_certs || config.allow_duplicate_certs,
            ca_ttl: self.ca_ttl.or(config.ca_ttl),
        }
    }

    /// Returns the authority's certificates and revocation lists, which clients are checked with.
    pub(super) fn files(&self) -> Option<(PathBuf, PathBuf)> {
        self.cadir.as_ref().map(|dir| (dir.join("ca_crt.pem"), lists_of(dir)))
    }

    /// Opens the authority, if there is to be one.
    pub(super) async fn open(&self) -> anyhow::Result<Option<Arc<Ca>>> {
        let Some(dir) = self.cadir.clone() else { return Ok(None) };
        let options = CaOptions {
            autosign: self.autosign.as_ref().map_or(Autosign::Nobody, |text| Autosign::from(text.as_str())),
            allow_subject_alt_names: self.allow_subject_alt_names,
            allow_authorization_extensions: self.allow_authorization_extensions,
            allow_duplicate_certs: self.allow_duplicate_certs,
            ttl: self.ca_ttl.map_or(DEFAULT_TTL, Duration::from_secs),
            ..CaOptions::default()
        };
        let open = move || {
            let ca = Ca::open(dir, options)?;
            // Before anybody is checked with it.
            refresh(&ca);
            anyhow::Ok(ca)
        };
        Ok(Some(Arc::new(tokio::task::spawn_blocking(open).await??)))
    }
}

/// Makes the revocation list anew before it ends, until `shutdown`; also one that was put there and has ended already.
pub(super) async fn keep_lists(ca: Arc<Ca>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LOOK_PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last: Option<(Instant, Stamp)> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let ca = Arc::clone(&ca);
        let look = move || {
            // Looked at first: what changes while it is read is read again.
            let stamp = stamp(&lists_of(ca.path()));
            match last {
                Some((read, seen)) if seen == stamp && read.elapsed() < LIST_PACE => Some((read, seen)),
                _ => {
                    refresh(&ca);
                    Some((Instant::now(), stamp))
                }
            }
        };
        last = tokio::task::spawn_blocking(look).await?;
    }
}

/// Makes the revocation list anew if it ends soon, or has ended. Blocking.
fn refresh(ca: &Ca) {
    match ca.refresh_list() {
        Ok(true) => tracing::info!("the revocation list would have ended soon, or has ended, and was made anew"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(
                "the revocation list could not be looked at, or made anew before it ends: {:#}",
                anyhow::Error::from(error)
            );
        }
    }
}

fn lists_of(dir: &Path) -> PathBuf {
    dir.join("ca_crl.pem")
}

/// What tells that a file was written or replaced; `None` while it is not there.
type Stamp = Option<[i64; 4]>;

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some([found.ino().cast_signed(), found.size().cast_signed(), found.mtime(), found.mtime_nsec()])
}
