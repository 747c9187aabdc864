//! Single lines of crontabs.

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Time {
    /// A word, as `daily`, written with an `@`.
    Special(String),
    /// Minute, hour, day of the month, month, day of the week: each a list, `None` for any.
    Fields([Option<Vec<String>>; 5]),
}

/// What a line of a crontab is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A comment that gives the next job its name.
    Name(String),
    /// A setting of the environment.
    Setting,
    Job(Time, String),
    /// Any other comment, a blank line, or something that nobody understands.
    Other,
}

/// Before the name in a comment.
const NAME_MARK: &str = "Puppet Name: ";

pub(super) fn classify(line: &str) -> LineKind {
    let start = line.trim_start();
    if start.starts_with('#') {
        let name = line.split_once(NAME_MARK).map(|(_, name)| name.to_owned()).filter(|name| !name.is_empty());
        return name.map_or(LineKind::Other, LineKind::Name);
    }
    if is_setting(start) {
        return LineKind::Setting;
    }
    job(start).map_or(LineKind::Other, |(time, command)| LineKind::Job(time, command))
}

/// Returns whether a line is a word, blanks and an equals sign.
fn is_setting(line: &str) -> bool {
    let name = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
    name > 0 && line[name..].trim_start().starts_with('=')
}

fn job(line: &str) -> Option<(Time, String)> {
    if let Some(special) = line.strip_prefix('@') {
        let end = special.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(special.len());
        let (word, rest) = special.split_at(end);
        let command = rest.trim_start();
        if !word.is_empty() && rest.starts_with(char::is_whitespace) && !command.is_empty() {
            return Some((Time::Special(word.to_owned()), command.to_owned()));
        }
    }
    let mut fields: [Option<Vec<String>>; 5] = Default::default();
    let mut rest = line;
    for field in &mut fields {
        let end = rest.find(char::is_whitespace)?;
        let (text, after) = rest.split_at(end);
        *field = (text != "*").then(|| text.split(',').map(str::to_owned).collect());
        rest = after.trim_start();
    }
    (!rest.is_empty()).then(|| (Time::Fields(fields), rest.to_owned()))
}

/// Writes a job as a line.
pub(super) fn print(time: &Time, command: &str) -> String {
    match time {
        Time::Special(word) => format!("@{word} {command}"),
        Time::Fields(fields) => {
            let field = |field: &Option<Vec<String>>| field.as_ref().map_or_else(|| "*".to_owned(), |values| values.join(","));
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{} {command}", fields.join(" "))
        }
    }
}

/// Writes the comment that gives a job its name.
pub(super) fn print_name(name: &str) -> String {
    format!("# {NAME_MARK}{name}")
}
