//! Revocation lists: the authority's own, beside those of the authorities above it.

use std::collections::BTreeSet;
use std::path::Path;

use direct_puppet_transport::http::pem;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateRevocationListDer;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::CaError;
use super::signer::{BACKDATED, Signer};

/// How long a list is valid; as Puppet.
const TTL: Duration = Duration::days(5 * 365);

/// A list is made anew when it has no more than this left; as Puppet.
const RENEWED_BEFORE: Duration = Duration::days(30);

/// Revocation lists as they stand in `ca_crl.pem`.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    all: Vec<CertificateRevocationListDer<'static>>,
    /// Which one is the authority's own.
    own: Option<usize>,
    /// Serial numbers that the own one revokes, without leading zeros.
    revoked: BTreeSet<Vec<u8>>,
    next_update: Option<OffsetDateTime>,
}

/// Returns a serial number without leading zeros.
pub(super) fn serial_bytes(raw: &[u8]) -> Vec<u8> {
    raw.iter().copied().skip_while(|&byte| byte == 0).collect()
}

fn read<'a>(der: &'a CertificateRevocationListDer<'_>, path: &Path) -> Result<CertificateRevocationList<'a>, CaError> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        Ok(_) => Err(CaError::damaged(path, "something follows a revocation list")),
        Err(error) => Err(CaError::damaged(path, format!("a revocation list cannot be read: {error}"))),
    }
}

impl Lists {
    /// Reads the lists; one of them must be the authority's own.
    pub(super) fn load(path: &Path, signer: &Signer) -> Result<Self, CaError> {
        let all = pem::revocation_lists(path).map_err(|error| CaError::damaged(path, crate::error::chain(&error)))?;
        let lists = Self::of(all, path, signer)?;
        if lists.own.is_none() {
            return Err(CaError::damaged(path, "it has no revocation list of this authority"));
        }
        Ok(lists)
    }

    /// No list at all.
    pub(super) const fn none() -> Self {
        Self { all: Vec::new(), own: None, revoked: BTreeSet::new(), next_update: None }
    }

    fn of(all: Vec<CertificateRevocationListDer<'static>>, path: &Path, signer: &Signer) -> Result<Self, CaError> {
        let mut lists = Self { all: Vec::new(), ..Self::none() };
        for (at, der) in all.iter().enumerate() {
            let list = read(der, path)?;
            if list.tbs_cert_list.issuer.as_raw() == signer.subject {
                lists.own = Some(at);
                lists.revoked = list.iter_revoked_certificates().map(|revoked| serial_bytes(revoked.raw_serial())).collect();
                lists.next_update = list.next_update().map(|time| time.to_datetime());
            }
        }
        lists.all = all;
        Ok(lists)
    }

    pub(super) fn is_revoked(&self, serial: &[u8]) -> bool {
        self.revoked.contains(serial)
    }

    /// Whether the own list ends soon, or has ended.
    pub(super) fn is_due(&self, now: OffsetDateTime) -> bool {
        self.next_update.is_none_or(|next| next - now < RENEWED_BEFORE)
    }

    /// Returns the lists as a file, with the own one made anew, in which these serial numbers are revoked too.
    pub(super) fn revoking(
        &self,
        serials: &[Vec<u8>],
        signer: &Signer,
        path: &Path,
        now: OffsetDateTime,
    ) -> Result<String, CaError> {
        signer.check_clock(now)?;
        let (mut revoked_certs, mut number) = (Vec::new(), Vec::new());
        if let Some(own) = self.own {
            let list = read(&self.all[own], path)?;
            number = list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
            revoked_certs.extend(list.iter_revoked_certificates().map(|revoked| RevokedCertParams {
                serial_number: SerialNumber::from_slice(revoked.raw_serial()),
                revocation_time: revoked.revocation_date.to_datetime(),
                reason_code: revoked.reason_code().and_then(|(_, code)| reason(code.0)),
                invalidity_date: None,
            }));
        }
        revoked_certs.extend(serials.iter().filter(|serial| !self.is_revoked(serial)).map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }));
        let key_identifier_method = signer.key_identifier.clone().map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified);
        let params = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            next_update: now + TTL,
            crl_number: SerialNumber::from_slice(&after(&number)),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method,
        };
        let made = params.signed_by(&signer.issuer).map_err(CaError::make("a revocation list"))?;
        // What checks lists compares the names byte for byte: under another one the list would revoke nothing.
        if read(made.der(), path)?.tbs_cert_list.issuer.as_raw() != signer.subject {
            return Err(CaError::damaged(path, "the authority's own name cannot be written as it stands in its certificate"));
        }
        let mut all = self.all.clone();
        match self.own {
            Some(own) => all[own] = made.into(),
            None => all.insert(0, made.into()),
        }
        Ok(all.iter().map(|der| super::pem_text("X509 CRL", der)).collect())
    }

    /// Takes newer lists of the authorities above from `offered`. Lists of strangers are passed over.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub(super) fn with_newer(
        mut self,
        offered: Vec<CertificateRevocationListDer<'static>>,
        path: &Path,
    ) -> Result<(Self, usize), CaError> {
        let mut taken = 0;
        for der in offered {
            let new = read(&der, path)?;
            // The own list is made here alone.
            for at in (0..self.all.len()).filter(|at| Some(*at) != self.own).collect::<Vec<_>>() {
                let old = read(&self.all[at], path)?;
                if old.tbs_cert_list.issuer.as_raw() == new.tbs_cert_list.issuer.as_raw() && newer(&new, &old) {
                    self.all[at] = der.clone();
                    taken += 1;
                    break;
                }
            }
        }
        Ok((self, taken))
    }

    /// Returns the lists as a file.
    pub(super) fn text(&self) -> String {
        self.all.iter().map(|der| super::pem_text("X509 CRL", der)).collect()
    }

    /// Returns of each list whose it is and when it ends.
    pub(super) fn ends(&self, path: &Path) -> Result<Vec<(String, OffsetDateTime)>, CaError> {
        let mut ends = Vec::new();
        for der in &self.all {
            let list = read(der, path)?;
            if let Some(next) = list.next_update() {
                ends.push((super::known::common_name(&list.tbs_cert_list.issuer), next.to_datetime()));
            }
        }
        Ok(ends)
    }
}

fn newer(new: &CertificateRevocationList<'_>, old: &CertificateRevocationList<'_>) -> bool {
    match (new.crl_number(), old.crl_number()) {
        (Some(new), Some(old)) => new > old,
        _ => new.last_update() > old.last_update(),
    }
}

/// Returns the next number.
fn after(number: &[u8]) -> Vec<u8> {
    let mut next = number.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carries) = byte.overflowing_add(1);
        *byte = sum;
        if !carries {
            return next;
        }
    }
    [&[1], &next[..]].concat()
}

/// The reasons of RFC 5280, 5.3.1.
const fn reason(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        2 => RevocationReason::CaCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        6 => RevocationReason::CertificateHold,
        8 => RevocationReason::RemoveFromCrl,
        9 => RevocationReason::PrivilegeWithdrawn,
        10 => RevocationReason::AaCompromise,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_on() {
        assert_eq!((after(&[]), after(&[1]), after(&[1, 255]), after(&[255])), (vec![1], vec![2], vec![2, 0], vec![1, 0]));
    }
}
