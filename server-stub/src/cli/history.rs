//! `diff`, `rollback`, `checkout`, `verify`, `gc`: what was ever published.

use std::path::PathBuf;

use clap::Args;
use direct_puppet_server_stub::code::{Author, Version};
use direct_puppet_server_stub::history::{
    Change, CollectRequest, Collected, Difference, InStore, RollbackRequest, Verified, VersionName,
};
use direct_puppet_server_stub::publish::EnvironmentResult;
use direct_puppet_transport::protocol::{CodeId, Environment};

use super::admin::{self, Question};
use super::options::Data;
use super::{print_json, print_line};

const DAY: u64 = 24 * 3600;

/// Which environment.
#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    data: Data,
    /// The environment
    #[arg(long, value_name = "ENV", default_value_t)]
    environment: Environment,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    #[command(flatten)]
    which: Which,
    /// A version: live, a counter as 1.7, or a code_id
    from: VersionName,
    /// Another
    #[arg(default_value = "live")]
    to: VersionName,
}

pub(super) async fn diff(arguments: DiffArguments) -> anyhow::Result<u8> {
    let DiffArguments { which: Which { data, environment }, from, to } = arguments;
    let differences: Vec<Difference> = admin::ask(&data.data, None, Question::Diff { environment, from, to }).await?;
    if data.json {
        print_json(&differences)?;
    } else {
        for Difference { path, change } in &differences {
            let letter = match change {
                Change::Added => 'A',
                Change::Removed => 'D',
                Change::Content => 'M',
                Change::Mode => 'P',
                _ => 'T',
            };
            print_line(&format!("{letter} {path}"));
        }
    }
    Ok(0)
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    #[command(flatten)]
    which: Which,
    /// The version to go back to: a counter as 1.7, or a code_id
    to: VersionName,
    /// Why
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
    /// Who
    #[arg(long, value_name = "NAME", default_value = "")]
    author: String,
    /// Asked again with the same id, nothing is made live twice
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only if this is live; else nothing is made live
    #[arg(long, value_name = "CODE_ID")]
    if_live: Option<CodeId>,
    /// Check, but make nothing live
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn rollback(arguments: RollbackArguments) -> anyhow::Result<u8> {
    let RollbackArguments { which: Which { data, environment }, to, message, author, request_id, if_live, dry_run } = arguments;
    let author = Author { name: author, email: String::new() };
    let request = RollbackRequest { environment, to, message, author, request_id, if_live, dry_run };
    let is = if dry_run { "would be" } else { "is" };
    let result: EnvironmentResult = admin::ask(&data.data, None, Question::Rollback(request)).await?;
    if data.json {
        print_json(&result)?;
    } else {
        print_line(&super::publish::line(&result, is));
    }
    Ok(0)
}

/// Arguments of `checkout`.
#[derive(Debug, Args)]
pub(super) struct CheckoutArguments {
    #[command(flatten)]
    which: Which,
    /// The version: live, a counter as 1.7, or a code_id
    version: VersionName,
    /// Where to write it; must not be there yet
    dir: PathBuf,
}

pub(super) async fn checkout(arguments: CheckoutArguments) -> anyhow::Result<u8> {
    let CheckoutArguments { which: Which { data, environment }, version, dir } = arguments;
    // Without a slash at its end, which would ask for a directory that is there.
    let dir: PathBuf = std::path::absolute(dir)?.components().collect();
    let question = Question::Checkout { environment, version, dir: dir.clone() };
    let version: Version = admin::ask(&data.data, None, question).await?;
    if data.json {
        print_json(&version)?;
    } else {
        print_line(&format!("{} {} of {} is in {}", version.environment, version.code_id, version.version, dir.display()));
    }
    Ok(0)
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    data: Data,
}

pub(super) async fn verify(arguments: VerifyArguments) -> anyhow::Result<u8> {
    let verified: Verified = admin::ask(&arguments.data.data, None, Question::Verify).await?;
    if arguments.data.json {
        print_json(&verified)?;
    } else {
        tell("", &verified);
        if let Some(there) = &verified.in_store {
            tell("shared store: ", there);
        }
    }
    let is_good =
        |verified: &Verified| verified.problems.is_empty() && verified.audit_lines.is_empty() && verified.damaged.is_empty();
    Ok(u8::from(!is_good(&verified) || verified.in_store.as_deref().is_some_and(|there| !is_good(there))))
}

fn tell(place: &str, verified: &Verified) {
    for problem in &verified.problems {
        let path = problem.path.as_deref().unwrap_or("manifest");
        print_line(&format!("{place}{} {} {path}: {}", problem.environment, problem.code_id, problem.reason));
    }
    for line in &verified.audit_lines {
        print_line(&format!("{place}audit.jsonl: line {line} was edited, or what stood before it was taken out"));
    }
    for damaged in &verified.damaged {
        print_line(&format!("{place}{damaged}"));
    }
    let (versions, contents) = (verified.versions, verified.contents);
    let problems = verified.problems.len() + verified.audit_lines.len() + verified.damaged.len();
    print_line(&format!("{place}{versions} versions, {contents} contents read, {problems} problems"));
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub(super) struct GcArguments {
    #[command(flatten)]
    data: Data,
    /// Versions stay for so many days after another took their place
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    grace_days: u64,
    /// Tell, but remove nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn gc(arguments: GcArguments) -> anyhow::Result<u8> {
    let GcArguments { data, grace_days, dry_run } = arguments;
    let request = CollectRequest { grace_seconds: grace_days.saturating_mul(DAY), dry_run };
    let done: Collected = admin::ask(&data.data, None, Question::Collect(request)).await?;
    if data.json {
        print_json(&done)?;
    } else {
        for (environment, code_id) in &done.collected {
            print_line(&format!("{environment} {code_id}{}", if dry_run { " would go" } else { "" }));
        }
        let (went, Collected { kept, contents, bytes, .. }) = (done.collected.len(), &done);
        match dry_run {
            true => print_line(&format!("{went} versions to go, {kept} kept; contents are looked for when they are removed")),
            false => print_line(&format!("{went} versions collected, {kept} kept; {contents} contents, {bytes} bytes removed")),
        }
        if let Some(InStore { collected, kept, contents }) = &done.in_store {
            let went = collected.len();
            print_line(&format!("shared store: {went} versions to go, {kept} kept; {contents} contents removed"));
        }
    }
    Ok(0)
}
