//! Renewing certificates: the same key, name and extensions, from now on.

use std::path::Path;

use direct_puppet_transport::protocol::Certname;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::crl::{self, Lists};
use super::request::Wishes;
use super::signer;
use super::status::Issued;
use super::{Ca, CaError, pem_text};

/// A certificate that was issued this short a time ago is given again when it is to be renewed, so that a node that asks without end
/// fills no disk.
const FRESH: Duration = Duration::hours(1);

impl Ca {
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
}
