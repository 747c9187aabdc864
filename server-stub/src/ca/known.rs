//! What an authority knows: requests, certificates, and until when what stands above them is valid.

use std::collections::BTreeMap;

use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::Certname;
use x509_parser::x509::X509Name;

use super::crl::Lists;
use super::dir::read_text;
use super::request::Request;
use super::status::{self, CertificateStatus, Issued};
use super::{Ca, CaError, CaOptions, date, signer};

/// Until when what stands above all certificates is valid.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Expirations {
    /// Certificates of authorities, by name.
    #[serde(rename = "ca-certs")]
    ca_certs: BTreeMap<String, String>,
    /// Revocation lists, by the name of whose they are.
    crls: BTreeMap<String, String>,
}

impl Ca {
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

    /// Returns the names of whom a request waits. Blocking.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn waiting(&self) -> Result<Vec<Certname>, CaError> {
        self.dir.names("requests")
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

    pub(super) fn issued(&self, name: &Certname) -> Result<Option<Issued>, CaError> {
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

/// Returns the common name in a subject or an issuer; the whole where there is none.
pub(super) fn common_name(name: &X509Name<'_>) -> String {
    let first = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    first.map_or_else(|| name.to_string(), ToOwned::to_owned)
}
