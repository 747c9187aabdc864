//! How lines are written: for people, as JSON, or to the journal of systemd.

use std::fmt;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;

use direct_puppet_agent::puppet_report::{Line, iso8601};
use direct_puppet_transport::protocol::report::LogLevel;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where the journal listens: systemd's documented address of its native protocol.
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";

/// The longest message that is sent to the journal, in bytes: a datagram of more may be refused.
const MAX_JOURNAL_MESSAGE: usize = 32 * 1024;

/// The longest other field, in bytes. All together stay far below Linux' default for a socket, 208 KiB.
const MAX_JOURNAL_FIELD: usize = 4 * 1024;

/// Who speaks, in the journal.
const IDENTIFIER: &str = "direct-puppet";

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people, as Puppet's console has them.
    #[default]
    Text,
    /// One JSON object a line: what runs tell on standard output, other messages on standard error.
    Json,
    /// To the journal of systemd, with fields.
    Journald,
}

/// The format of this process.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets the format, once.
pub(crate) fn set(format: LogFormat) {
    FORMAT.get_or_init(|| format);
}

pub(crate) fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or_default()
}

/// Returns a line of a run as JSON.
pub(crate) fn json_line(line: &Line<'_>) -> Json {
    json!({
        "time": iso8601(line.time_unix_nanos), "level": line.level, "source": line.source, "message": line.message, "tags": line.tags(),
        "file": line.status.and_then(|status| status.file.as_deref()), "line": line.status.and_then(|status| status.line),
    })
}

/// Sends a line of a run to the journal.
pub(crate) fn to_journal(socket: &Path, line: &Line<'_>) -> io::Result<()> {
    let (file, number) = (line.status.and_then(|status| status.file.clone()), line.status.and_then(|status| status.line));
    let message = if line.is_own() { line.message.to_string() } else { format!("{}: {}", line.source, line.message) };
    let resource = line.status.map(|status| status.resource.clone());
    let fields = [
        ("PUPPET_SOURCE", Some(line.source.to_string())),
        ("PUPPET_RESOURCE", resource),
        ("PUPPET_FILE", file),
        ("PUPPET_LINE", number.map(|number| number.to_string())),
        ("PUPPET_TAGS", Some(line.tags().join(","))),
    ];
    let fields: Vec<_> = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    send(socket, line.level, &message, &fields)
}

/// Sends one message by the native protocol: a field a line, or, when it has line breaks itself, its name, its length and its bytes.
/// Fields that are too long are cut. A journal that is too busy to take it at once is an error: nobody waits for it.
pub(crate) fn send(socket: &Path, level: LogLevel, message: &str, fields: &[(&str, &str)]) -> io::Result<()> {
    let priority = (level as u8).to_string();
    let message = cut(message, MAX_JOURNAL_MESSAGE);
    let own = [("MESSAGE", message), ("PRIORITY", priority.as_str()), ("SYSLOG_IDENTIFIER", IDENTIFIER)];
    let fields = fields.iter().map(|(name, value)| (*name, cut(value, MAX_JOURNAL_FIELD)));
    let mut datagram = Vec::with_capacity(message.len() + 512);
    for (name, value) in own.into_iter().chain(fields) {
        datagram.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(&datagram, socket).map(drop)
}

/// Returns the beginning of a text, of at most so many bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rfind(|&at| text.is_char_boundary(at)).unwrap_or_default();
    &text[..end]
}

/// Sends a message that no run tells to the journal; what it does not take is written, so that it is not lost.
fn to_journal_or(socket: &Path, level: LogLevel, message: &str, writer: &mut impl fmt::Write) -> fmt::Result {
    match send(socket, level, message, &[]) {
        Ok(()) => Ok(()),
        Err(error) => {
            let message = format!("{message} (could not be sent to the journal: {error})");
            let line = Line { level, source: "Puppet".into(), message: message.into(), status: None, time_unix_nanos: 0 };
            writeln!(writer, "{}", crate::output::printable(&line.to_string()))
        }
    }
}

/// Writes messages that no run tells as JSON, or sends them to the journal.
pub(crate) struct Machine;

/// Collects the fields of a message.
#[derive(Default)]
struct Fields(Map<String, Json>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl<S, N> FormatEvent<S, N> for Machine
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => LogLevel::Err,
            tracing::Level::WARN => LogLevel::Warning,
            tracing::Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
        if format() == LogFormat::Journald {
            let more: String = fields.0.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            return to_journal_or(Path::new(JOURNAL), level, &(message + &more), &mut writer);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time = iso8601(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let mut object = json!({"time": time, "level": level, "source": event.metadata().target(), "message": message});
        if let Some(object) = object.as_object_mut() {
            object.extend(fields.0);
        }
        writeln!(writer, "{object}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(source: &'a str, message: &'a str) -> Line<'a> {
        Line { level: LogLevel::Notice, source: source.into(), message: message.into(), status: None, time_unix_nanos: 0 }
    }

    #[test]
    fn json_is_one_line_whatever_the_message() {
        let text = json_line(&line("/File[a]/ensure", "two\nlines")).to_string();
        assert!(!text.contains('\n'), "{text}");
        assert!(
            text.contains(r#""level":"notice""#) && text.contains(r#""time":"1970-01-01T00:00:00.000000000+00:00""#),
            "{text}"
        );
    }

    #[test]
    fn the_journal_gets_fields_and_its_own_form_of_line_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let journal = UnixDatagram::bind(&socket).unwrap();
        to_journal(&socket, &line("/File[a]/ensure", "created")).unwrap();
        let mut buffer = [0; 65_536];
        let length = journal.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        for field in [
            "MESSAGE=/File[a]/ensure: created\n",
            "PRIORITY=5\n",
            "SYSLOG_IDENTIFIER=direct-puppet\n",
            "PUPPET_SOURCE=/File[a]/ensure\n",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        to_journal(&socket, &line("Puppet", "a\nb=c")).unwrap();
        let length = journal.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"MESSAGE\n\x05\0\0\0\0\0\0\0a\nb=c\nPRIORITY="), "{:?}", &buffer[..40]);
        to_journal(&socket, &line("Puppet", &"\u{e4}".repeat(100_000))).unwrap();
        assert!(journal.recv(&mut buffer).unwrap() < MAX_JOURNAL_MESSAGE + 512);
        to_journal(&socket, &line(&"s".repeat(300_000), "x")).unwrap();
        let length = journal.recv(&mut buffer).unwrap();
        assert!(length < 3 * MAX_JOURNAL_FIELD + MAX_JOURNAL_MESSAGE, "{length}");
        assert!(to_journal(&dir.path().join("nobody"), &line("Puppet", "x")).is_err());
    }

    #[test]
    fn what_the_journal_does_not_take_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = String::new();
        to_journal_or(&dir.path().join("nobody"), LogLevel::Warning, "two\nlines", &mut written).unwrap();
        assert!(written.contains("two") && written.contains("could not be sent to the journal"), "{written}");
        assert_eq!(written.matches('\n').count(), 1, "{written}");
        // One that listens and does not read is not waited for.
        let socket = dir.path().join("socket");
        let _journal = UnixDatagram::bind(&socket).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let refused = (0..100_000).find_map(|_| send(&socket, LogLevel::Notice, "x", &[]).err());
            tell.send(refused.map(|error| error.kind()))
        });
        assert_eq!(told.recv_timeout(std::time::Duration::from_secs(20)), Ok(Some(io::ErrorKind::WouldBlock)));
    }
}
