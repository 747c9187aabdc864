//! Taking requests, and signing them.

use std::sync::{Arc, PoisonError};

use direct_puppet_transport::protocol::Certname;
use time::Duration;

use super::crl::Lists;
use super::dir::{Turn, remove};
use super::inventory::Line;
use super::request::{Request, Wishes};
use super::signer::Signer;
use super::status::{self, Issued};
use super::{Ca, CaError, lost, pem_text};

/// How many requests are taken and decided on at once.
pub(super) const SUBMITTED_AT_ONCE: usize = 16;

/// How long a request waits for the others: not so long that who handed it in has gone.
const SUBMIT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

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

impl Ca {
    /// Takes a request, and signs it when the policy says so; returns whether there is a certificate now. A policy program is asked once
    /// for a request, however often it is handed in, as long as this runs.
    ///
    /// # Errors
    ///
    /// When it is refused, somebody has that name, or too many others are decided on.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on when the future is dropped: a peer that goes away starts no more programs than one that waits.
    pub async fn submit(self: &Arc<Self>, name: &Certname, pem: &[u8]) -> Result<bool, CaError> {
        let busy = || CaError::Busy { limit: SUBMITTED_AT_ONCE };
        let turn = tokio::time::timeout(SUBMIT_PATIENCE, Arc::clone(&self.submissions).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
        let (ca, name, pem) = (Arc::clone(self), name.clone(), pem.to_vec());
        let decided = tokio::spawn(async move {
            let decided = ca.decide(&name, &pem).await;
            drop(turn);
            decided
        });
        decided.await.map_err(|error| lost(&error))?
    }

    /// Whether no policy program was asked yet about a request.
    fn is_undecided(&self, name: &Certname, text: &str) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= self.options.max_waiting.max(1) && !asked.contains_key(name) {
            // Names of which most are signed by now.
            asked.clear();
        }
        let digest = blake3::hash(text.as_bytes());
        asked.insert(name.clone(), digest) != Some(digest)
    }

    async fn decide(self: &Arc<Self>, name: &Certname, pem: &[u8]) -> Result<bool, CaError> {
        let (ca, asked, text) = (Arc::clone(self), name.clone(), pem.to_vec());
        let waits = crate::blocking::run(move || ca.keep(&asked, &text)).await.map_err(|error| lost(&error))??;
        let Some(text) = waits else { return Ok(true) };
        if !self.options.autosign.allows(name, &text, || self.is_undecided(name, &text)).await? {
            return Ok(false);
        }
        let (ca, asked) = (Arc::clone(self), name.clone());
        let signed = crate::blocking::run(move || ca.sign_exactly(&asked, &text)).await.map_err(|error| lost(&error))?;
        signed.map(|()| true)
    }

    /// Keeps a request; returns it as it is kept, or `None` when it has its certificate already.
    fn keep(&self, name: &Certname, pem: &[u8]) -> Result<Option<String>, CaError> {
        let request = Request::parse(pem, &self.options)?;
        if request.wishes.name.as_str() == "ca" {
            return Err(CaError::refused("ca", "this is what the authority itself is called: choose another certname"));
        }
        if request.wishes.name != *name {
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
        self.dir.write(&self.dir.request(name), text.as_bytes(), 0o644)?;
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
    pub(super) fn issue(&self, turn: &Turn<'_>, signer: &Signer, wishes: &Wishes, ttl: Duration) -> Result<String, CaError> {
        let now = self.now();
        signer.check_clock(now)?;
        let serial = self.dir.take_serial(turn)?;
        let certificate = signer.sign(wishes, serial, now, ttl)?;
        let path = self.dir.signed(&wishes.name);
        let pem = pem_text("CERTIFICATE", certificate.der());
        let issued = Issued::parse(&pem, &path)?;
        let line = Line { serial, not_before: issued.not_before, not_after: issued.not_after, name: wishes.name.to_string() };
        self.dir.append_inventory(turn, &line)?;
        self.dir.write(&path, pem.as_bytes(), 0o644)?;
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
}
