//! A certificate authority for one test.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use direct_puppet_transport::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// An authority with a directory in Puppet's layout, removed when it is dropped.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    next_serial: u64,
}

/// From when to when a certificate is valid, in years.
pub type Years = (i32, i32);
/// Valid whenever a test runs.
pub const VALID: Years = (2020, 2120);
/// Valid once.
pub const EXPIRED: Years = (2010, 2011);
/// Valid one day.
pub const NOT_YET: Years = (2119, 2120);

impl Authority {
    /// Makes an authority.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes keys and files")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Puppet CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for below in ["certs", "private_keys"] {
            fs::create_dir(directory.path().join(below)).unwrap();
        }
        fs::write(directory.path().join("certs/ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer, next_serial: 2 }
    }

    /// An ssldir as Puppet lays it out.
    #[must_use]
    pub fn ssldir(&self) -> &Path {
        self.directory.path()
    }

    /// Issues a certificate with that common name and alternative name; returns its files and its serial number.
    pub fn issue(&mut self, name: &str, alternative: &str, (from, to): Years) -> (TlsFiles, u64) {
        self.issue_with(name, alternative, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        })
    }

    /// The same for a certificate that ends soon, to the second.
    pub fn issue_until(&mut self, name: &str, alternative: &str, end: SystemTime) -> TlsFiles {
        self.issue_with(name, alternative, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), end.into());
        })
        .0
    }

    /// The same for one whose issuer, which stands between it and this authority, ends soon.
    pub fn issue_under(&mut self, name: &str, alternative: &str, end: SystemTime) -> TlsFiles {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), end.into());
        let between = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        let own = std::mem::replace(&mut self.issuer, between);
        let (files, _) = self.issue(name, alternative, VALID);
        let between = std::mem::replace(&mut self.issuer, own);
        let chain = fs::read_to_string(&files.certificate).unwrap() + &between.pem();
        fs::write(&files.certificate, chain).unwrap();
        files
    }

    fn issue_with(&mut self, name: &str, alternative: &str, period: impl FnOnce(&mut CertificateParams)) -> (TlsFiles, u64) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        period(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |below: &str| self.ssldir().join(below).join(format!("serial{serial}.pem"));
        let files =
            TlsFiles { ca: self.ssldir().join("certs/ca.pem"), certificate: path("certs"), key: path("private_keys"), crl: None };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        (files, serial)
    }

    /// Issues a valid certificate for `name`, which reaches a server at `alternative`, and puts it where Puppet has it.
    pub fn install(&mut self, name: &str, alternative: &str) {
        let (files, _) = self.issue(name, alternative, VALID);
        for (file, below) in [(files.certificate, "certs"), (files.key, "private_keys")] {
            fs::rename(file, self.ssldir().join(below).join(format!("{name}.pem"))).unwrap();
        }
    }

    /// Writes a revocation list.
    #[must_use]
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.ssldir().join("crl.pem");
        fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }
}
