//! A certificate authority for one comparison, in Puppet's layout.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Makes an authority in `ssldir`, with a certificate for each name.
pub(crate) fn make(ssldir: &Path, names: &[&str]) -> anyhow::Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "Bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    for below in ["certs", "private_keys"] {
        fs::create_dir_all(ssldir.join(below))?;
    }
    fs::write(ssldir.join("certs/ca.pem"), issuer.pem())?;
    for name in names {
        let mut params = CertificateParams::new(vec![(*name).to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, *name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(ssldir.join(format!("certs/{name}.pem")), certificate.pem())?;
        fs::write(ssldir.join(format!("private_keys/{name}.pem")), key.serialize_pem())?;
    }
    Ok(())
}
