//! Running commands and conditions.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use direct_puppet_transport::protocol::{ResourceRef, TreePath};

use super::parameters::{Line, LogOutput, Parameters};
use super::program;
use crate::fs::FileKind;
use crate::provider::accounts::{AccountFiles, Group, Tools, User};
use crate::provider::command::{self, CommandError, CommandOutput, CommandSpec, DEFAULT_PATH};
use crate::provider::file::{blocking, errors};
use crate::provider::secrets::REDACTED;
use crate::provider::{Context, ProviderError};

/// How a shell says that there is no such command.
const NOT_FOUND: i32 = 127;

/// The program of util-linux that becomes another user.
const SET_PRIVILEGES: &str = "setpriv";

/// Sets a umask, which a process can only set for itself, and becomes the command.
const WITH_UMASK: &str = "umask \"$1\" && shift && exec \"$@\"";

/// Accounts as which a command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    uid: Option<u32>,
    gid: u32,
    /// Other groups; `None` when those of the agent stay.
    groups: Option<Vec<u32>>,
}

/// A path of `creates` at which something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Created {
    pub(super) path: TreePath,
    /// Whether a link leads there, or stands on the way.
    pub(super) by_link: bool,
}

/// Returns the first path at which something is, through links. Blocking.
fn first_there(context: &Context, paths: &[TreePath], resource: &ResourceRef) -> Result<Option<Created>, ProviderError> {
    for path in paths {
        let by_link = match context.stat(path) {
            Ok(None) => continue,
            Ok(Some(stat)) if stat.kind() != FileKind::Link => false,
            // Where a link is on the way, too, nothing is seen.
            Ok(Some(_)) | Err(_) => match context.root().resolve(path) {
                Ok(None) => continue,
                Ok(Some(_)) => true,
                Err(error) => return Err(errors::failed(resource, "look for what it creates", error)),
            },
        };
        return Ok(Some(Created { path: path.clone(), by_link }));
    }
    Ok(None)
}

/// Returns the groups of a user besides the one that a command runs with: its own one and those that it is a member of.
fn other_groups<'a>(groups: impl Iterator<Item = &'a Group>, user: &str, own: Option<u32>, gid: u32) -> Vec<u32> {
    let member_of = groups.filter(|group| group.members.iter().any(|member| member == user)).map(|group| group.gid);
    let mut others = Vec::new();
    for other in own.into_iter().chain(member_of) {
        if other != gid && !others.contains(&other) {
            others.push(other);
        }
    }
    others
}

