//! The external node classifier: a program that says what a node is.
//!
//! It is run with the certname as its only argument and writes YAML, as for Puppet's `external_nodes`: `classes` (names, or names with
//! parameters), `parameters` (variables of the top scope) and `environment`. A node is compiled in the environment that it asks for; when
//! the program says another, the node is told so.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::error;
use super::options::PuppetOptions;
use crate::compile::{CompileError, CompileRequest};

/// Longest answer.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How often it is looked at.
const PACE: Duration = Duration::from_millis(50);

/// What a node is. Programs in Ruby may write symbols for keys.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Classification {
    /// Names, or names with parameters.
    #[serde(default, alias = ":classes", skip_serializing_if = "Option::is_none")]
    classes: Option<Classes>,
    #[serde(default, alias = ":parameters", skip_serializing_if = "Option::is_none")]
    parameters: Option<Map<String, Json>>,
    #[serde(default, alias = ":environment", skip_serializing)]
    environment: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
enum Classes {
    Names(Vec<String>),
    WithParameters(Map<String, Json>),
}

/// Asks the program, if there is one. Blocking.
pub(super) fn classify(options: &PuppetOptions, request: &CompileRequest) -> Result<Option<Classification>, CompileError> {
    let Some(program) = &options.classifier else { return Ok(None) };
    let certname = request.certname.as_str();
    let fail = |reason: String| {
        let message = format!("the node classifier {} did not say what {certname} is: {reason}", program.display());
        CompileError::at(&error::place(&request.code), message).of_server()
    };
    let mut command = Command::new(program);
    options.limit_environment(&mut command);
    let text = run(command, certname, options.time_limit).map_err(|error| fail(error.to_string()))?;
    let classification = parse(&text).map_err(fail)?;
    let asked = request.code.version.environment.as_str();
    match &classification.environment {
        Some(environment) if environment != asked => Err(CompileError::at(
            &error::place(&request.code),
            format!(
                "the node classifier puts {certname} into environment {environment}, and it asked for {asked}: run it with --environment \
                 {environment}, or change its classification"
            ),
        )
        .of_server()),
        _ => Ok(Some(classification)),
    }
}

fn parse(text: &str) -> Result<Classification, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("its YAML cannot be used: {error}");
    let read: Option<Map<String, Json>> = serde_saphyr::from_str(text).map_err(|error| unusable(&error))?;
    let read = read.ok_or_else(|| "it said nothing: it does not know the node".to_owned())?;
    let is_known = |name: &String| matches!(name.trim_start_matches(':'), "classes" | "parameters" | "environment");
    if !read.is_empty() && !read.keys().any(is_known) {
        return Err("its YAML has none of classes, parameters and environment".to_owned());
    }
    serde_json::from_value(Json::Object(read)).map_err(|error| unusable(&error))
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
    fn answers() {
        let read = parse("---\nclasses: [a, 'b::c']\nenvironment: production\n").unwrap();
        assert_eq!(read.classes, Some(Classes::Names(vec!["a".to_owned(), "b::c".to_owned()])));
        assert_eq!(read.environment.as_deref(), Some("production"));
        let read = parse("classes:\n  a:\n  b: {x: [1, two]}\nparameters: {site: 'north'}\n").unwrap();
        assert_eq!(
            serde_json::to_string(&read).unwrap(),
            r#"{"classes":{"a":null,"b":{"x":[1,"two"]}},"parameters":{"site":"north"}}"#
        );
        assert!(parse("").unwrap_err().contains("does not know"));
        assert!(parse("classes: 7\n").is_err());
        let symbols = parse("---\n:classes:\n- a\n:environment: test\n").unwrap();
        assert_eq!(symbols.environment.as_deref(), Some("test"));
        assert!(matches!(symbols.classes, Some(Classes::Names(names)) if names == ["a"]));
        for empty in ["--- {}\n", "{ }\n", "{} # nothing\n...\n", "---\nclasses:\nparameters:\n"] {
            assert_eq!(parse(empty).unwrap(), Classification::default(), "{empty}");
        }
        assert!(parse("class: [a]\n").unwrap_err().contains("none of classes"));
        assert!(parse("{").is_err());
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
