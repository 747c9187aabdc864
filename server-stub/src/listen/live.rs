//! TLS that follows its files while the server runs: new certificates and revocation lists hold without a restart, within half a second,
//! and for connections that stand already.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use direct_puppet_transport::Extensions;
use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::Certname;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::ends::{Ends, Watch};
use super::extensions;
use super::tls::{Door, ServerTls, ServerTlsError, certname_of};
use crate::blocking;
use crate::error::chain;

/// How often the files are looked at: a revocation must hold within a second.
const PACE: Duration = Duration::from_millis(250);

/// `pp_cli_auth` in DER, as dotted text: whoever has it may administrate the certificate authority.
const CLI_AUTH: &str = "1.3.6.1.4.1.34380.1.3.39";

/// The certificate that a client has shown, once it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate in DER.
    pub der: CertificateDer<'static>,
    /// Its certname.
    pub name: Certname,
    /// What else it says of the node.
    pub extensions: Extensions,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    not_after_unix_seconds: i64,
    may_administrate: bool,
}

impl ClientCertificate {
    /// Reads a certificate; `None` when it holds no certname.
    pub(crate) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let is_cli_auth = |value: &[u8]| value == b"\x0c\x04true" || value == b"true" || value == b"\x13\x04true";
        let all = certificate.extensions();
        let name = certname_of(der)?;
        let mut cli_auth = all.iter().filter(|extension| extension.oid.to_id_string() == CLI_AUTH);
        Some(Self {
            der: der.clone().into_owned(),
            extensions: extensions::of(&name, all),
            name,
            issuer: certificate.issuer().as_raw().to_vec(),
            serial: without_zeros(certificate.raw_serial()),
            not_after_unix_seconds: certificate.validity().not_after.timestamp(),
            may_administrate: cli_auth.any(|extension| is_cli_auth(extension.value)),
        })
    }

    /// Whether its owner may administrate the certificate authority: Puppet's `pp_cli_auth`.
    #[must_use]
    pub const fn may_administrate(&self) -> bool {
        self.may_administrate
    }

    /// Returns why it does not count any more, though it did when the connection was made.
    pub(super) fn refusal(&self, revoked: &Revoked) -> Option<&'static str> {
        if revoked.0.contains(&(self.issuer.clone(), self.serial.clone())) {
            return Some("your certificate has been revoked");
        }
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        (self.not_after_unix_seconds < now).then_some("your certificate has expired: renew it")
    }
}

/// Issuer and serial number of every certificate that is revoked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked(HashSet<(Vec<u8>, Vec<u8>)>);

impl Revoked {
    fn of(lists: &[CertificateRevocationListDer<'_>]) -> Self {
        let mut all = HashSet::new();
        for der in lists {
            // One that cannot be read was refused when the verifier was made from it.
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            let issuer = list.tbs_cert_list.issuer.as_raw();
            all.extend(list.iter_revoked_certificates().map(|revoked| (issuer.to_vec(), without_zeros(revoked.raw_serial()))));
        }
        Self(all)
    }
}

fn without_zeros(serial: &[u8]) -> Vec<u8> {
    serial.iter().copied().skip_while(|&byte| byte == 0).collect()
}

/// What one reading of the files has come to.
type Read = (Arc<Door>, Arc<Revoked>, Ends);

/// The TLS of a listener.
#[derive(Debug)]
pub(super) struct LiveTls {
    files: ServerTls,
    door: ArcSwap<Door>,
    revoked: watch::Sender<Arc<Revoked>>,
    lists: Mutex<Watch>,
}

impl LiveTls {
    /// Reads the files.
    pub(super) fn new(files: ServerTls) -> Result<(Self, Stamp), ServerTlsError> {
        // Looked at first: what changes while they are read is read again.
        let stamp = Stamp::of(&files);
        let (door, revoked, ends) = read(&files)?;
        if files.crl.is_none() {
            tracing::warn!(
                "there is no revocation list: whoever was revoked is let in; put the authority's list into crl.pem in --ssldir, or name it \
                 with --tls-crl, and start this server again"
            );
        }
        let lists = Mutex::new(Watch::new(ends));
        let live = Self { files, door: ArcSwap::new(door), revoked: watch::Sender::new(revoked), lists };
        live.tell_ended();
        Ok((live, stamp))
    }

