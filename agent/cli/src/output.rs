//! Printing, for people and for programs.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use direct_puppet_agent::puppet_report::{Line, lines};
use direct_puppet_agent::tree::ScanCounters;
use direct_puppet_agent::{Answer, Outcome, ResourceCounters, WireCounters};
use direct_puppet_transport::protocol::RunStatus;
use direct_puppet_transport::protocol::report::LogLevel;
use serde::Serialize;

use crate::console;
use crate::log::{self, LogFormat};

/// Prints one JSON object.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    // Not first into a string: a run that changed many files has many events.
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    unless_gone(written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())).context("could not print the result")
}

/// Prints lines as they are; to a terminal, without what could steer it.
pub(crate) fn raw(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let shown = if out.is_terminal() { text.split_inclusive('\n').map(shown_line).collect() } else { text.to_owned() };
    unless_gone(out.write_all(shown.as_bytes()).and_then(|()| out.flush())).context("could not print the result")
}

fn shown_line(line: &str) -> String {
    line.strip_suffix('\n').map_or_else(|| printable(line), |line| printable(line) + "\n")
}

/// Prints a line for people.
pub(crate) fn line(text: &str) {
    if let Err(error) = unless_gone(writeln!(io::stdout(), "{text}")) {
        tracing::warn!(%error, "could not print to standard output");
    }
}

/// A reader that went away, as `head` does, is no failure: the exit code still tells how it went.
fn unless_gone(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Prints an error with its causes; as JSON on standard output too, when that was asked for.
pub(crate) fn error(error: &anyhow::Error, is_json: bool) {
    if is_json {
        line(&serde_json::json!({ "status": "failed", "error": format!("{error:#}") }).to_string());
    }
    on_stderr(error);
}

/// Prints why a run did not happen; as JSON, with everything that a run's JSON has.
pub(crate) fn run_error(error: &anyhow::Error, is_json: bool) {
    if is_json {
        let counted = (ResourceCounters::default(), ScanCounters::default(), WireCounters::default());
        let (resources, scan, wire) = counted;
        line(
            &serde_json::json!({
                "status": RunStatus::Failed, "error": format!("{error:#}"), "catalog_id": null, "code_id": null, "version": null,
                "answer": null, "resources": resources, "scan": scan, "wire": wire, "events": [], "messages": [],
            })
            .to_string(),
        );
    }
    on_stderr(error);
}

fn on_stderr(error: &anyhow::Error) {
    let text = printable(&format!("{error:#}"));
    console::on_stderr(LogLevel::Err, &format!("Error: {text}"));
}

/// Prints what a plan would do: diffs, then a tree of changes with their counts as the last line.
pub(crate) fn plan(outcome: &Outcome) {
    diffs(outcome);
    // What would be changed is in the tree.
    let is_told =
        |line: &Line| line.status.is_none_or(|status| status.failed || status.skipped) || line.level <= LogLevel::Warning;
    lines(&outcome.report).filter(is_told).filter(|line| !is_closing(line)).for_each(|line| console::print(&line));
    line(crate::tree::tree(&outcome.report.resource_statuses).trim_end_matches('\n'));
}

/// Whether a line says how long an apply took, which a plan has none of.
fn is_closing(line: &Line) -> bool {
    line.is_own() && line.level == LogLevel::Notice
}

fn diffs(outcome: &Outcome) {
    if outcome.diffs.is_empty() {
        return;
    }
    let places: HashMap<&str, _> =
        outcome.report.resource_statuses.iter().map(|status| (status.resource.as_str(), status.place.as_ref())).collect();
    for (resource, diff) in &outcome.diffs {
        let path = match places.get(resource.as_str()) {
            Some(Some(place)) => place.path_of(resource),
            _ => resource.clone(),
        };
        if log::format() != LogFormat::Text {
            console::note(&format!("{path}/content:\n{diff}"));
            continue;
        }
        line(&format!("Notice: {}/content:", printable(&path)));
        diff.lines().for_each(|text| line(&printable(text)));
    }
}

/// Prints what a run did.
pub(crate) fn outcome(outcome: &Outcome) {
    diffs(outcome);
    lines(&outcome.report).for_each(|line| console::print(&line));
    console::note(&summary_line(outcome));
}

/// What came from a catalog or a file must not steer the terminal, nor look like another line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, next| {
        match next {
            '\t' => out.push(next),
            _ if next.is_control() => out.extend(next.escape_default()),
            _ => out.push(next),
        }
        out
    })
}

fn summary_line(outcome: &Outcome) -> String {
    let status = match outcome.status {
        RunStatus::Unchanged => "unchanged",
        RunStatus::Changed => "changed",
        _ => "failed",
    };
    let answer = match outcome.answer {
        Some(Answer::Current) => "current",
        Some(Answer::Catalog) => "new from the server",
        Some(Answer::Cached) => "from the cache",
        Some(Answer::Given) => "from the file",
        _ => "unknown",
    };
    let (resources, scan, wire) = (&outcome.resources, &outcome.scan, &outcome.wire);
    format!(
        "{}: {} resources, {} out of sync, {} changed, {} failed, {} skipped; catalog {answer}; \
         {} files listed, {} opened; {} contents fetched, {} bytes sent, {} received",
        if outcome.noop { "noop" } else { status },
        resources.total,
        resources.out_of_sync,
        resources.changed,
        resources.failed,
        resources.skipped,
        scan.listed,
        scan.opened,
        wire.contents_received,
        wire.bytes_sent,
        wire.bytes_received,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_title_steers_the_terminal() {
        assert_eq!(printable("a\tb \u{e4}\u{1b}[2J\nError: forged"), "a\tb \u{e4}\\u{1b}[2J\\nError: forged");
    }
}
