//! Printing, for people and for programs.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use direct_puppet_agent::puppet_report::Line;
use direct_puppet_agent::tree::ScanCounters;
use direct_puppet_agent::{Answer, LineListener, Outcome, ResourceCounters, WireCounters};
use direct_puppet_transport::protocol::RunStatus;
use direct_puppet_transport::protocol::report::LogLevel;
use serde::Serialize;

use crate::{console, progress};

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
    if let Err(error) = unless_gone(progress::without_bar(|| writeln!(io::stdout(), "{text}"))) {
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
    let text = printable_lines(&format!("{error:#}"));
    console::on_stderr(LogLevel::Err, &format!("Error: {text}"));
}

/// Returns what prints the lines of a run while it goes on; nothing does when JSON is printed at its end.
pub(crate) fn listener(is_json: bool) -> LineListener {
    if is_json { LineListener::default() } else { LineListener::new(console::print) }
}

/// As [`listener`], for a plan: what would be changed is in the tree that is printed at the end.
pub(crate) fn plan_listener(is_json: bool) -> LineListener {
    if is_json {
        return LineListener::default();
    }
    LineListener::new(|line: &Line<'_>| {
        if is_told_before_the_tree(line) {
            console::print(line);
        }
    })
}

fn is_told_before_the_tree(line: &Line<'_>) -> bool {
    let is_in_the_tree = !line.is_own() && line.level != LogLevel::Err && line.message.ends_with("(noop)");
    // The run's own notice says how long an apply took, which a plan has none of.
    !is_in_the_tree && line.level <= LogLevel::Warning || line.is_diff() || line.is_own() && line.level != LogLevel::Notice
}

/// Prints what a plan would do, as a tree with the counts as its last line.
pub(crate) fn plan(outcome: &Outcome) {
    line(crate::tree::tree(&outcome.report.resource_statuses).trim_end_matches('\n'));
}

/// Prints how a run went; what it did was printed meanwhile.
pub(crate) fn outcome(outcome: &Outcome) {
    console::note(&summary_line(outcome));
}

/// Returns a line of a run as it is shown: the message may have several lines, what says it has none.
pub(crate) fn shown(line: &Line<'_>) -> String {
    let message = line.message.strip_suffix('\n').unwrap_or(&line.message);
    let (source, message) = (printable(&line.source).into(), printable_lines(message).into());
    Line { source, message, ..line.clone() }.to_string()
}

/// As [`printable`], for text whose line feeds are meant.
fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// What came from a catalog or a file must not steer the terminal; without line feeds it cannot look like another line either.
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

    fn of<'a>(level: LogLevel, source: &'a str, message: &'a str) -> Line<'a> {
        Line { level, source: source.into(), message: message.into(), status: None, time_unix_nanos: 0 }
    }

    #[test]
    fn a_message_has_its_lines_and_its_source_has_one() {
        let line = of(LogLevel::Notice, "/Notify[a\nb]/message", "l1\n\tl2\u{1b}[2J\r\n");
        assert_eq!(shown(&line), "Notice: /Notify[a\\nb]/message: l1\n\tl2\\u{1b}[2J\\r");
        assert_eq!(shown(&of(LogLevel::Notice, "Puppet", "l1\nl2")), "Notice: l1\nl2");
        assert_eq!(shown(&of(LogLevel::Notice, "/File[/a]/content", "\n--- /a\n")), "Notice: /File[/a]/content: \n--- /a");
    }

    #[test]
    fn a_plan_tells_before_its_tree_what_is_not_in_it() {
        let notice = LogLevel::Notice;
        for (line, is_told) in [
            (of(notice, "/File[/a]/content", "\n--- /a\n"), true),
            (of(notice, "/File[/a]/content", "current_value 'a', should be 'b' (noop)"), false),
            (of(notice, "/Exec[a]", "Would have triggered 'refresh' from 1 event"), false),
            (of(LogLevel::Warning, "/File[/a]/mode", "current_value '0600', should be '0644' (noop)"), false),
            (of(LogLevel::Err, "/Exec[a]", "Could not evaluate: no"), true),
            (of(LogLevel::Warning, "/Exec[b]", "Skipping because of failed dependencies"), true),
            (of(LogLevel::Info, "Puppet", "Applying configuration version '1'"), true),
            (of(notice, "Puppet", "Applied catalog in 0.10 seconds"), false),
        ] {
            assert_eq!(is_told_before_the_tree(&line), is_told, "{line}");
        }
    }
}