    /// Tells of revocation lists that have ended since the last look.
    fn tell_ended(&self) {
        let Some(file) = &self.files.crl else { return };
        let news = self.lists.lock().unwrap_or_else(PoisonError::into_inner).news(file, OffsetDateTime::now_utc());
        for told in news {
            tracing::warn!("{told}");
        }
    }

    pub(super) fn door(&self) -> Arc<Door> {
        self.door.load_full()
    }

    /// Returns what is revoked, now and later.
    pub(super) fn revoked(&self) -> watch::Receiver<Arc<Revoked>> {
        self.revoked.subscribe()
    }

    /// Follows the files without end. While they cannot be used the last ones that could are: what was revoked stays so.
    pub(super) async fn follow(self: Arc<Self>, stamp: Stamp) {
        let mut seen = Seen { used: stamp, told: None };
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (live, last) = (Arc::clone(&self), seen.used.clone());
            let looked = blocking::run(move || {
                let now = Stamp::of(&live.files);
                (now != last).then(|| (now, read(&live.files)))
            });
            match looked.await {
                Ok(None) => {}
                Ok(Some((now, Ok((door, revoked, ends))))) => {
                    seen.is_used(now);
                    self.door.store(door);
                    self.lists.lock().unwrap_or_else(PoisonError::into_inner).replace(ends);
                    tracing::info!(revoked = revoked.0.len(), "certificates and revocation lists were read again");
                    self.revoked.send_replace(revoked);
                }
                Ok(Some((now, Err(error)))) => {
                    if seen.is_news(now) {
                        tracing::error!(
                            "certificates have changed and cannot be used; those before stay in use: {}",
                            chain(&error)
                        );
                    }
                }
                Err(error) => tracing::error!(%error, "certificates could not be looked at; this is a bug"),
            }
            self.tell_ended();
        }
    }
}

/// Which state of the files is in use, and of which one it was told that it cannot be.
#[derive(Debug)]
struct Seen {
    used: Stamp,
    told: Option<Stamp>,
}

impl Seen {
    fn is_used(&mut self, stamp: Stamp) {
        *self = Self { used: stamp, told: None };
    }

    /// Returns whether it is to be told that a state cannot be used. It stays unused, and is tried again at the next look: what kept it from
    /// being read, as a lack of descriptors, may pass without the files being changed again.
    fn is_news(&mut self, stamp: Stamp) -> bool {
        let is_news = self.told.as_ref() != Some(&stamp);
        self.told = Some(stamp);
        is_news
    }
}

fn read(files: &ServerTls) -> Result<Read, ServerTlsError> {
    let lists = files.crl.as_deref().map(pem::revocation_lists).transpose()?.unwrap_or_default();
    Ok((Arc::new(files.door()?), Arc::new(Revoked::of(&lists)), Ends::of(&lists)))
}

/// What tells that a file was written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 6]>>);

impl Stamp {
    fn of(files: &ServerTls) -> Self {
        let paths = [Some(&files.ca), Some(&files.certificate), Some(&files.key), files.crl.as_ref()];
        Self(paths.into_iter().flatten().map(|path| stat(path)).collect())
    }
}

fn stat(path: &Path) -> Option<[i64; 6]> {
    let found = std::fs::metadata(path).ok()?;
    let (size, inode) = (found.size().cast_signed(), found.ino().cast_signed());
    Some([inode, size, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_could_not_be_read_is_told_once_and_tried_again() {
        let stamp = |number| Stamp(vec![Some([number; 6])]);
        let mut seen = Seen { used: stamp(1), told: None };
        assert!(seen.is_news(stamp(2)) && !seen.is_news(stamp(2)));
        assert_eq!(seen.used, stamp(1), "it counts as read once it was");
        assert!(seen.is_news(stamp(3)));
        seen.is_used(stamp(3));
        assert!(seen.used == stamp(3) && seen.is_news(stamp(2)));
    }
}
