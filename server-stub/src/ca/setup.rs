//! Making an authority, taking one over, and making keys with certificates.

use std::path::{Path, PathBuf};

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::Certname;
use rcgen::KeyPair;
use time::Duration;

use super::crl::Lists;
use super::dir::{Dir, remove};
use super::known::common_name;
use super::request::AlternativeName;
use super::signer::{Signer, key_from, own_wishes, parse};
use super::{Ca, CaError, CaOptions};

/// How an authority is made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its name: the common name of its certificate.
    pub name: String,
}

/// An authority that was made elsewhere.
#[derive(Debug, Clone)]
pub struct Import {
    /// Certificates in PEM: the signing one, and those above it.
    pub certificates: PathBuf,
    /// Revocation lists in PEM, one for each of them.
    pub lists: PathBuf,
    /// The private key of the signing one, in PEM.
    pub key: PathBuf,
}

/// A key that is to be made, with a certificate.
#[derive(Debug, Clone)]
pub struct Generate {
    /// The name.
    pub name: Certname,
    /// Alternative names: `puppet`, `DNS:puppet`, `IP:10.0.0.1`.
    pub alternative_names: Vec<String>,
    /// Whether the certificate may administrate the authority.
    pub is_administrator: bool,
    /// How long it is valid; as long as others where it is not said.
    pub ttl: Option<std::time::Duration>,
}

/// A key with a certificate, in PEM.
#[derive(Clone)]
pub struct Generated {
    /// The private key.
    pub key: String,
    /// Its public half.
    pub public_key: String,
    /// The certificate.
    pub certificate: String,
}

impl std::fmt::Debug for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generated").finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes an authority in `path`, where none may be, with a new key. Blocking.
    ///
    /// # Errors
    ///
    /// When one is there, or a file cannot be written.
    pub fn create(path: impl Into<PathBuf>, setup: &Setup, options: CaOptions) -> Result<Self, CaError> {
        let ca = Self::begin(path.into(), options)?;
        let (certificate, key) = Signer::create(&setup.name, ca.now())?;
        let text = key.serialize_pem();
        // Numbers go on above that of the authority's own certificate, which a list of the same authority would revoke.
        ca.complete(&super::pem_text("CERTIFICATE", certificate.der()), key, None, &text, 2)
    }

    /// Takes an authority over into `path`, where none may be. Blocking.
    ///
    /// # Errors
    ///
    /// When one is there, the files do not go together, a certificate above is missing, or a file cannot be written.
    pub fn import(path: impl Into<PathBuf>, import: &Import, options: CaOptions) -> Result<Self, CaError> {
        let signer = Signer::load(&import.certificates, &import.key)?;
        check_chain(&signer, &import.certificates)?;
        Lists::load(&import.lists, &signer)?;
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| FsError::new(path, "read", error));
        let (certificates, lists, text) = (read(&import.certificates)?, read(&import.lists)?, read(&import.key)?);
        // Which numbers it has given elsewhere nobody says, and one given twice would be revoked with the other.
        let (key, serial) = (key_from(&import.key)?, random_serial()?);
        // Only now: what is refused leaves no directory.
        let ca = Self::begin(path.into(), options)?;
        ca.complete(&certificates, key, Some(&lists), &text, serial)
    }

    fn begin(path: PathBuf, options: CaOptions) -> Result<Self, CaError> {
        let ca = Self::at(path, options);
        let is_there = |file: &Path| !matches!(file.try_exists(), Ok(false));
        // What was begun and never had its key was never used: it is begun again.
        let is_begun = is_there(&ca.dir.begun());
        for (file, may_be_there) in [(ca.dir.key(), false), (ca.dir.certificates(), is_begun), (ca.dir.serial(), is_begun)] {
            if is_there(&file) && !may_be_there {
                return Err(CaError::Exists { path: file });
            }
        }
        Dir::create(&ca.path)?;
        Ok(ca)
    }

    /// Writes the files; the key last, with which the authority is there.
    fn complete(
        self,
        certificates: &str,
        key: KeyPair,
        lists: Option<&str>,
        key_text: &str,
        serial: u64,
    ) -> Result<Self, CaError> {
        let turn = self.dir.turn()?;
        self.dir.write(&self.dir.begun(), b"", 0o644)?;
        self.dir.write(&self.dir.certificates(), certificates.as_bytes(), 0o644)?;
        self.dir.write(&self.dir.public_key(), key.public_key_pem().as_bytes(), 0o644)?;
        self.dir.write(&self.dir.inventory(), b"", 0o644)?;
        self.dir.write(&self.dir.serial(), format!("{serial:04X}").as_bytes(), 0o644)?;
        let lists = match lists {
            Some(lists) => lists.to_owned(),
            None => {
                let signer = Signer::of(key, &self.dir.certificates(), &self.dir.key())?;
                Lists::none().revoking(&[], &signer, &self.dir.lists(), self.now())?
            }
        };
        self.dir.write(&self.dir.lists(), lists.as_bytes(), 0o644)?;
        self.dir.write(&self.dir.key(), key_text.as_bytes(), 0o640)?;
        remove(&self.dir.begun())?;
        drop(turn);
        Self::open(self.path, self.options)
    }

    /// Makes a key and its certificate. The key is returned and not kept. Blocking.
    ///
    /// # Errors
    ///
    /// When the name has a certificate or a request, or an alternative name is none.
    pub fn generate(&self, generate: &Generate) -> Result<Generated, CaError> {
        let refused = |reason| CaError::refused(&generate.name, reason);
        let names = generate.alternative_names.iter().map(|name| name.parse::<AlternativeName>().map_err(refused));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        if generate.name.as_str() == "ca" {
            return Err(CaError::refused("ca", "this is what the authority itself is called"));
        }
        let turn = self.dir.turn()?;
        let state = if self.issued(&generate.name)?.is_some() { Some("signed") } else { None };
        let state = state.or(self.request_pem(&generate.name)?.map(|_| "requested"));
        if let Some(state) = state {
            return Err(CaError::Duplicate { name: generate.name.clone(), state });
        }
        let key = KeyPair::generate().map_err(CaError::make("a key"))?;
        let wishes = own_wishes(generate.name.clone(), &key, names, generate.is_administrator);
        let ttl = generate.ttl.map_or(self.ttl(), |ttl| Duration::try_from(ttl).unwrap_or(Duration::MAX));
        let certificate = self.issue(&turn, &self.signer()?, &wishes, ttl)?;
        Ok(Generated { key: key.serialize_pem(), public_key: key.public_key_pem(), certificate })
    }

    /// Takes newer revocation lists of the authorities above; returns how many were newer. Blocking.
    pub(crate) fn update_lists(&self, pem: &[u8]) -> Result<usize, CaError> {
        use rustls::pki_types::CertificateRevocationListDer;
        use rustls::pki_types::pem::PemObject as _;
        let refused = |reason: String| CaError::refused("revocation lists", reason);
        let offered = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let offered = offered.map_err(|error| refused(format!("they are no PEM: {error:?}")))?;
        if offered.is_empty() {
            return Err(refused("there are none".to_owned()));
        }
        let _turn = self.dir.turn()?;
        let signer = self.signer()?;
        let path = self.dir.lists();
        let above = pem::certificates(&self.dir.certificates())
            .map_err(|error| CaError::damaged(self.dir.certificates(), crate::error::chain(&error)))?;
        for list in &offered {
            check_signature(list, &above).map_err(refused)?;
        }
        let own = Lists::load(&path, &signer)?;
        let (lists, taken) = own.with_newer(offered, &path)?;
        if taken > 0 {
            self.dir.write(&path, lists.text().as_bytes(), 0o644)?;
        }
        Ok(taken)
    }
}

