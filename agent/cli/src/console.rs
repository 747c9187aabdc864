//! Lines for people, coloured as Puppet colours them: on a terminal only, and not when `NO_COLOR` is set.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use direct_puppet_agent::puppet_report::Line;
use direct_puppet_transport::protocol::report::LogLevel;

use crate::log::{self, LogFormat};
use crate::{output, progress};

/// Whether colours are wanted where a terminal is.
static IS_COLOURED: OnceLock<bool> = OnceLock::new();

/// Says whether colours are wanted, from the values of `NO_COLOR` and `TERM`. Without this they are not.
pub(crate) fn set_colours(no_color: Option<&std::ffi::OsStr>, term: Option<&std::ffi::OsStr>) {
    let is_coloured = no_color.is_none_or(std::ffi::OsStr::is_empty) && term.is_none_or(|term| term != "dumb");
    IS_COLOURED.get_or_init(|| is_coloured);
}

/// Prints a line where Puppet does: warnings and worse on standard error. What matters less than notice is shown when so much is logged.
pub(crate) fn print(line: &Line<'_>) {
    let is_shown = match line.level {
        LogLevel::Info => tracing::enabled!(tracing::Level::INFO),
        LogLevel::Debug => tracing::enabled!(tracing::Level::DEBUG),
        _ => true,
    };
    if !is_shown {
        return;
    }
    match log::format() {
        LogFormat::Text => {}
        LogFormat::Json => return output::line(&log::json_line(line).to_string()),
        LogFormat::Journald => {
            if let Err(error) = log::to_journal(log::JOURNAL.as_ref(), line) {
                on_stderr(line.level, &output::printable(&format!("{line} (could not be sent to the journal: {error})")));
            }
            return;
        }
    }
    let text = output::shown(line);
    if line.level <= LogLevel::Warning {
        on_stderr(line.level, &text);
    } else {
        output::line(&coloured(&text, line.level, is_coloured(&io::stdout())));
    }
}

/// Prints what the run as a whole has to say.
pub(crate) fn note(text: &str) {
    if log::format() == LogFormat::Text {
        return output::line(text);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let time_unix_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    print(&Line { level: LogLevel::Notice, source: "Puppet".into(), message: text.into(), status: None, time_unix_nanos });
}

/// Prints text on standard error, in the colour of a level. When that cannot be written there is nowhere to say so: the exit code tells how it went.
pub(crate) fn on_stderr(level: LogLevel, text: &str) {
    let text = coloured(text, level, is_coloured_stderr());
    let _written = progress::without_bar(|| writeln!(io::stderr(), "{text}"));
}

/// Whether what is written to standard error has colours.
pub(crate) fn is_coloured_stderr() -> bool {
    is_coloured(&io::stderr())
}

fn is_coloured(stream: &impl io::IsTerminal) -> bool {
    IS_COLOURED.get().copied().unwrap_or_default() && stream.is_terminal()
}

/// Puppet's colours: what is usual has none.
fn coloured(text: &str, level: LogLevel, is_coloured: bool) -> String {
    let colour = match level {
        _ if !is_coloured => return text.to_owned(),
        LogLevel::Emerg | LogLevel::Alert | LogLevel::Err => "1;31",
        LogLevel::Crit => "1;35",
        LogLevel::Warning => "1;33",
        LogLevel::Info => "0;32",
        LogLevel::Debug => "0;36",
        _ => return text.to_owned(),
    };
    format!("\x1b[{colour}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_has_colours() {
        assert_eq!(coloured("Error: x", LogLevel::Err, false), "Error: x");
        assert_eq!(coloured("Error: x", LogLevel::Err, true), "\x1b[1;31mError: x\x1b[0m");
        assert_eq!(coloured("Notice: x", LogLevel::Notice, true), "Notice: x");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_coloured(&file));
    }
}
