//! Which certificates of authorities, and which revocation lists, a node may keep.

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::KeyError;
use super::key::colons;

/// Certificates of authorities, and nothing else of the text that they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads the certificates in a text of PEM; what is no certificate is left out.
    ///
    /// # Errors
    ///
    /// When there is none, or one cannot be read.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| KeyError::Pem)?;
        if all.is_empty() || all.iter().any(|der| read(der).is_none()) {
            return Err(KeyError::Pem);
        }
        Ok(Self(all))
    }

    /// Returns those that the SHA-256 fingerprint of a root proves: the root, and the authorities below it. Colons and the case of letters
    /// do not matter.
    ///
    /// # Errors
    ///
    /// When none has that fingerprint, or the one that has it is no root: one that others stand above proves less than is trusted.
    pub fn proved_by(&self, wanted: &str) -> Result<Self, KeyError> {
        let digits = |text: &str| text.chars().filter(|digit| *digit != ':').collect::<String>().to_ascii_uppercase();
        let wanted = digits(wanted);
        let Some(root) = self.0.iter().find(|der| digits(&fingerprint_of(der)) == wanted) else {
            return Err(KeyError::Fingerprint { found: self.fingerprints().join(", ") });
        };
        if !is_below(root, root) {
            return Err(KeyError::NoRoot);
        }
        let mut proved = vec![root.clone()];
        // As often as the longest chain that there can be.
        for _ in &self.0 {
            for der in &self.0 {
                if !proved.contains(der) && proved.iter().any(|above| is_below(der, above)) {
                    proved.push(der.clone());
                }
            }
        }
        Ok(Self(proved))
    }

    /// Whether all of them are among others.
    #[must_use]
    pub fn are_among(&self, others: &Self) -> bool {
        self.0.iter().all(|der| others.0.contains(der))
    }

    /// Returns the SHA-256 of each, as `AB:CD:…`.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|der| fingerprint_of(der)).collect()
    }

    /// Returns them as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// Reads revocation lists in PEM, and returns them as PEM, without what else the text holds. `before` are the lists that they are to
    /// replace.
    ///
    /// # Errors
    ///
    /// When there is none, one cannot be read or was not signed by one of these authorities, or `before` has the list of an authority
    /// that is missing now, or was newer.
    pub fn check_lists(&self, lists: &str, before: Option<&str>) -> Result<String, KeyError> {
        let refused = |reason| Err(KeyError::Lists { reason });
        let read_all = |text: &str| CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let Ok(new) = read_all(lists) else { return refused("they are no PEM") };
        if new.is_empty() {
            return refused("there is none");
        }
        let mut parsed = Vec::new();
        for der in &new {
            let Ok(([], list)) = CertificateRevocationList::from_der(der) else { return refused("one cannot be read") };
            let is_by = |issuer: &X509Certificate<'_>| {
                issuer.subject().as_raw() == list.tbs_cert_list.issuer.as_raw()
                    && list.verify_signature(issuer.public_key()).is_ok()
            };
            if !self.0.iter().filter_map(|der| read(der)).any(|issuer| is_by(&issuer)) {
                return refused("one was not signed by an authority that is trusted");
            }
            parsed.push(list);
        }
        // Lists that cannot be read any more protect nobody: they are replaced.
        for old in before.map(read_all).and_then(Result::ok).unwrap_or_default() {
            let Ok((_, old)) = CertificateRevocationList::from_der(&old) else { continue };
            let is_same = |list: &&CertificateRevocationList<'_>| list.issuer().as_raw() == old.issuer().as_raw();
            match parsed.iter().find(is_same) {
                None => return refused("the list of an authority is missing that was there before"),
                Some(new) if new.last_update() < old.last_update() => {
                    return refused("one is older than the one that it is to replace");
                }
                Some(_) => {}
            }
        }
        Ok(new.iter().map(|der| pem("X509 CRL", der)).collect())
    }
}

fn read<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// Whether a certificate is one of an authority, and was signed with the key of another, or with its own.
fn is_below(der: &CertificateDer<'_>, above: &CertificateDer<'_>) -> bool {
    let (Some(certificate), Some(above)) = (read(der), read(above)) else { return false };
    // The certificate of a node is signed by the root too, and must not become an authority.
    let may_sign = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    certificate.is_ca()
        && may_sign
        && certificate.issuer().as_raw() == above.subject().as_raw()
        && certificate.verify_signature(Some(above.public_key())).is_ok()
}

