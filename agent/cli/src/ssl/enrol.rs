//! From nothing to a certificate, and from one to the next.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use direct_puppet_transport::enrol::{
    Authorities, CaClient, EnrolError, EnrolTrust, Identity, certificate_ends, fingerprint, is_of_key, make_key, public_key_pem,
    request,
};
use direct_puppet_transport::protocol::Certname;

use super::files::{self, Files};
use super::{attributes, files_of, lists};
use crate::connect;
use crate::options::Common;
use crate::output;

/// A certificate is renewed when it has no more than this left; as Puppet 8.
const RENEWED_BEFORE_SECONDS: i64 = 30 * 86_400;

/// How long a node waits whose request the authority has no time for.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// How a certificate is asked for.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Enrolment {
    /// Ask every so many seconds whether the certificate is signed, 0 for once only
    #[arg(long, value_name = "SECONDS", help_heading = "Enrolment")]
    pub(crate) waitforcert: Option<u64>,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Enrolment")]
    pub(crate) maxwaitforcert: Option<u64>,
    /// Trust the authority with this SHA-256 fingerprint
    #[arg(long, value_name = "SHA256", help_heading = "Enrolment", conflicts_with_all = ["ca_file", "trust_on_first_use"])]
    pub(crate) ca_fingerprint: Option<String>,
    /// Trust the authority whose certificate is in this file
    #[arg(long, value_name = "FILE", help_heading = "Enrolment", conflicts_with = "trust_on_first_use")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Trust whichever authority answers the first time: whoever is between here and the server then can be the server
    #[arg(long, help_heading = "Enrolment")]
    pub(crate) trust_on_first_use: bool,
    /// What the request says beside the name, as Puppet's file [default: /etc/puppetlabs/puppet/csr_attributes.yaml]
    #[arg(long, value_name = "FILE", help_heading = "Enrolment")]
    pub(crate) csr_attributes: Option<PathBuf>,
    /// Other DNS names of this node
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Enrolment")]
    pub(crate) dns_alt_names: Vec<String>,
}

impl Enrolment {
    /// Whether anything of it was asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        let is_said = [self.waitforcert.is_some(), self.maxwaitforcert.is_some(), self.trust_on_first_use];
        let is_named = [self.ca_fingerprint.is_some(), self.ca_file.is_some(), self.csr_attributes.is_some()];
        is_said.into_iter().chain(is_named).any(|is_given| is_given) || !self.dns_alt_names.is_empty()
    }
}

/// Seconds since 1970 UTC.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}

/// Gets what is missing of the identity; with a certificate that is there, nothing is asked.
pub(crate) async fn ensure(common: &Common, enrolment: &Enrolment) -> anyhow::Result<()> {
    let files = files_of(common)?;
    let name = common.certname()?;
    if let (Some(certificate), Some(key), Some(_)) =
        (files::read(&files.certificate())?, files::read(&files.key())?, files::read(&files.authority())?)
    {
        if is_of_key(&certificate, &key, &name)
            .with_context(|| format!("{} or {} cannot be used", files.certificate().display(), files.key().display()))?
        {
            return known_authority(&files, enrolment).map(drop);
        }
        bail!(
            "{} is not the certificate of {name} for the key in {}: \"direct-puppet ssl clean\" removes both, and the authority must clean {name} too",
            files.certificate().display(),
            files.key().display()
        );
    }
    let url = connect::url(common)?;
    files.ensure_dirs()?;
    authority(&url, &files, enrolment).await?;
    let client = client(&url, &files, false)?;
    lists::fetch(&client, &files).await?;
    // From here on a server whose certificate is revoked is refused.
    let client = self::client(&url, &files, true)?;
    let key = own_key(&files)?;
    let signed = match client.certificate(&name).await? {
        Some(certificate) => certificate,
        None => {
            hand_in(common, enrolment, &files, &client, &key).await?;
            wait(common, enrolment, &files, &client).await?
        }
    };
    if !is_of_key(&signed, &key, &name)? {
        bail!(
            "authority has a certificate of {name} for another key: clean it there (direct-puppet-server ca clean --certname {name}), or bring the key that it is for"
        );
    }
    files::write(&files.certificate(), &signed)?;
    files::remove(&files.request())?;
    Ok(())
}

