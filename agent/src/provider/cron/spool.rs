//! Crontabs as the `crontab` command gives and takes them.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use direct_puppet_transport::protocol::TreePath;

use super::parameters::Parameters;
use super::table::Table;
use crate::fs::Stat;
use crate::provider::Context;
use crate::provider::command::{self, CommandOutput, CommandSpec, Input};
use crate::provider::text_file::is_settled;

/// Longest crontab that is read, in bytes: cron itself takes no larger one.
const MAX_CRONTAB_BYTES: usize = 16 * 1024 * 1024;

/// How long `crontab` may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Where cron keeps crontabs, on Debian and elsewhere: looked at to find out whether one has changed.
const DIRECTORIES: [&str; 2] = ["var/spool/cron/crontabs", "var/spool/cron"];

type Failure = Box<dyn Error + Send + Sync>;

/// A crontab as it was read.
#[derive(Debug)]
pub(super) struct Crontab {
    pub(super) text: Vec<u8>,
    pub(super) table: Table,
}

impl Crontab {
    fn new(text: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { table: Table::parse(&text), text })
    }
}

/// A crontab, and what its file was when it was read.
type Known = (Stat, Arc<Crontab>);

/// Crontabs that were read, with what their files were then.
#[derive(Debug, Default)]
pub(super) struct Spool {
    known: Mutex<HashMap<Option<String>, Known>>,
}

impl Spool {
    /// Returns a crontab; an empty one when there is none, or no such user yet.
    pub(super) async fn read(&self, context: &Context, parameters: &Parameters) -> Result<Arc<Crontab>, Failure> {
        // Not worth a thread for each job.
        let stat = stat(context, parameters);
        if let Some(text) = self.known(stat, parameters) {
            return Ok(text);
        }
        let output = crontab(context, parameters, "-l", None).await?;
        let said = output.text();
        if !output.status.success() && !says_none(&said) {
            return Err(format!("crontab -l said: {}", said.trim()).into());
        }
        let text = Crontab::new(if output.status.success() { output.stdout().to_vec() } else { Vec::new() });
        if let Some(stat) = stat.filter(is_settled) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(owner(parameters), (stat, Arc::clone(&text)));
        }
        Ok(text)
    }

    /// Returns a crontab that was read before and has not changed since. Blocking.
    pub(super) fn unchanged(&self, context: &Context, parameters: &Parameters) -> Option<Arc<Crontab>> {
        self.known(stat(context, parameters), parameters)
    }

    fn known(&self, stat: Option<Stat>, parameters: &Parameters) -> Option<Arc<Crontab>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&owner(parameters)).filter(|(known, _)| Some(*known) == stat).map(|(_, text)| Arc::clone(text))
    }

    /// Puts another crontab in place.
    pub(super) async fn write(&self, context: &Context, parameters: &Parameters, text: Vec<u8>) -> Result<(), Failure> {
        let output = crontab(context, parameters, "-", Some(Input(text))).await?;
        if output.status.success() { Ok(()) } else { Err(format!("crontab said: {}", output.text().trim()).into()) }
    }
}

/// Returns whether `crontab` says that there is none, or no such user: each cron has words of its own.
fn says_none(said: &str) -> bool {
    let words = ["no crontab for", "unknown user", "unknown to", "does not exist", "not allowed to"];
    // Debian: crontab:  user `web' unknown
    words.iter().any(|words| said.contains(words)) || (said.contains("user `") && said.contains("' unknown"))
}

/// Returns whose crontabs there are; only root's when their directory cannot be looked into. Blocking.
pub(super) fn owners(context: &Context) -> Vec<String> {
    let list = |directory: &&str| context.root().list(&directory.parse().ok()?).ok();
    let mut owners = vec!["root".to_owned()];
    // The first is below the second: where it is there, files of the second are none of users.
    for entry in DIRECTORIES.iter().find_map(list).unwrap_or_default() {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        // Some are being written.
        if !name.starts_with('.') && !name.starts_with("tmp.") && !owners.contains(&name) {
            owners.push(name);
        }
    }
    owners
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Returns whose crontab it is; `None` when it is that of the user who runs this process, and that is not root.
fn owner(parameters: &Parameters) -> Option<String> {
    parameters.owner.clone().or_else(|| is_root().then(|| "root".to_owned()))
}

/// Returns what the file of a crontab is, where it is one that can be seen. Blocking.
fn stat(context: &Context, parameters: &Parameters) -> Option<Stat> {
    let owner = owner(parameters)?;
    let path = |directory: &str| directory.parse::<TreePath>().ok()?.child(owner.as_bytes()).ok();
    DIRECTORIES.iter().filter_map(|directory| path(directory)).find_map(|path| context.stat(&path).ok().flatten())
}

async fn crontab(context: &Context, parameters: &Parameters, verb: &str, input: Option<Input>) -> Result<CommandOutput, Failure> {
    if context.root().path() != std::path::Path::new("/") {
        let root = context.root().path().display();
        return Err(format!("the crontab command works on the running system alone, not below {root}: leave Cron out").into());
    }
    let mut argv: Vec<OsString> = vec!["crontab".into()];
    // Only root may name a user, and some versions mind when the user names itself.
    if let Some(owner) = owner(parameters).filter(|owner| !(owner == "root" && is_root())) {
        argv.extend(["-u".into(), owner.into()]);
    }
    argv.push(verb.into());
    let spec = CommandSpec {
        argv,
        time_limit: Some(TIME_LIMIT),
        input,
        whole_output_bytes: Some(MAX_CRONTAB_BYTES),
        ..CommandSpec::default()
    };
    Ok(command::run(spec, context.cancel()).await?)
}
