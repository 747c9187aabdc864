//! Which revision of its source an environment was staged from.
//!
//! Deploy tools leave it behind: r10k as `signature` in `.r10k-deploy.json`, g10k in `.g10k-deploy.json`, and git in `.git`. These
//! files change at every deploy, changed or not, and are no part of what is published.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Deserialize;

use crate::error::ServerError;

/// What deploy tools write about a deploy, at the top of an environment.
pub(super) const DEPLOY_RECORDS: [&str; 2] = [".r10k-deploy.json", ".g10k-deploy.json"];

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// Longest revision, in bytes: room for a tag.
pub(super) const MAX_REVISION_BYTES: usize = 200;

#[derive(Deserialize)]
struct DeployRecord {
    signature: Option<String>,
    /// `false` when the tool did not come to its end; both write it.
    deploy_success: Option<bool>,
}

/// Refuses what a deploy tool says it could not deploy as a whole. Blocking.
pub(super) fn refuse_failed_deploy(dir: &Path) -> Result<(), ServerError> {
    let has_failed = |name: &&&str| {
        let record = read(&dir.join(name), OFlags::empty()).and_then(|text| serde_json::from_slice::<DeployRecord>(&text).ok());
        record.is_some_and(|record| record.deploy_success == Some(false))
    };
    match DEPLOY_RECORDS.iter().find(has_failed) {
        Some(name) => {
            let problem = format!("{name} (its tool says that the deploy failed: deploy again, then publish)");
            Err(ServerError::Unpublishable { paths: vec![problem] })
        }
        None => Ok(()),
    }
}

/// Returns the revision that `dir`, which is staged as `named`, says it is of; `None` when nothing there says so. Blocking.
pub(super) fn revision(dir: &Path, named: &Path) -> Option<String> {
    let recorded = DEPLOY_RECORDS.iter().find_map(|name| {
        let record: DeployRecord = serde_json::from_slice(&read(&dir.join(name), OFlags::NOFOLLOW)?).ok()?;
        record.signature
    });
    // A control repo holds its environments in `environments`, or is one.
    let mut places = std::iter::once(dir).chain(named.ancestors().take(3));
    recorded.or_else(|| places.find_map(|dir| head(&dir.join(".git")))).filter(|text| is_revision(text))
}

