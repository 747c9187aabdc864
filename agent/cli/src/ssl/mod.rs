//! `ssl`: a node's identity, from the first key to the renewal of its certificate, in Puppet's `ssldir`.

mod attributes;
mod enrol;
mod files;
mod lists;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use direct_puppet_transport::enrol::{certificate_ends, fingerprint, is_of_key};

use crate::options::Common;
use crate::output;

pub(crate) use enrol::Enrolment;

use enrol::ensure;
use files::Files;

/// Where Puppet has it.
const DEFAULT_SSLDIR: &str = "/etc/puppetlabs/puppet/ssl";

/// Verbs of `ssl`.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Get a certificate: make a key, ask for a certificate, wait until it is signed.
    Bootstrap(Enrolment),
    /// Show the certificate, or the request, with its fingerprint.
    Show,
    /// Check that key, certificate and authority go together, and are valid now.
    Verify,
    /// Get a new certificate for the key, before the old one ends.
    Renew,
    /// Remove this node's key, certificate and request; with --localca what is known of the authority too.
    Clean(CleanArguments),
}

/// Arguments of `ssl clean`.
#[derive(Debug, Args)]
pub(crate) struct CleanArguments {
    /// Remove the authority's certificate and revocation list too
    #[arg(long)]
    localca: bool,
}

pub(crate) async fn ssl(common: &Common, verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Bootstrap(enrolment) => {
            ensure(common, &enrolment).await?;
            show(common)
        }
        Verb::Show => show(common),
        Verb::Verify => verify(common),
        Verb::Renew => {
            enrol::renew(common).await?;
            show(common)
        }
        Verb::Clean(arguments) => clean(common, &arguments),
    }
}

/// Makes this node ready to ask its server: enrols it if that is wanted, and renews a certificate that ends soon. Returns the options with
/// the directory in which the node's identity is, if it is wanted there.
pub(crate) async fn ready(common: &Common, enrolment: &Enrolment) -> anyhow::Result<Common> {
    let mut common = common.clone();
    if enrolment.is_wanted() {
        common.ssldir = Some(ssldir(&common));
        ensure(&common, enrolment).await?;
    }
    keep_fresh(&common).await;
    Ok(common)
}

/// Renews a certificate that ends soon, and gets revocation lists that are a day old anew; returns whether there is something new. What
/// fails is told, and stops nothing.
pub(crate) async fn keep_fresh(common: &Common) -> bool {
    let is_renewed = enrol::renew_if_due(common).await;
    lists::refresh_if_due(common).await || is_renewed
}

/// Returns the directory of the node's identity.
fn ssldir(common: &Common) -> PathBuf {
    common.ssldir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SSLDIR))
}

fn files_of(common: &Common) -> anyhow::Result<Files> {
    Ok(Files::new(&ssldir(common), &common.certname()?))
}

fn show(common: &Common) -> anyhow::Result<u8> {
    let files = files_of(common)?;
    let (kind, path, text) = match (files::read(&files.certificate())?, files::read(&files.request())?) {
        (Some(text), _) => ("signed", files.certificate(), text),
        (None, Some(text)) => ("requested", files.request(), text),
        (None, None) => bail!("this node has no certificate and no request: make one with \"direct-puppet ssl bootstrap\""),
    };
    let named = |path: &Path| format!("{} cannot be used", path.display());
    let fingerprint = fingerprint(&text).with_context(|| named(&path))?;
    let name = common.certname()?;
    if common.json {
        output::json(&serde_json::json!({ "name": name, "state": kind, "fingerprint": fingerprint, "file": path }))?;
    } else {
        output::line(&format!("{name} {kind} (SHA256) {fingerprint}"));
    }
    Ok(0)
}

fn verify(common: &Common) -> anyhow::Result<u8> {
    let files = files_of(common)?;
    let must = |path: PathBuf| files::read(&path)?.with_context(|| format!("{} is not there", path.display()));
    let (certificate, key) = (must(files.certificate())?, must(files.key())?);
    must(files.authority())?;
    let name = common.certname()?;
    if !is_of_key(&certificate, &key, &name)? {
        bail!("{} is not the certificate of {name} for the key in {}", files.certificate().display(), files.key().display());
    }
    let (from, to) = certificate_ends(&certificate)?;
    let now = enrol::now();
    if now < from || now > to {
        bail!("certificate is not valid at the time that this machine's clock says: check the clock, or renew the certificate");
    }
    // Building the client checks that key and certificate go together, and that the authority and the lists can be read.
    enrol::own_client(common, "https://localhost", &files)?;
    let days = (to - now) / 86_400;
    if common.json {
        output::json(&serde_json::json!({ "name": name, "file": files.certificate(), "valid_days": days }))?;
    } else {
        output::line(&format!("{name} has a certificate for its key, valid for {days} days more"));
    }
    Ok(0)
}

fn clean(common: &Common, arguments: &CleanArguments) -> anyhow::Result<u8> {
    let files = files_of(common)?;
    let mut paths = vec![files.certificate(), files.request(), files.public_key(), files.key()];
    if arguments.localca {
        paths.extend([files.authority(), files.lists()]);
    }
    let mut removed = Vec::new();
    for path in paths {
        if files::remove(&path)? {
            removed.push(path);
        }
    }
    if common.json {
        output::json(&serde_json::json!({ "removed": removed }))?;
    } else if removed.is_empty() {
        output::line("there was nothing to remove");
    } else {
        removed.iter().for_each(|path| output::line(&format!("removed {}", path.display())));
    }
    Ok(0)
}
