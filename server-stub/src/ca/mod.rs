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
mod oid;
mod request;
mod routes;
mod setup;
mod signer;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct_puppet_agent::fs::write_state;
use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::Certname;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::x509::X509Name;

pub use autosign::Autosign;
pub use error::CaError;
pub use routes::CaRoutes;
pub use setup::{Generate, Generated, Import, Setup};
pub use status::CertificateStatus;

use crl::Lists;
use dir::{Dir, Turn, read_text, remove};
use inventory::Line;
use request::{Request, Wishes};
use signer::Signer;
use status::Issued;

/// How long certificates are valid unless told otherwise; as Puppet.
pub const DEFAULT_TTL: std::time::Duration = std::time::Duration::from_secs(5 * 365 * 86_400);

/// A certificate that was issued this short a time ago is given again when it is to be renewed, so that a node that asks without end
/// fills no disk.
const FRESH: Duration = Duration::hours(1);

/// Tells the time; of a test, its own.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// What an authority allows.
#[derive(Clone)]
pub struct CaOptions {
    /// Which requests are signed at once. Default: none.
    pub autosign: Autosign,
    /// Whether requests may ask for alternative names. Default: no.
    pub allow_subject_alt_names: bool,
    /// Whether requests may ask for authorization extensions, `pp_cli_auth` excepted. Default: no.
    pub allow_authorization_extensions: bool,
    /// Whether a request replaces a certificate or a request of the same name. Default: no.
    pub allow_duplicate_certs: bool,
    /// How long certificates are valid, at most as long as the authority. Default: five years.
    pub ttl: std::time::Duration,
    /// How many requests may wait. Default: 10,000.
    pub max_waiting: usize,
    /// The clock. Default: this machine's.
    pub clock: Clock,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            autosign: Autosign::Nobody,
            allow_subject_alt_names: false,
            allow_authorization_extensions: false,
            allow_duplicate_certs: false,
            ttl: DEFAULT_TTL,
            max_waiting: 10_000,
            clock: Arc::new(OffsetDateTime::now_utc),
        }
    }
}

impl std::fmt::Debug for CaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaOptions").field("autosign", &self.autosign).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// What came of names that were to be signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signed {
    /// Those that have a certificate now.
    pub signed: Vec<Certname>,
    /// Those of whom no request waits.
    pub no_csr: Vec<Certname>,
    /// Those whose request is refused.
    pub signing_errors: Vec<Certname>,
}

/// Until when what stands above all certificates is valid.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Expirations {
    /// Certificates of authorities, by name.
    #[serde(rename = "ca-certs")]
    ca_certs: BTreeMap<String, String>,
    /// Revocation lists, by the name of whose they are.
    crls: BTreeMap<String, String>,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Ca {
    dir: Dir,
    path: PathBuf,
    options: CaOptions,
}