impl Parameters {
    /// Looks up user and group; `None` when the command runs as the agent does.
    async fn identity(&self, context: &Context) -> Result<Option<Identity>, String> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(None);
        }
        let tools = Tools::new(context)?;
        let files = Arc::new(AccountFiles::default());
        let (of, from) = (context.clone(), Arc::clone(&files));
        let loaded = blocking(self.reference.clone(), move || {
            let users = from.users(&of).map_err(|error| errors::chain(&error));
            Ok(users.and_then(|users| Ok((users, from.groups(&of).map_err(|error| errors::chain(&error))?))))
        });
        let (users, groups) = loaded.await.map_err(|error| errors::chain(&error))??;
        let user = match &self.user {
            None => None,
            Some(name) => {
                let local = users.iter().find(|user| user.name == *name || user.uid.to_string() == *name).cloned();
                let user = match local {
                    Some(user) => Some(user),
                    None => tools.ask("passwd", name).await.and_then(|line| User::parse(&line)),
                };
                let known = user.map(|user| (user.uid, Some(user.gid), user.name));
                let numbered = || name.parse().ok().map(|uid| (uid, None, String::new()));
                Some(known.or_else(numbered).ok_or_else(|| format!("there is no user {name}: create it first"))?)
            }
        };
        let gid = match (&self.group, &user) {
            (Some(name), _) => {
                let local = groups.iter().find(|group| group.name == *name || group.gid.to_string() == *name).cloned();
                let group = match local {
                    Some(group) => Some(group),
                    None => tools.ask("group", name).await.and_then(|line| Group::parse(&line)),
                };
                let gid = group.map(|group| group.gid).or_else(|| name.parse().ok());
                gid.ok_or_else(|| format!("there is no group {name}: create it first"))?
            }
            (None, Some((uid, gid, _))) => gid.ok_or_else(|| format!("the group of user {uid} is not known: give group"))?,
            (None, None) => return Ok(None),
        };
        let others = user.as_ref().map(|(_, own, name)| other_groups(groups.iter(), name, *own, gid));
        let uid = user.map(|(uid, ..)| uid);
        let is_own =
            uid.is_none_or(|uid| uid == rustix::process::geteuid().as_raw()) && gid == rustix::process::getegid().as_raw();
        if is_own {
            return Ok(None);
        }
        if !rustix::process::geteuid().is_root() {
            return Err("only root can run commands as others: run the agent as root, or take user and group away".to_owned());
        }
        Ok(Some(Identity { uid, gid, groups: others }))
    }

    /// Returns the arguments with what comes before them: a umask, another user.
    async fn argv(&self, context: &Context, line: &Line) -> Result<Vec<OsString>, String> {
        let mut argv: Vec<OsString> = Vec::new();
        if let Some(umask) = &self.umask {
            argv.extend(["/bin/sh", "-c", WITH_UMASK, "sh", umask].map(OsString::from));
        }
        if let Some(identity) = self.identity(context).await? {
            let mut dirs = DEFAULT_PATH.split(':').map(|dir| Path::new(dir).join(SET_PRIVILEGES));
            let program = dirs.find(|path| path.is_file());
            let program =
                program.ok_or_else(|| format!("{SET_PRIVILEGES} of util-linux is needed for user and group: install it"))?;
            argv.push(program.into());
            argv.extend(identity.uid.map(|uid| format!("--reuid={uid}").into()));
            argv.push(format!("--regid={}", identity.gid).into());
            argv.push(match identity.groups {
                None => "--keep-groups".into(),
                Some(groups) if groups.is_empty() => "--clear-groups".into(),
                Some(groups) => {
                    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                    format!("--groups={}", groups.join(",")).into()
                }
            });
            argv.push("--".into());
        }
        argv.extend(line.argv.iter().cloned());
        Ok(argv)
    }

    async fn run(&self, context: &Context, line: &Line) -> Result<CommandOutput, ProviderError> {
        let root = context.root();
        let failed = |attempt: &str, reason: String| errors::failed(&self.reference, attempt, reason);
        self.look_before(context, line).map_err(|message| ProviderError::Said { message })?;
        let spec = CommandSpec {
            argv: self.argv(context, line).await.map_err(|reason| failed("find out who runs a command", reason))?,
            cwd: Some(self.cwd.as_ref().map_or_else(|| root.path().to_owned(), |cwd| root.display(cwd))),
            environment: self.environment.clone(),
            time_limit: self.timeout,
            ..CommandSpec::default()
        };
        let output = command::run(spec, context.cancel()).await.map_err(|error| match error {
            CommandError::Cancelled { .. } => ProviderError::Cancelled { resource: self.reference.clone() },
            CommandError::Start { source, .. } if self.sensitive => {
                failed("run a command", format!("[command redacted] could not be run: {source}"))
            }
            CommandError::TimedOut { limit, .. } if self.sensitive => {
                failed("run a command", format!("[command redacted] took longer than {limit:?} and was killed"))
            }
            _ if self.sensitive => failed("run a command", REDACTED.to_owned()),
            other => failed("run a command", errors::chain(&other)),
        })?;
        if output.status.code() == Some(NOT_FOUND) {
            let said = if self.sensitive { "[output redacted]".to_owned() } else { output.text() };
            let message = format!("{} ended with 127, as when a command is not found: {}", self.name_of(line), said.trim());
            return Err(ProviderError::Said { message: message.trim_end_matches([':', ' ']).to_owned() });
        }
        Ok(output)
    }

    /// Looks for what is needed to run a command, and says in Puppet's words what is not there.
    fn look_before(&self, context: &Context, line: &Line) -> Result<(), String> {
        if let Some(program) = line.program() {
            let looked = program::look(program, self.search());
            looked.map_err(|reason| if self.sensitive { reason.replace(program, REDACTED) } else { reason })?;
        }
        match &self.cwd {
            Some(cwd) if !context.root().display(cwd).is_dir() => {
                Err(format!("Working directory {} does not exist!", cwd.absolute()))
            }
            _ => Ok(()),
        }
    }

    /// Returns how messages name a command.
    fn name_of(&self, line: &Line) -> String {
        if self.sensitive { "[command redacted]".to_owned() } else { format!("'{}'", line.text) }
    }

    /// Returns the first path of `creates` at which something is.
    pub(super) async fn created(&self, context: &Context) -> Result<Option<Created>, ProviderError> {
        if self.creates.is_empty() {
            return Ok(None);
        }
        let (context, creates, reference) = (context.clone(), self.creates.clone(), self.reference.clone());
        blocking(self.reference.clone(), move || first_there(&context, &creates, &reference)).await
    }

    /// As [`Parameters::created`]. Blocking.
    pub(super) fn created_now(&self, context: &Context) -> Result<Option<Created>, ProviderError> {
        first_there(context, &self.creates, &self.reference)
    }

    /// Returns whether the conditions let the command run.
    pub(super) async fn is_due(&self, context: &Context) -> Result<bool, ProviderError> {
        Ok(self.created(context).await?.is_none() && self.commands_let(context).await?)
    }

    /// Returns whether the conditions that are commands let it.
    pub(super) async fn commands_let(&self, context: &Context) -> Result<bool, ProviderError> {
        for condition in &self.unless {
            if self.run(context, condition).await?.status.success() {
                return Ok(false);
            }
        }
        for condition in &self.only_if {
            if !self.run(context, condition).await?.status.success() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs a command, as often as it is to be tried, and returns why it failed.
    pub(super) async fn run_wanted(&self, context: &Context, line: &Line) -> Result<Result<(), String>, ProviderError> {
        let is_wanted = |output: &CommandOutput| output.status.code().is_some_and(|code| self.returns.contains(&code));
        let mut output = self.run(context, line).await?;
        for _ in 1..self.tries {
            if is_wanted(&output) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(self.try_sleep) => {}
                () = context.cancel().cancelled() => return Err(ProviderError::Cancelled { resource: self.reference.clone() }),
            }
            output = self.run(context, line).await?;
        }
        let is_good = is_wanted(&output);
        if self.log_output == LogOutput::Always || (self.log_output == LogOutput::OnFailure && !is_good) {
            match self.sensitive {
                true => context.say("returns", "[output redacted]"),
                false => context.say("returns", &output.text()),
            }
        }
        if is_good {
            return Ok(Ok(()));
        }
        let expected: Vec<String> = self.returns.iter().map(i32::to_string).collect();
        let ended = output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string());
        Ok(Err(format!("{} returned {ended} instead of one of [{}]", self.name_of(line), expected.join(","))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_keeps_its_own_group() {
        let lines = ["daemon:x:1:", "games:x:60:", "mail:x:8:daemon,bin", "daemon2:x:1:daemon"];
        let groups: Vec<Group> = lines.iter().filter_map(|line| Group::parse(line)).collect();
        assert_eq!(other_groups(groups.iter(), "daemon", Some(1), 60), [1, 8]);
        assert_eq!(other_groups(groups.iter(), "daemon", Some(1), 1), [8]);
        assert_eq!(other_groups(groups.iter(), "", None, 60), [0; 0]);
    }
}