/// Returns whether an authority is known; it must be the one that the options name.
fn known_authority(files: &Files, enrolment: &Enrolment) -> anyhow::Result<bool> {
    let path = files.authority();
    let Some(known) = files::read(&path)? else { return Ok(false) };
    let other = || {
        format!(
            "{} holds the authority that this node trusts, which is another: if it is to trust the new one, remove what it has with \
             \"direct-puppet ssl clean --localca\" first",
            path.display()
        )
    };
    let unusable = |path: &Path| format!("{} cannot be used", path.display());
    let known = Authorities::parse(&known).with_context(|| unusable(&path))?;
    if let Some(wanted) = &enrolment.ca_fingerprint
        && !known.are_among(&known.proved_by(wanted).with_context(other)?)
    {
        return Err(anyhow!("{} has certificates that the fingerprint does not prove", path.display()).context(other()));
    }
    if let Some(file) = &enrolment.ca_file {
        let given = Authorities::parse(&given_authority(file)?).with_context(|| unusable(file))?;
        if !known.are_among(&given) {
            return Err(anyhow!("{} was given", file.display()).context(other()));
        }
    }
    Ok(true)
}

fn given_authority(file: &Path) -> anyhow::Result<String> {
    files::read(file)?.with_context(|| format!("{} is not there: give the authority's certificate in PEM", file.display()))
}

/// Brings the authority's certificate here, if it is not yet, and makes sure that it is the right one.
async fn authority(url: &str, files: &Files, enrolment: &Enrolment) -> anyhow::Result<()> {
    let path = files.authority();
    if known_authority(files, enrolment)? {
        return Ok(());
    }
    if let Some(file) = &enrolment.ca_file {
        let given = Authorities::parse(&given_authority(file)?).with_context(|| format!("{} cannot be used", file.display()))?;
        let text = given.pem();
        // What cannot be trusted must not be kept.
        CaClient::new(url, &EnrolTrust::Pem(text.clone()), None)?;
        return files::write(&path, &text);
    }
    if enrolment.ca_fingerprint.is_none() && !enrolment.trust_on_first_use {
        bail!(
            "no authority is known, as {} is not there: give its certificate with --ca-file, its fingerprint with --ca-fingerprint, or \
             have whoever answers trusted with --trust-on-first-use",
            path.display()
        );
    }
    let sent = CaClient::new(url, &EnrolTrust::OnFirstUse, None)?.authority().await?;
    let sent = Authorities::parse(&sent).context("what the server sent as the authority's certificate cannot be used")?;
    let trusted = match &enrolment.ca_fingerprint {
        // A server that nobody knows yet may have put others beside the right one.
        Some(wanted) => sent.proved_by(wanted)?,
        None => sent,
    };
    if enrolment.ca_fingerprint.is_none() {
        output::line(&format!("authority is trusted on first use: (SHA256) {}", trusted.fingerprints().join(", ")));
    }
    let text = trusted.pem();
    // The server that answered must be one that this authority vouches for.
    CaClient::new(url, &EnrolTrust::Pem(text.clone()), None)?
        .authority()
        .await
        .context("server is not one of the authority that it names")?;
    files::write(&path, &text)
}

/// Returns the key of this node, which is made if there is none.
fn own_key(files: &Files) -> anyhow::Result<String> {
    if let Some(key) = files::read(&files.key())? {
        return Ok(key);
    }
    let key = make_key()?;
    files::write_secret(&files.key(), &key)?;
    files::write(&files.public_key(), &public_key_pem(&key)?)?;
    Ok(key)
}

