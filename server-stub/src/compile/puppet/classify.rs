//! The external node classifier: a program that says what a node is.
//!
//! It is run with the certname as its only argument and writes YAML, as for Puppet's `external_nodes`: `classes` (names, or names with
//! parameters), `parameters` (variables of the top scope) and `environment`, read by Puppet's own library. A node is compiled in the
//! environment that it asks for; when the program says another, the node is told so. Agents of Puppet are given the catalog of
//! that one, and change to it.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_transport::protocol::{Certname, Environment};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::error;
use super::options::PuppetOptions;
use crate::compile::{CompileError, CompileRequest};

/// Longest answer.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How often it is looked at.
const PACE: Duration = Duration::from_millis(50);

/// What it has said of a node. `worker.rb` reads it with Puppet's own library, whose YAML is of version 1.1.
#[derive(Debug, Serialize)]
pub(super) struct Classification<'a> {
    /// The program, for messages.
    program: &'a Path,
    /// YAML.
    text: String,
}

/// Asks the program, if there is one. Blocking.
pub(super) fn classify<'a>(
    options: &'a PuppetOptions,
    request: &CompileRequest,
) -> Result<Option<Classification<'a>>, CompileError> {
    let Some(program) = &options.classifier else { return Ok(None) };
    let certname = request.certname.as_str();
    let mut command = Command::new(program);
    options.limit_environment(&mut command);
    match run(command, certname, options.time_limit) {
        Ok(text) => Ok(Some(Classification { program, text })),
        Err(reason) => {
            let message = format!("the node classifier {} did not say what {certname} is: {reason}", program.display());
            Err(CompileError::at(&error::place(&request.code), message).of_server())
        }
    }
}

/// The one word of an answer that is looked at here. Programs in Ruby may write symbols for keys and values.
#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default, alias = ":environment")]
    environment: Option<String>,
}

/// Returns the environment that the program puts a node into, if there is a program and it says one. Blocking.
pub(super) fn environment(options: &PuppetOptions, certname: &Certname) -> Result<Option<Environment>, String> {
    let Some(program) = &options.classifier else { return Ok(None) };
    let fail = |reason: String| format!("the node classifier {} did not say what {certname} is: {reason}", program.display());
    let mut command = Command::new(program);
    options.limit_environment(&mut command);
    let text = run(command, certname.as_str(), options.time_limit).map_err(|error| fail(error.to_string()))?;
    let said: Option<Said> = serde_saphyr::from_str(&text).map_err(|error| fail(format!("its YAML cannot be used: {error}")))?;
    let named = said.and_then(|said| said.environment);
    let parsed = named.map(|name| name.trim_start_matches(':').parse());
    parsed.transpose().map_err(|error| fail(format!("its environment is none: {error}")))
}

fn run(mut command: Command, certname: &str, limit: Duration) -> io::Result<String> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PACE))?;
    let deadline = Instant::now() + limit;
    command.arg(certname).stdin(Stdio::null()).stdout(Stdio::from(OwnedFd::from(theirs))).process_group(0);
    let mut process = command.spawn()?;
    // The command holds the other end as well.
    drop(command);
    let group = Pid::from_child(&process);
    let mut read = || -> io::Result<Vec<u8>> {
        let (mut text, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match ours.read(&mut buffer) {
                Ok(0) => return Ok(text),
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
            if text.len() > MAX_ANSWER_BYTES {
                return Err(io::Error::other(format!("it said more than {MAX_ANSWER_BYTES} bytes")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("it took longer than {} seconds", limit.as_secs())));
            }
        }
    };
    let text = read();
    if text.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = wait(&mut process, deadline)?;
    let text = text?;
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    String::from_utf8(text).map_err(|_| io::Error::other("what it said is not UTF-8"))
}

/// Waits for what may have closed its output and go on.
fn wait(process: &mut std::process::Child, deadline: Instant) -> io::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = kill_process_group(Pid::from_child(process), Signal::KILL);
            return process.wait();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enc");
        let of = |text: &str| {
            std::fs::write(&path, format!("#!/bin/sh\ncat <<'E'\n{text}E\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let options = PuppetOptions { classifier: Some(path.clone()), ..PuppetOptions::new(dir.path().join("work")) };
            environment(&options, &"n1".parse().unwrap())
        };
        assert_eq!(of("---\n:environment: :test\n:classes:\n- a\n").unwrap(), Some("test".parse().unwrap()));
        assert_eq!(of("environment: other\nparameters: {1: {t: 12:30:00}}\n").unwrap(), Some("other".parse().unwrap()));
        assert_eq!(of("classes: [a]\n").unwrap(), None);
        assert_eq!(of("").unwrap(), None);
        assert!(of("environment: ../x\n").unwrap_err().contains("its environment is none"));
        assert!(of("{").unwrap_err().contains("its YAML cannot be used"));
        assert_eq!(environment(&PuppetOptions::new(dir.path().join("work")), &"n1".parse().unwrap()), Ok(None));
    }

    #[test]
    fn programs_that_misbehave() {
        let sh = |script: &str, limit| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("enc");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            run(Command::new(&path), "n1", limit)
        };
        let long = Duration::from_secs(30);
        assert_eq!(sh("echo \"classes: [$1]\"", long).unwrap(), "classes: [n1]\n");
        assert!(sh("exit 3", long).unwrap_err().to_string().contains("exit status: 3"));
        let begun = Instant::now();
        assert!(sh("sleep 100 & wait", Duration::from_millis(200)).unwrap_err().to_string().contains("took longer"));
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(sh("exec yes", long).unwrap_err().to_string().contains("more than"));
    }
}
