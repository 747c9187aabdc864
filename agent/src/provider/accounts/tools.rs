//! The commands of the `passwd` package, for the running system or another root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::provider::Context;
use crate::provider::command::{self, CommandSpec, Input};
use crate::provider::file::errors;

/// How long a command may take: locks that others hold, and large home directories.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Bytes of a name service's answer.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::provider) enum Tool {
    UserAdd,
    UserMod,
    UserDel,
    GroupAdd,
    GroupMod,
    GroupDel,
    GroupPassword,
    Age,
    Passwords,
}

impl Tool {
    const fn program(self) -> &'static str {
        match self {
            Self::UserAdd => "useradd",
            Self::UserMod => "usermod",
            Self::UserDel => "userdel",
            Self::GroupAdd => "groupadd",
            Self::GroupMod => "groupmod",
            Self::GroupDel => "groupdel",
            Self::GroupPassword => "gpasswd",
            Self::Age => "chage",
            Self::Passwords => "chpasswd",
        }
    }

    /// Returns the option that names another root. Some take the files below it only, others change into it.
    const fn root_option(self) -> &'static str {
        match self {
            Self::GroupPassword => "-Q",
            Self::Age | Self::Passwords => "-R",
            _ => "-P",
        }
    }
}

/// Runs them.
#[derive(Debug)]
pub(in crate::provider) struct Tools<'a> {
    context: &'a Context,
    /// `None` for the running system.
    root: Option<PathBuf>,
}

impl<'a> Tools<'a> {
    /// Returns the commands for the managed root.
    pub(in crate::provider) fn new(context: &'a Context) -> Result<Self, String> {
        let root = Some(context.root().path()).filter(|path| *path != Path::new("/"));
        let root = root.map(std::path::absolute).transpose().map_err(|error| format!("the managed root has no name: {error}"))?;
        Ok(Self { context, root })
    }

    /// Runs one with arguments; says what it said when it fails.
    pub(in crate::provider) async fn run(&self, tool: Tool, arguments: &[String]) -> Result<(), String> {
        self.run_with(tool, arguments, None).await
    }

    /// Runs one that reads what no list of processes shall show.
    pub(in crate::provider) async fn run_with(
        &self,
        tool: Tool,
        arguments: &[String],
        input: Option<Input>,
    ) -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err(format!("{} must be run as root", tool.program()));
        }
        let mut argv: Vec<OsString> = vec![tool.program().into()];
        if let Some(root) = &self.root {
            argv.extend([tool.root_option().into(), root.into()]);
        }
        argv.extend(arguments.iter().map(OsString::from));
        let spec = CommandSpec { argv, input, time_limit: Some(TIME_LIMIT), ..CommandSpec::default() };
        let output = command::run(spec, self.context.cancel()).await.map_err(|error| errors::chain(&error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{} ended with {}: {}", tool.program(), output.status, output.text().trim()))
    }

    /// Asks the name services of the running system, as LDAP, for an account that its files do not have; the line that a file
    /// would have.
    pub(in crate::provider) async fn ask(&self, database: &str, name: &str) -> Option<String> {
        if self.root.is_some() {
            return None;
        }
        let spec = CommandSpec {
            argv: ["getent", "--", database, name].into_iter().map(OsString::from).collect(),
            time_limit: Some(TIME_LIMIT),
            whole_output_bytes: Some(MAX_ANSWER_BYTES),
            ..CommandSpec::default()
        };
        // A system without getent has no other name services that could be asked.
        let output = command::run(spec, self.context.cancel()).await.ok().filter(|output| output.status.success())?;
        let answer = String::from_utf8_lossy(output.stdout()).into_owned();
        answer.lines().find(|line| line.split(':').next() == Some(name)).map(str::to_owned)
    }
}

/// Refuses names that commands could take for something else.
pub(in crate::provider) fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && !name.contains([':', ',', '\n', '\0', '/'])
        && !name.contains(char::is_whitespace)
}
