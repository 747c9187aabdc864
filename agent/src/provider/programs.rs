//! The programs of the machine that providers run: package managers, service managers.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::Context;
use super::command::{self, CommandOutput, CommandSpec, DEFAULT_PATH, Input};
use super::file::errors;

/// Bytes of an answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Runs programs of the running system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Programs<'a> {
    pub(super) context: &'a Context,
    /// Where programs are looked for; `None` for the usual places. Tests put their own there, and what these say then holds for
    /// the managed root too.
    pub(super) search: Option<&'a str>,
    pub(super) time_limit: Duration,
}

impl Programs<'_> {
    /// Returns whether the programs speak of the managed root.
    pub(super) fn are_of_root(&self) -> bool {
        self.search.is_some() || self.context.root().path() == Path::new("/")
    }

    /// Refuses what would touch the running system when another root is managed.
    pub(super) fn only_running(&self, what: &str) -> Result<(), String> {
        if self.are_of_root() {
            return Ok(());
        }
        Err(format!("{what} of another root than / are not managed: run the agent inside that root"))
    }

    fn path(&self) -> &str {
        self.search.unwrap_or(DEFAULT_PATH)
    }

    /// Returns whether there is such a program.
    pub(super) fn has(&self, program: &str) -> bool {
        if program.contains('/') {
            return Path::new(program).is_file();
        }
        self.path().split(':').any(|dir| Path::new(dir).join(program).is_file())
    }

    /// Runs a program to its end, whatever that is.
    pub(super) async fn run(&self, argv: &[&str], input: Option<Input>) -> Result<CommandOutput, String> {
        let words =
            [("DEBIAN_FRONTEND", "noninteractive"), ("APT_LISTBUGS_FRONTEND", "none"), ("APT_LISTCHANGES_FRONTEND", "none")];
        let mut environment: Vec<(String, String)> = words.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        // Scripts of packages and services count on it.
        environment.push(("HOME".to_owned(), "/root".to_owned()));
        environment.push(("PATH".to_owned(), self.path().to_owned()));
        let spec = CommandSpec {
            argv: argv.iter().map(OsString::from).collect(),
            environment,
            input,
            time_limit: Some(self.time_limit),
            whole_output_bytes: Some(MAX_ANSWER_BYTES),
            ..CommandSpec::default()
        };
        command::run(spec, self.context.cancel()).await.map_err(|error| errors::chain(&error))
    }

    /// Runs a program that must succeed; returns its standard output.
    pub(super) async fn answer(&self, argv: &[&str]) -> Result<String, String> {
        let output = self.run(argv, None).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(output.stdout()).into_owned());
        }
        Err(failure(argv, &output))
    }
}

/// Longest part of what a program said that an error repeats, in bytes.
const MAX_SAID_BYTES: usize = 4096;

/// Returns how a program failed: its name, how it ended and the end of what it said.
pub(super) fn failure(argv: &[&str], output: &CommandOutput) -> String {
    let text = output.text();
    let text = text.trim();
    let mut from = text.len().saturating_sub(MAX_SAID_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let program = argv.first().copied().unwrap_or_default();
    format!("{program} ended with {}: {}", output.status, &text[from..]).trim_end_matches([':', ' ']).to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::provider::file::tests::World;

    /// Programs that stand in for real ones, and a log of how they were called.
    pub(in crate::provider) struct Fakes {
        dir: TempDir,
    }

    impl Fakes {
        pub(in crate::provider) fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        /// Adds a program: a shell script that runs in the directory of the fakes after its call was logged.
        pub(in crate::provider) fn add(&self, name: &str, script: &str) {
            let path = self.dir.path().join(name);
            let dir = self.dir.path().display();
            std::fs::write(&path, format!("#!/bin/sh\ncd {dir}\necho \"{name} $*\" >> log\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        pub(in crate::provider) fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }

        /// The search path: the fakes, then what scripts need.
        pub(in crate::provider) fn path(&self) -> String {
            format!("{}:/usr/bin:/bin", self.dir.path().display())
        }

        /// Returns the calls since the last time this was asked.
        pub(in crate::provider) fn calls(&self) -> Vec<String> {
            let log = self.dir.path().join("log");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            drop(std::fs::remove_file(log));
            text.lines().map(|line| line.trim_end().to_owned()).collect()
        }
    }

    #[tokio::test]
    async fn a_failure_says_what_was_said() {
        let (world, fakes) = (World::new(), Fakes::new());
        fakes.add("tool", "echo out; echo broken >&2; exit 7");
        let (context, path) = (world.context(), fakes.path());
        let programs = Programs { context: &context, search: Some(&path), time_limit: Duration::from_secs(60) };
        let error = programs.answer(&["tool", "a"]).await.unwrap_err();
        assert!(error.contains("tool ended with exit status: 7") && error.contains("broken"), "{error}");
        assert!(programs.has("tool") && !programs.has("no-such-tool"));
        assert_eq!(fakes.calls(), ["tool a"]);
        let real = Programs { search: None, ..programs };
        assert!(real.only_running("packages").is_err(), "the root of a test is not /");
    }
}