/// Returns a number of 63 bits that no certificate has, as far as chance goes: far above any count, and with as much room above it.
fn random_serial() -> Result<u64, CaError> {
    let random = getrandom::u64().map_err(|error| CaError::damaged("random numbers", error.to_string()))?;
    Ok(1 << 62 | random >> 3)
}

/// Checks that the certificates in `path` go from the signing one to a root: clients take no others.
fn check_chain(signer: &Signer, path: &Path) -> Result<(), CaError> {
    let all = pem::certificates(path).map_err(|error| CaError::damaged(path, crate::error::chain(&error)))?;
    let mut at = parse(&signer.certificate, path)?;
    // One more step than there are certificates would go in a circle.
    for _ in 0..=all.len() {
        if at.subject() == at.issuer() && at.verify_signature(None).is_ok() {
            return Ok(());
        }
        let mut above = None;
        for der in &all {
            let other = parse(der, path)?;
            if other.subject() == at.issuer() && at.verify_signature(Some(other.public_key())).is_ok() {
                above = Some(other);
                break;
            }
        }
        let Some(above) = above else { break };
        at = above;
    }
    let (issuer, subject) = (common_name(at.issuer()), common_name(at.subject()));
    let reason = format!(
        "it has no certificate of \"{issuer}\", which has signed that of \"{subject}\": add the certificates of all authorities above, up \
         to the root, which has signed itself"
    );
    Err(CaError::damaged(path, reason))
}

/// Checks that a list is signed by one of the authorities.
fn check_signature(list: &[u8], above: &[rustls::pki_types::CertificateDer<'_>]) -> Result<(), String> {
    use x509_parser::prelude::FromDer as _;
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(list)
        .map_err(|error| format!("one cannot be read: {error}"))?;
    let is_by = |der: &rustls::pki_types::CertificateDer<'_>| {
        x509_parser::parse_x509_certificate(der).is_ok_and(|(_, issuer)| {
            issuer.subject() == &list.tbs_cert_list.issuer && list.verify_signature(issuer.public_key()).is_ok()
        })
    };
    if above.iter().any(is_by) { Ok(()) } else { Err("one is not of an authority that is known here".to_owned()) }
}
