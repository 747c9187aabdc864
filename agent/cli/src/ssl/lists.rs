//! Revocation lists: got with the certificate, and anew every day.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use direct_puppet_transport::enrol::{Authorities, CaClient, EnrolError};

use super::enrol::{client, own_client};
use super::files::{self, Files};
use super::files_of;
use crate::connect;
use crate::options::Common;

/// How old the lists may be when a run begins; as Puppet's `crl_refresh_interval` where it is set so.
const REFRESHED_AFTER: Duration = Duration::from_secs(86_400);

/// Gets the lists, and keeps them when the authority that is trusted has signed them; returns whether they are others than before.
pub(super) async fn fetch(client: &CaClient, files: &Files) -> anyhow::Result<bool> {
    let sent = client.revocation_lists().await.context("could not get the revocation list")?;
    keep(&sent, files)
}

fn keep(sent: &str, files: &Files) -> anyhow::Result<bool> {
    let path = files.authority();
    let authority = files::read(&path)?.with_context(|| format!("{} is not there", path.display()))?;
    let authority = Authorities::parse(&authority).with_context(|| format!("{} cannot be used", path.display()))?;
    let before = files::read(&files.lists())?;
    let checked = authority.check_lists(sent, before.as_deref())?;
    // Written even if it is the same: its age tells when it was asked for.
    files::write(&files.lists(), &checked)?;
    Ok(before.as_ref() != Some(&checked))
}

/// Gets the lists anew when they are a day old; returns whether they are others than before. That they cannot be had is told, and stops
/// nothing: those that are there go on to count.
pub(super) async fn refresh_if_due(common: &Common) -> bool {
    match refresh(common).await {
        Ok(is_new) => is_new,
        Err(error) => {
            tracing::warn!("revocation list could not be got anew, and the one that is there stays in use: {error:#}");
            false
        }
    }
}

async fn refresh(common: &Common) -> anyhow::Result<bool> {
    if common.ssldir.is_none() || !common.server.as_ref().is_some_and(|url| url.starts_with("https:")) {
        return Ok(false);
    }
    let files = files_of(common)?;
    if !files.authority().exists() || !is_due(&files.lists(), SystemTime::now()) {
        return Ok(false);
    }
    let url = connect::url(common)?;
    let has_identity = files.certificate().exists() && files.key().exists();
    let client = if has_identity { own_client(common, &url, &files)? } else { client(&url, &files, true)? };
    match fetch(&client, &files).await {
        // Not every server passes the authority's paths on.
        Err(error) if matches!(error.downcast_ref(), Some(EnrolError::Refused { status: 404, .. })) => {
            tracing::debug!("server has no revocation list: {error:#}");
            Ok(false)
        }
        fetched => fetched,
    }
}

/// Whether a file is missing, a day old, or from a time that is still to come.
fn is_due(path: &Path, now: SystemTime) -> bool {
    let modified = std::fs::metadata(path).and_then(|found| found.modified());
    let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
    age.is_none_or(|age| age >= REFRESHED_AFTER)
}

#[cfg(test)]
mod tests {
    use direct_puppet_server_stub::ca::{Ca, Setup};

    use super::*;

    #[test]
    fn lists_are_kept_only_from_the_authority_that_is_trusted_and_asked_for_once_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), &"n".parse().unwrap());
        files.ensure_dirs().unwrap();
        let text = |name: &str, file: &str| std::fs::read_to_string(dir.path().join(name).join(file)).unwrap();
        for name in ["real", "evil"] {
            // Of the same name: it is the signature that tells them apart.
            Ca::create(dir.path().join(name), &Setup { name: "Puppet CA".to_owned() }, Default::default()).unwrap();
        }
        files::write(&files.authority(), &text("real", "ca_crt.pem")).unwrap();
        assert!(is_due(&files.lists(), SystemTime::now()));
        let good = text("real", "ca_crl.pem");
        assert!(keep(&good, &files).unwrap() && !keep(&good, &files).unwrap());
        for bad in ["", "<html>", &text("evil", "ca_crl.pem")] {
            assert!(keep(bad, &files).is_err(), "{bad}");
        }
        let kept = files::read(&files.lists()).unwrap().unwrap();
        assert_eq!(kept.lines().collect::<String>(), good.lines().collect::<String>());
        let now = SystemTime::now();
        assert!(!is_due(&files.lists(), now) && is_due(&files.lists(), now + REFRESHED_AFTER + Duration::from_secs(5)));
        assert!(is_due(&files.lists(), now - REFRESHED_AFTER));
    }
}