impl Ca {
    /// Opens the authority in `path`. Blocking.
    ///
    /// # Errors
    ///
    /// When there is none, or a file of it cannot be used; the file is named.
    pub fn open(path: impl Into<PathBuf>, options: CaOptions) -> Result<Self, CaError> {
        let path = path.into();
        let ca = Self { dir: Dir::new(path.clone()), path, options };
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

    /// Returns the certificate of a name, or of the authority for `ca`, as PEM. Blocking.
    pub(crate) fn certificate_pem(&self, name: &Certname) -> Result<Option<String>, CaError> {
        // No node can be called so.
        if name.as_str() == "ca" {
            return read_text(&self.dir.certificates());
        }
        read_text(&self.dir.signed(name))
    }

    /// Returns the request of a name that waits, as PEM. Blocking.
    pub(crate) fn request_pem(&self, name: &Certname) -> Result<Option<String>, CaError> {
        read_text(&self.dir.request(name))
    }

    /// Takes a request, and signs it when the policy says so; returns whether there is a certificate now.
    ///
    /// # Errors
    ///
    /// When it is refused, or somebody has that name.
    pub async fn submit(self: &Arc<Self>, name: &Certname, pem: &[u8]) -> Result<bool, CaError> {
        let (ca, asked, text) = (Arc::clone(self), name.clone(), pem.to_vec());
        let waits = crate::blocking::run(move || ca.keep(&asked, &text)).await.map_err(|error| lost(&error))??;
        let Some(text) = waits else { return Ok(true) };
        if !self.options.autosign.allows(name, &text).await? {
            return Ok(false);
        }
        let (ca, asked) = (Arc::clone(self), name.clone());
        let signed = crate::blocking::run(move || ca.sign_exactly(&asked, &text)).await.map_err(|error| lost(&error))?;
        signed.map(|()| true)
    }

    /// Keeps a request; returns it as it is kept, or `None` when it has its certificate already.
    fn keep(&self, name: &Certname, pem: &[u8]) -> Result<Option<String>, CaError> {
        let request = Request::parse(pem, &self.options)?;
        if request.wishes.name != *name || name.as_str() == "ca" {
            return Err(CaError::refused(&request.wishes.name, format!("it was handed in for {name}")));
        }
        let _turn = self.dir.turn()?;
        if let Some(issued) = self.issued(name)?
            && !self.options.allow_duplicate_certs
        {
            let lists = Lists::load(&self.dir.lists(), &self.signer()?)?;
            let is_revoked = lists.is_revoked(&issued.serial);
            if issued.wishes.key == request.wishes.key && !is_revoked {
                return Ok(None);
            }
            return Err(CaError::Duplicate { name: name.clone(), state: if is_revoked { "revoked" } else { "signed" } });
        }
        let text = pem_text("CERTIFICATE REQUEST", &request.der);
        if let Some(waiting) = self.request_pem(name)? {
            let is_same = Request::parse(waiting.as_bytes(), &self.options).is_ok_and(|waiting| waiting.wishes == request.wishes);
            if is_same {
                return Ok(Some(waiting));
            }
            if !self.options.allow_duplicate_certs {
                return Err(CaError::Duplicate { name: name.clone(), state: "requested" });
            }
        } else if self.dir.names("requests")?.len() >= self.options.max_waiting {
            return Err(CaError::Full { limit: self.options.max_waiting });
        }
        write_state(&self.dir.request(name), text.as_bytes(), 0o644)?;
        tracing::info!(%name, fingerprint = status::fingerprint(&request.der), "a certificate is asked for");
        Ok(Some(text))
    }

    /// Signs what was decided on, and nothing that came in its place meanwhile.
    fn sign_exactly(&self, name: &Certname, text: &str) -> Result<(), CaError> {
        let turn = self.dir.turn()?;
        match self.request_pem(name)? {
            Some(waiting) if waiting == text => self.sign_in_turn(&turn, name, self.ttl()),
            // Another has signed it first, or it was replaced and is decided on again.
            _ => Ok(()),
        }
    }

    /// Signs the request of a name. Blocking.
    ///
    /// # Errors
    ///
    /// When none waits, or it is refused.
    pub fn sign(&self, name: &Certname, ttl: Option<std::time::Duration>) -> Result<(), CaError> {
        let turn = self.dir.turn()?;
        let ttl = ttl.map_or(self.ttl(), |ttl| Duration::try_from(ttl).unwrap_or(Duration::MAX));
        self.sign_in_turn(&turn, name, ttl)
    }

    fn sign_in_turn(&self, turn: &Turn<'_>, name: &Certname, ttl: Duration) -> Result<(), CaError> {
        let Some(pem) = self.request_pem(name)? else { return Err(CaError::NoRequest { name: name.clone() }) };
        let request = Request::parse(pem.as_bytes(), &self.options)?;
        if request.wishes.name != *name {
            return Err(CaError::refused(&request.wishes.name, format!("it lies in the place of {name}")));
        }
        self.issue(turn, &self.signer()?, &request.wishes, ttl)?;
        remove(&self.dir.request(name))?;
        Ok(())
    }

    /// Makes a certificate, and returns it as PEM.
    fn issue(&self, turn: &Turn<'_>, signer: &Signer, wishes: &Wishes, ttl: Duration) -> Result<String, CaError> {
        let now = self.now();
        signer.check_clock(now)?;
        let serial = self.dir.take_serial(turn)?;
        let certificate = signer.sign(wishes, serial, now, ttl)?;
        let path = self.dir.signed(&wishes.name);
        let pem = pem_text("CERTIFICATE", certificate.der());
        let issued = Issued::parse(&pem, &path)?;
        let line = Line { serial, not_before: issued.not_before, not_after: issued.not_after, name: wishes.name.to_string() };
        self.dir.append_inventory(turn, &line)?;
        write_state(&path, pem.as_bytes(), 0o644)?;
        tracing::info!(name = %wishes.name, serial, "a certificate was issued");
        Ok(pem)
    }

    /// Signs these names. Blocking.
    ///
    /// # Errors
    ///
    /// Only what stops all of them; a request that is refused is in the result.
    pub fn sign_all(&self, names: &[Certname]) -> Result<Signed, CaError> {
        let mut result = Signed::default();
        for name in names {
            match self.sign(name, None) {
                Ok(()) => result.signed.push(name.clone()),
                Err(CaError::NoRequest { .. }) => result.no_csr.push(name.clone()),
                Err(error @ (CaError::Refused { .. } | CaError::Damaged { .. })) => {
                    tracing::warn!("{}", crate::error::chain(&error));
                    result.signing_errors.push(name.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(result)
    }

    /// Returns the names of whom a request waits. Blocking.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn waiting(&self) -> Result<Vec<Certname>, CaError> {
        self.dir.names("requests")
    }

    /// Returns whether a certificate of this name was ever issued here.
    fn was_issued(&self, name: &Certname) -> Result<bool, CaError> {
        let inventory = self.dir.inventory_text()?;
        Ok(self.issued(name)?.is_some() || inventory.lines().filter_map(Line::parse).any(|line| line.name == name.as_str()))
    }

    /// Revokes all certificates of these names that are still valid; returns the names of which none was ever issued. Blocking.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written; then none was revoked.
    pub fn revoke(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let _turn = self.dir.turn()?;
        self.revoke_in_turn(names)
    }

    fn revoke_in_turn(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let (now, inventory) = (self.now(), self.dir.inventory_text()?);
        let (mut serials, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            if !self.was_issued(name)? {
                unknown.push(name.clone());
                continue;
            }
            let valid = inventory::valid_serials(&inventory, name, now);
            serials.extend(valid.iter().map(|serial| crl::serial_bytes(&serial.to_be_bytes())));
            serials.extend(self.issued(name)?.map(|issued| issued.serial));
        }
        serials.sort();
        serials.dedup();
        let signer = self.signer()?;
        let path = self.dir.lists();
        let lists = Lists::load(&path, &signer)?;
        serials.retain(|serial| !lists.is_revoked(serial));
        if !serials.is_empty() {
            write_state(&path, lists.revoking(&serials, &signer, &path, now)?.as_bytes(), 0o644)?;
            tracing::info!(?names, count = serials.len(), "certificates were revoked");
        }
        Ok(unknown)
    }

    /// Revokes the certificates of these names, and removes them and their requests; returns the names of which there was nothing.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// As [`Ca::revoke`].
    pub fn clean(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let _turn = self.dir.turn()?;
        let mut unknown = self.revoke_in_turn(names)?;
        for name in names {
            remove(&self.dir.signed(name))?;
            if remove(&self.dir.request(name))? {
                unknown.retain(|other| other != name);
            }
        }
        Ok(unknown)
    }

    /// Removes the request of a name, and with `certificate` its certificate, unrevoked; returns whether there was any. Blocking.
    pub(crate) fn forget(&self, name: &Certname, with_certificate: bool) -> Result<bool, CaError> {
        let _turn = self.dir.turn()?;
        let had_certificate = with_certificate && remove(&self.dir.signed(name))?;
        Ok(remove(&self.dir.request(name))? || had_certificate)
    }

    /// Renews the certificate that a node has shown: the same key, name and extensions, from now on. Blocking.
    ///
    /// # Errors
    ///
    /// When it is not of this authority, revoked, or not the one of its name.
    pub(crate) fn renew_shown(&self, shown: &CertificateDer<'_>) -> Result<String, CaError> {
        let somebody = |reason: &str| CaError::NotRenewed { name: "somebody".to_owned(), reason: reason.to_owned() };
        let signer = self.signer()?;
        let certificate = signer::parse(shown, Path::new("the certificate that was shown"))?;
        if !signer.has_signed(&certificate) {
            return Err(somebody("it was not issued by this authority"));
        }
        let wishes = Wishes::of_certificate(&certificate).map_err(|reason| somebody(&reason))?;
        let refused = |reason: &str| CaError::NotRenewed { name: wishes.name.to_string(), reason: reason.to_owned() };
        let turn = self.dir.turn()?;
        let now = self.now();
        if certificate.validity().not_after.to_datetime() <= now {
            return Err(refused("it has expired"));
        }
        let lists = Lists::load(&self.dir.lists(), &signer)?;
        if lists.is_revoked(&crl::serial_bytes(certificate.raw_serial())) {
            return Err(refused("it is revoked"));
        }
        match self.issued(&wishes.name)? {
            Some(last) if last.wishes.key != wishes.key => return Err(refused("another key has this name now")),
            Some(last) if self.is_fresh(&last, now) && !lists.is_revoked(&last.serial) => {
                return Ok(pem_text("CERTIFICATE", &last.der));
            }
            _ => {}
        }
        self.issue(&turn, &signer, &wishes, self.ttl())
    }

    /// Whether a certificate was issued a moment ago.
    fn is_fresh(&self, last: &Issued, now: OffsetDateTime) -> bool {
        let issued = last.not_before + signer::BACKDATED;
        issued <= now && now - issued < FRESH.min(self.ttl() / 10) && last.not_after > now
    }

    /// Renews the certificate of a name with the key that it has. Blocking.
    ///
    /// # Errors
    ///
    /// When there is none, or it is revoked.
    pub fn renew(&self, name: &Certname) -> Result<(), CaError> {
        let turn = self.dir.turn()?;
        let Some(issued) = self.issued(name)? else { return Err(CaError::NoCertificate { name: name.clone() }) };
        let signer = self.signer()?;
        if Lists::load(&self.dir.lists(), &signer)?.is_revoked(&issued.serial) {
            return Err(CaError::NotRenewed { name: name.to_string(), reason: "it is revoked".to_owned() });
        }
        self.issue(&turn, &signer, &issued.wishes, self.ttl()).map(drop)
    }

    /// Makes the revocation list anew when it ends soon; returns whether it did. Blocking.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn refresh_list(&self) -> Result<bool, CaError> {
        let _turn = self.dir.turn()?;
        let (signer, path, now) = (self.signer()?, self.dir.lists(), self.now());
        let lists = Lists::load(&path, &signer)?;
        if !lists.is_due(now) {
            return Ok(false);
        }
        write_state(&path, lists.revoking(&[], &signer, &path, now)?.as_bytes(), 0o644)?;
        Ok(true)
    }

    /// Returns until when the authorities and their lists are valid, by name. Blocking.
    pub(crate) fn expirations(&self) -> Result<Expirations, CaError> {
        let path = self.dir.certificates();
        let certificates = pem::certificates(&path).map_err(|error| CaError::damaged(&path, crate::error::chain(&error)))?;
        let mut ca_certs = BTreeMap::new();
        for der in &certificates {
            let certificate = signer::parse(der, &path)?;
            let ends = certificate.validity().not_after.to_datetime();
            ca_certs.insert(common_name(certificate.subject()), date::text(ends));
        }
        let lists = Lists::load(&self.dir.lists(), &self.signer()?)?.ends(&self.dir.lists())?;
        let crls = lists.into_iter().map(|(name, ends)| (name, date::text(ends))).collect();
        Ok(Expirations { ca_certs, crls })
    }

    fn issued(&self, name: &Certname) -> Result<Option<Issued>, CaError> {
        let path = self.dir.signed(name);
        read_text(&path)?.map(|pem| Issued::parse(&pem, &path)).transpose()
    }

    /// Returns what is known of a name; `None` when that is nothing. Blocking.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn status(&self, name: &Certname) -> Result<Option<CertificateStatus>, CaError> {
        let lists = Lists::load(&self.dir.lists(), &self.signer()?)?;
        self.status_with(name, &lists)
    }

    fn status_with(&self, name: &Certname, lists: &Lists) -> Result<Option<CertificateStatus>, CaError> {
        if let Some(issued) = self.issued(name)? {
            return Ok(Some(issued.status(lists.is_revoked(&issued.serial))));
        }
        let Some(pem) = self.request_pem(name)? else { return Ok(None) };
        // What was taken under other options is shown all the same.
        let lenient = CaOptions { allow_subject_alt_names: true, allow_authorization_extensions: true, ..self.options.clone() };
        Ok(Some(status::of_request(&Request::parse(pem.as_bytes(), &lenient)?)))
    }

    /// Returns what is known of every name. Blocking.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read; a file that cannot be is told and passed over.
    pub fn statuses(&self) -> Result<Vec<CertificateStatus>, CaError> {
        let lists = Lists::load(&self.dir.lists(), &self.signer()?)?;
        let mut names = self.dir.names("signed")?;
        names.extend(self.dir.names("requests")?);
        names.sort();
        names.dedup();
        let status = |name: &Certname| match self.status_with(name, &lists) {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(%name, "{}", crate::error::chain(&error));
                None
            }
        };
        Ok(names.iter().filter_map(status).collect())
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

/// Returns the common name in a subject or an issuer; the whole where there is none.
fn common_name(name: &X509Name<'_>) -> String {
    let first = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    first.map_or_else(|| name.to_string(), ToOwned::to_owned)
}