/// Returns the commit that is checked out by a git directory, or by a file that names one (gitrepository-layout(5)).
fn head(git: &Path) -> Option<String> {
    let elsewhere = || Some(git.parent()?.join(text(git)?.strip_prefix("gitdir: ")?));
    let git = elsewhere().unwrap_or_else(|| git.to_owned());
    let head = text(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else { return commit(head) };
    if name.split('/').any(|part| part == "..") {
        return None;
    }
    // Worktrees share their branches.
    let git = text(&git.join("commondir")).map_or_else(|| git.clone(), |common| git.join(common));
    text(&git.join(name)).and_then(commit).or_else(|| {
        let packed = text(&git.join("packed-refs"))?;
        let line = packed.lines().find(|line| line.split_once(' ').is_some_and(|(_, found)| found == name))?;
        commit(line.split_once(' ')?.0.to_owned())
    })
}

/// Returns a text if it is the name of a commit (SHA-1 or SHA-256): what else a link in staging may lead to is not for others to read.
fn commit(text: String) -> Option<String> {
    (matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8(read(path, OFlags::NOFOLLOW)?).ok()?.trim().to_owned())
}

/// Reads a file; with `NOFOLLOW` a link is none. Nobody is waited for who may write to a fifo.
fn read(path: &Path, follow: OFlags) -> Option<Vec<u8>> {
    let flags = follow | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let found = file.metadata().ok()?;
    if !found.is_file() || found.len() > MAX_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok().map(|_| bytes)
}

/// Whether a text is fit to be shown as a revision: a hash, or a name as git allows.
pub(super) fn is_revision(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_REVISION_BYTES && text.chars().all(|char| char.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_deploy_tool_is_asked_first_and_git_next() {
        let dir = tempfile::tempdir().unwrap();
        let environment = dir.path().join("environments/production");
        fs::create_dir_all(&environment).unwrap();
        let git = dir.path().join(".git");
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        fs::write(git.join("HEAD"), format!("{one}\n")).unwrap();
        assert_eq!(revision(&environment, &environment), Some(one.clone()));
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(revision(&environment, &environment), None);
        fs::write(git.join("packed-refs"), format!("# pack-refs\n{one} refs/heads/main\n")).unwrap();
        assert_eq!(revision(&environment, &environment), Some(one));
        fs::write(git.join("refs/heads/main"), format!("{two}\n")).unwrap();
        assert_eq!(revision(&environment, &environment), Some(two.clone()));
        fs::write(environment.join(".r10k-deploy.json"), r#"{"name":"production","signature":"abc","started_at":"x"}"#).unwrap();
        assert_eq!(revision(&environment, &environment), Some("abc".to_owned()));
        assert!(refuse_failed_deploy(&environment).is_ok());
        fs::write(environment.join(".r10k-deploy.json"), r#"{"name":"production","signature":"abc","deploy_success":false}"#)
            .unwrap();
        assert!(refuse_failed_deploy(&environment).unwrap_err().paths()[0].starts_with(".r10k-deploy.json"));
        // Damaged, or odd: the next one is asked, or nobody.
        fs::write(environment.join(".r10k-deploy.json"), "{").unwrap();
        assert_eq!(revision(&environment, &environment), Some(two));
        fs::write(git.join("HEAD"), "ref: ../../../etc/passwd").unwrap();
        assert_eq!(revision(&environment, &environment), None);
        fs::write(git.join("HEAD"), "\u{1b}[31m").unwrap();
        assert_eq!(revision(&environment, &environment), None);
    }

    #[test]
    fn what_a_link_leads_to_is_not_told_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (environment, secret) = (dir.path().join("production"), dir.path().join("token"));
        fs::create_dir_all(environment.join(".git")).unwrap();
        fs::write(&secret, "s3cret").unwrap();
        let head = environment.join(".git/HEAD");
        fs::write(&head, "s3cret").unwrap();
        assert_eq!(revision(&environment, &environment), None, "that is no commit");
        fs::write(&secret, "4".repeat(40)).unwrap();
        fs::remove_file(&head).unwrap();
        std::os::unix::fs::symlink(&secret, &head).unwrap();
        assert_eq!(revision(&environment, &environment), None);
        fs::write(&secret, r#"{"signature":"s3cret"}"#).unwrap();
        std::os::unix::fs::symlink(&secret, environment.join(".r10k-deploy.json")).unwrap();
        assert_eq!(revision(&environment, &environment), None);
        assert!(refuse_failed_deploy(&environment).is_ok());
        fs::write(&secret, r#"{"deploy_success":false}"#).unwrap();
        assert!(refuse_failed_deploy(&environment).is_err(), "that is told of a deploy, wherever it lies");
        fs::remove_file(&head).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &head, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(revision(&environment, &environment), None);
    }

    #[test]
    fn a_worktree_is_asked_where_its_repository_is() {
        let dir = tempfile::tempdir().unwrap();
        let (environment, git) = (dir.path().join("production"), dir.path().join("repository.git"));
        fs::create_dir_all(&environment).unwrap();
        fs::create_dir_all(git.join("worktrees/production")).unwrap();
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(environment.join(".git"), "gitdir: ../repository.git/worktrees/production\n").unwrap();
        fs::write(git.join("worktrees/production/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(git.join("worktrees/production/commondir"), "../..\n").unwrap();
        fs::write(git.join("refs/heads/main"), "3".repeat(40)).unwrap();
        assert_eq!(revision(&environment, &environment), Some("3".repeat(40)));
        fs::write(environment.join(".git"), "gitdir: nowhere").unwrap();
        assert_eq!(revision(&environment, &environment), None);
    }
}