async fn hand_in(common: &Common, enrolment: &Enrolment, files: &Files, client: &CaClient, key: &str) -> anyhow::Result<()> {
    let name = common.certname()?;
    let attributes =
        enrolment.csr_attributes.clone().unwrap_or_else(|| PathBuf::from("/etc/puppetlabs/puppet/csr_attributes.yaml"));
    let mut options = attributes::load(&attributes)?;
    options.dns_alt_names.clone_from(&enrolment.dns_alt_names);
    let made = request(&name, key, &options)
        .with_context(|| format!("could not make a request with the key in {}", files.key().display()))?;
    files::write(&files.request(), &made)?;
    output::line(&format!("{name} asks for a certificate: (SHA256) {}", fingerprint(&made)?));
    let begun = tokio::time::Instant::now();
    let is_over = || enrolment.maxwaitforcert.is_some_and(|most| begun.elapsed() + BUSY_PAUSE > Duration::from_secs(most));
    let taken = loop {
        match client.submit(&name, made.clone()).await {
            // Many nodes ask at once.
            Err(EnrolError::Refused { status: 503, message }) if enrolment.waitforcert != Some(0) && !is_over() => {
                tracing::info!("authority takes no request for now: {message}");
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            taken => break taken,
        }
    };
    if let Err(EnrolError::Refused { .. }) = &taken {
        // It does not wait anywhere.
        files::remove(&files.request())?;
    }
    taken.context("request was not taken")
}

/// Hands the request in once more, as Puppet does in each round: the authority may have lost it, or somebody may have cleaned it there. Returns
/// the certificate, if it is signed meanwhile.
async fn hand_in_again(files: &Files, client: &CaClient, name: &Certname) -> anyhow::Result<Option<String>> {
    if let Ok(Some(certificate)) = client.certificate(name).await {
        return Ok(Some(certificate));
    }
    let Some(made) = files::read(&files.request())? else { return Ok(None) };
    match client.submit(name, made).await {
        Ok(()) | Err(EnrolError::Refused { status: 503, .. }) => Ok(None),
        Err(EnrolError::Transport(error)) if error.kind().is_retryable() => Ok(None),
        Err(refusal) => match client.certificate(name).await {
            // It was signed in between, and asked for a second time.
            Ok(Some(certificate)) => Ok(Some(certificate)),
            _ => Err(refusal).context("request was not taken"),
        },
    }
}

/// Waits until the certificate is signed.
async fn wait(common: &Common, enrolment: &Enrolment, files: &Files, client: &CaClient) -> anyhow::Result<String> {
    let name = common.certname()?;
    let begun = tokio::time::Instant::now();
    // As Puppet: two minutes.
    let pace = enrolment.waitforcert.unwrap_or(120);
    loop {
        match client.certificate(&name).await {
            Ok(Some(certificate)) => return Ok(certificate),
            Ok(None) => {}
            // A server that is just started again must not end the wait.
            Err(EnrolError::Transport(error)) if pace > 0 && error.kind().is_retryable() => {
                tracing::warn!(%error, "authority cannot be asked for now");
            }
            Err(error) => return Err(error.into()),
        }
        let is_over =
            enrolment.maxwaitforcert.is_some_and(|most| begun.elapsed() + Duration::from_secs(pace) > Duration::from_secs(most));
        if pace == 0 || is_over {
            bail!(
                "certificate of {name} is not signed yet: sign it (direct-puppet-server ca sign --certname {name}), then run this again"
            );
        }
        tracing::info!("certificate of {name} is not signed yet; asking again in {pace} seconds");
        tokio::time::sleep(Duration::from_secs(pace)).await;
        if let Some(certificate) = hand_in_again(files, client, &name).await? {
            return Ok(certificate);
        }
    }
}

pub(super) fn client(url: &str, files: &Files, with_lists: bool) -> anyhow::Result<CaClient> {
    let crl = with_lists.then(|| files.lists()).filter(|path| path.exists());
    Ok(CaClient::new(url, &EnrolTrust::Files { ca: files.authority(), crl }, None)?)
}

/// Returns a client that shows this node's certificate.
pub(super) fn own_client(_common: &Common, url: &str, files: &Files) -> anyhow::Result<CaClient> {
    let identity = Identity::Files { certificate: files.certificate(), key: files.key() };
    let crl = Some(files.lists()).filter(|path| path.exists());
    Ok(CaClient::new(url, &EnrolTrust::Files { ca: files.authority(), crl }, Some(&identity))?)
}

/// Gets a new certificate for the key.
pub(super) async fn renew(common: &Common) -> anyhow::Result<()> {
    let (files, url, name) = (files_of(common)?, connect::url(common)?, common.certname()?);
    let client = own_client(common, &url, &files)?;
    let renewed = client.renew().await.context("certificate was not renewed")?;
    let key = files::read(&files.key())?.with_context(|| format!("{} is not there", files.key().display()))?;
    if !is_of_key(&renewed, &key, &name)? {
        bail!("authority sent a certificate that is not of {name} for its key: it is not used");
    }
    let ends = |text: &str| certificate_ends(text).map(|(_, to)| to);
    let old = files::read(&files.certificate())?.map(|old| ends(&old)).transpose()?;
    if old.is_some_and(|old| ends(&renewed).is_ok_and(|new| new < old)) {
        bail!("authority sent a certificate that ends sooner than this node's: it is not used");
    }
    if files::read(&files.certificate())?.is_some_and(|old| old.trim() == renewed.trim()) {
        // It is new already.
        output::line(&format!("{name} keeps its certificate: the authority gave the same again"));
    }
    files::write(&files.certificate(), &renewed)?;
    lists::fetch(&client, &files).await.map(drop)
}

/// Renews the certificate when it ends soon; returns whether there is a new one. That it cannot be is told, and stops nothing: it is still
/// valid.
pub(super) async fn renew_if_due(common: &Common) -> bool {
    let is_due = || -> anyhow::Result<bool> {
        if common.ssldir.is_none() || !common.server.as_ref().is_some_and(|url| url.starts_with("https:")) {
            return Ok(false);
        }
        let Some(text) = files::read(&files_of(common)?.certificate())? else { return Ok(false) };
        let (from, to) = certificate_ends(&text)?;
        Ok(is_due_at(from, to, now()))
    };
    match is_due() {
        Ok(false) => {}
        Ok(true) => match renew(common).await {
            Ok(()) => {
                tracing::info!("certificate would have ended soon, and was renewed");
                return true;
            }
            Err(error) => tracing::warn!("certificate ends soon, and could not be renewed: {error:#}"),
        },
        Err(error) => tracing::warn!("could not tell whether the certificate ends soon: {error:#}"),
    }
    false
}

/// Whether a certificate is to be renewed: in its last month, or in the last third of one that is valid for less than a quarter. Not once
/// it has ended, for then the server lets nobody in with it.
const fn is_due_at(from: i64, to: i64, now: i64) -> bool {
    let third = (to - from) / 3;
    let before = if third < RENEWED_BEFORE_SECONDS { third } else { RENEWED_BEFORE_SECONDS };
    now > to - before && now < to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_month_or_third_and_not_after_its_end() {
        let day = 86_400;
        let years = 5 * 365 * day;
        assert_eq!(
            [0, years - 31 * day, years - 29 * day, years + 1].map(|now| is_due_at(0, years, now)),
            [false, false, true, false]
        );
        assert_eq!([5 * day, 7 * day].map(|now| is_due_at(0, 9 * day, now)), [false, true]);
    }

    #[test]
    fn an_authority_that_is_known_must_be_exactly_the_one_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), &"n".parse().unwrap());
        files.ensure_dirs().unwrap();
        let make = |name: &str| {
            let setup = direct_puppet_server_stub::ca::Setup { name: name.to_owned() };
            direct_puppet_server_stub::ca::Ca::create(dir.path().join(name), &setup, Default::default()).unwrap();
            std::fs::read_to_string(dir.path().join(name).join("ca_crt.pem")).unwrap()
        };
        let (real, evil) = (make("real"), make("evil"));
        let by_fingerprint = Enrolment { ca_fingerprint: Some(fingerprint(&real).unwrap()), ..Enrolment::default() };
        let by_file = Enrolment { ca_file: Some(dir.path().join("real/ca_crt.pem")), ..Enrolment::default() };
        assert!(!known_authority(&files, &by_fingerprint).unwrap());
        for enrolment in [by_fingerprint, by_file] {
            files::write(&files.authority(), &real).unwrap();
            assert!(known_authority(&files, &enrolment).unwrap());
            for bundle in [format!("{real}{evil}"), format!("{evil}{real}"), evil.clone()] {
                files::write(&files.authority(), &bundle).unwrap();
                let error = known_authority(&files, &enrolment).unwrap_err();
                assert!(error.to_string().contains("ssl clean --localca"), "{error:#}");
            }
        }
    }
}