fn fingerprint_of(der: &[u8]) -> String {
    colons(&Sha256::digest(der))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
    };

    use super::*;

    struct Made {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn make(name: &str, is_ca: bool, above: Option<&Made>) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        let key = KeyPair::generate().unwrap();
        let made = above.map_or_else(|| params.self_signed(&key), |above| params.signed_by(&key, &above.issuer)).unwrap();
        Made { pem: made.pem(), issuer: Issuer::new(params, key) }
    }

    fn list(by: &Made, day: i64) -> String {
        let at = |day| rcgen::date_time_ymd(2026, 1, 1) + std::time::Duration::from_secs(86_400 * u64::try_from(day).unwrap());
        let params = CertificateRevocationListParams {
            this_update: at(day),
            next_update: at(day + 30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&by.issuer).unwrap().pem().unwrap()
    }

    fn fingerprint(made: &Made) -> String {
        Authorities::parse(&made.pem).unwrap().fingerprints().remove(0)
    }

    #[test]
    fn a_fingerprint_proves_its_root_and_what_is_below_and_nothing_beside_it() {
        let (root, evil) = (make("Puppet CA", true, None), make("Puppet CA", true, None));
        let below = make("Below", true, Some(&root));
        let lowest = make("Lowest", true, Some(&below));
        let node = make("node", false, Some(&root));
        let request =
            super::super::request(&"n".parse().unwrap(), &super::super::make_key().unwrap(), &Default::default()).unwrap();
        for bundle in [[&request, &root.pem, &evil.pem, &node.pem], [&evil.pem, &node.pem, &root.pem, &request]] {
            let all = Authorities::parse(&bundle.map(String::as_str).concat()).unwrap();
            for wanted in [fingerprint(&root), fingerprint(&root).replace(':', "").to_lowercase()] {
                let proved = all.proved_by(&wanted).unwrap();
                assert_eq!(proved.fingerprints(), [fingerprint(&root)]);
                assert_eq!(Authorities::parse(&proved.pem()).unwrap(), proved);
                assert!(proved.are_among(&all) && !all.are_among(&proved));
            }
            for wanted in ["", &fingerprint(&lowest), &super::super::fingerprint(&request).unwrap()] {
                assert!(matches!(all.proved_by(wanted), Err(KeyError::Fingerprint { .. })), "{wanted}");
            }
        }
        // The chain of an authority below, whichever order it comes in.
        let all = Authorities::parse(&[&lowest, &evil, &below, &root].map(|made| made.pem.as_str()).concat()).unwrap();
        let proved = all.proved_by(&fingerprint(&root)).unwrap();
        assert_eq!(proved.fingerprints(), [&root, &below, &lowest].map(fingerprint));
        assert!(matches!(all.proved_by(&fingerprint(&below)), Err(KeyError::NoRoot)));
        assert!(matches!(Authorities::parse(&request), Err(KeyError::Pem)));
    }

    #[test]
    fn lists_are_kept_only_when_a_trusted_authority_signed_them_and_they_are_no_older() {
        let (root, evil) = (make("Puppet CA", true, None), make("Puppet CA", true, None));
        let trusted = Authorities::parse(&root.pem).unwrap();
        let (old, new) = (list(&root, 1), list(&root, 2));
        let kept = trusted.check_lists(&format!("{}{new}junk", evil.pem), Some(&old)).unwrap();
        assert_eq!(kept.replace(['\r', '\n'], ""), new.replace(['\r', '\n'], ""));
        assert!(trusted.check_lists(&old, None).is_ok() && trusted.check_lists(&new, Some("damaged")).is_ok());
        let other = list(&make("Other", true, None), 1);
        for (bad, before) in [
            ("", None),
            ("<html>", None),
            (&*list(&evil, 3), None),
            (&*format!("{new}{other}"), None),
            (&*old, Some(&*new)),
            (&*new, Some(&*other)),
        ] {
            assert!(matches!(trusted.check_lists(bad, before), Err(KeyError::Lists { .. })), "{bad}");
        }
    }
}
