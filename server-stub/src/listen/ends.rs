//! Revocation lists that have ended: they are used on, for without them all nodes would be cut off, and the log says so.

use std::collections::BTreeSet;
use std::path::Path;

use rustls::pki_types::CertificateRevocationListDer;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

const FORM: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// When a list ends, and whose it is.
type End = (OffsetDateTime, String);

/// When the lists of a file end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ends(BTreeSet<End>);

impl Ends {
    pub(super) fn of(lists: &[CertificateRevocationListDer<'_>]) -> Self {
        let mut ends = BTreeSet::new();
        for der in lists {
            // One that cannot be read was refused when the verifier was made from it.
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            if let Some(next) = list.next_update() {
                ends.insert((next.to_datetime(), list.tbs_cert_list.issuer.to_string()));
            }
        }
        Self(ends)
    }
}

/// The lists that are in use, and which of them were told to have ended.
#[derive(Debug)]
pub(super) struct Watch {
    ends: Ends,
    told: BTreeSet<End>,
}

impl Watch {
    pub(super) const fn new(ends: Ends) -> Self {
        Self { ends, told: BTreeSet::new() }
    }

    /// Takes the lists that are in use from now on.
    pub(super) fn replace(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// Returns what is to be told of lists in `file`: each that has ended once, and again when it comes back after another.
    pub(super) fn news(&mut self, file: &Path, now: OffsetDateTime) -> Vec<String> {
        let ended: BTreeSet<End> = self.ends.0.iter().filter(|(at, _)| *at <= now).cloned().collect();
        let news = ended.difference(&self.told).map(|(at, whose)| told(file, *at, whose)).collect();
        self.told = ended;
        news
    }
}

fn told(file: &Path, at: OffsetDateTime, whose: &str) -> String {
    let at = at.format(&FORM).unwrap_or_else(|_| at.unix_timestamp().to_string());
    format!(
        "the revocation list of {whose} in {} ended at {at}, and is used on: whoever was revoked since is let in; put a newer one of this \
         authority there, which is taken without a restart (a server with --cadir makes its own anew by itself)",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    fn list(next_update: OffsetDateTime) -> CertificateRevocationListDer<'static> {
        let mut params = CertificateParams::default();
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        let params = CertificateRevocationListParams {
            this_update: next_update - Duration::days(1),
            next_update,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&issuer).unwrap().into()
    }

    #[test]
    fn a_list_that_has_ended_is_told_once_with_its_file_and_its_end() {
        let (early, late) = (datetime!(2026-01-01 0:00 UTC), datetime!(2026-06-01 0:00 UTC));
        let file = Path::new("/ssl/crl.pem");
        let mut watch = Watch::new(Ends::of(&[list(early), list(late)]));
        assert_eq!(watch.news(file, early - Duration::seconds(1)), Vec::<String>::new());
        let news = watch.news(file, early);
        assert!(news.len() == 1 && news[0].contains("/ssl/crl.pem ended at 2026-01-01 00:00:00 UTC"), "{news:?}");
        assert_eq!(watch.news(file, late - Duration::seconds(1)), Vec::<String>::new());
        assert_eq!(watch.news(file, late).len(), 1);
        // What is in its place now is another matter, and so is the old one when it is put back.
        watch.replace(Ends::of(&[list(late + Duration::days(1))]));
        assert_eq!(watch.news(file, late), Vec::<String>::new());
        watch.replace(Ends::of(&[list(early)]));
        assert_eq!(watch.news(file, late).len(), 1);
    }
}
