//! Differences of properties, worded as Puppet words them.

use std::fmt::Write as _;

use direct_puppet_transport::protocol::Resource;

use super::{Change, Wording};

/// What hides a secret in changes.
const REDACTED: &str = "[redacted]";

/// A value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// None.
    Absent,
    /// Text, which messages quote.
    Text(String),
    /// Text that messages do not quote, as a list that is joined.
    Bare(String),
    /// A number.
    Number(i64),
    /// A list.
    List(Vec<String>),
    /// A list that reports join by commas.
    Joined(Vec<String>),
}

impl Shown {
    /// Returns text, or the absence of it.
    pub(super) fn text(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.into()))
    }

    /// Returns a number, or the absence of it.
    pub(super) fn number(number: Option<i64>) -> Self {
        number.map_or(Self::Absent, Self::Number)
    }

    /// Returns the value as reports hold it; a list as JSON.
    fn raw(&self) -> String {
        match self {
            Self::Absent => "absent".to_owned(),
            Self::Text(text) | Self::Bare(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::List(items) => serde_json::json!(items).to_string(),
            Self::Joined(items) => items.join(","),
        }
    }

    /// Returns the value as messages have it.
    fn worded(&self) -> String {
        match self {
            Self::Absent => quote("absent"),
            Self::Text(text) => quote(text),
            Self::Bare(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::List(items) | Self::Joined(items) => {
                format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Quotes text as Puppet does: in single quotes, or in double quotes when there are control characters.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    if text.chars().any(|c| c < ' ') {
        quoted.push('"');
        for c in text.chars() {
            match c {
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\r' => quoted.push_str("\\r"),
                '"' | '\\' | '$' => quoted.extend(['\\', c]),
                // Writing to a string cannot fail.
                c if c < ' ' => drop(write!(quoted, "\\u{{{:X}}}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        return quoted;
    }
    quoted.push('\'');
    for c in text.chars() {
        if c == '\'' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    if text.ends_with('\\') {
        quoted.push('\\');
    }
    quoted.push('\'');
    quoted
}

/// The properties of one resource that are out of sync.
#[derive(Debug)]
pub(super) struct Differences<'a> {
    resource: &'a Resource,
    changes: Vec<Change>,
}

impl<'a> Differences<'a> {
    pub(super) const fn of(resource: &'a Resource) -> Self {
        Self { resource, changes: Vec::new() }
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Adds the creation or removal of the whole.
    pub(super) fn add_ensure(&mut self, previous: &str, desired: &str) {
        let wording = |done: String| Wording { previous: quote(previous), desired: quote(desired), done };
        let wording = match (previous, desired) {
            ("absent", _) => wording("created".to_owned()),
            (_, "absent") => wording("removed".to_owned()),
            _ => wording(format!("ensure changed {} to {}", quote(previous), quote(desired))),
        };
        self.push("ensure", previous.to_owned(), desired.to_owned(), wording);
    }

    /// Adds the property `ensure` with a message of its own.
    pub(super) fn add_ensure_as(&mut self, previous: &str, desired: &str, done: String) {
        let wording = Wording { previous: quote(previous), desired: quote(desired), done };
        self.push("ensure", previous.to_owned(), desired.to_owned(), wording);
    }

    /// Adds a property that is out of sync.
    pub(super) fn add(&mut self, property: &str, previous: &Shown, desired: &Shown) {
        let (is, should) = (previous.worded(), desired.worded());
        let done = match (previous, desired) {
            (Shown::Absent, _) => format!("defined '{property}' as {should}"),
            (_, Shown::Absent) => format!("undefined '{property}' from {is}"),
            _ => format!("{property} changed {is} to {should}"),
        };
        self.push(property, previous.raw(), desired.raw(), Wording { previous: is, desired: should, done });
    }

    /// Words what is wanted by the last change otherwise where it is not made: messages of noop and of failures.
    pub(super) fn word_wanted(&mut self, wanted: &Shown) {
        if let Some(wording) = self.changes.last_mut().and_then(|change| change.wording.as_mut()) {
            wording.desired = wanted.worded();
        }
    }

    /// Adds a property if it is managed and another value is wanted than there is.
    pub(super) fn compare(&mut self, property: &str, current: &Shown, wanted: Option<&Shown>) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != current) {
            self.add(property, current, wanted);
        }
    }

    /// Adds a secret property that is out of sync.
    pub(super) fn add_secret(&mut self, property: &str) {
        let wording = Wording {
            previous: REDACTED.to_owned(),
            desired: REDACTED.to_owned(),
            done: format!("changed {REDACTED} to {REDACTED}"),
        };
        self.push(property, REDACTED.to_owned(), REDACTED.to_owned(), wording);
        if let Some(change) = self.changes.last_mut() {
            change.redacted = true;
        }
    }

    fn push(&mut self, property: &str, previous: String, desired: String, wording: Wording) {
        self.changes.push(Change {
            resource: self.resource.reference(),
            property: property.to_owned().into(),
            previous: previous.into(),
            desired: desired.into(),
            diff: None,
            redacted: false,
            wording: Some(Box::new(wording)),
        });
    }

    /// Hides the values of a property whose resource gives it as a secret.
    pub(super) fn redact(&mut self, property: &str) {
        for change in self.changes.iter_mut().filter(|change| change.property == property) {
            change.previous = REDACTED.into();
            change.desired = REDACTED.into();
            change.redacted = true;
            change.wording = Some(Box::new(Wording {
                previous: REDACTED.to_owned(),
                desired: REDACTED.to_owned(),
                done: format!("changed {REDACTED} to {REDACTED}"),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let resource = Resource::new("Host", "a");
        let mut found = Differences::of(&resource);
        let list = |items: &[&str]| Shown::List(items.iter().map(|item| (*item).to_owned()).collect());
        found.add_ensure("absent", "present");
        found.add_ensure("present", "absent");
        found.add("ip", &Shown::Text("1".into()), &Shown::Text("it's".into()));
        found.add("minute", &list(&["1", "2"]), &Shown::Absent);
        found.add("gid", &Shown::Number(1), &Shown::Number(2));
        found.add("command", &Shown::Absent, &Shown::Text("a\tb".into()));
        let done: Vec<String> = found.into_changes().into_iter().filter_map(|change| Some(change.wording?.done)).collect();
        assert_eq!(
            done,
            [
                "created",
                "removed",
                "ip changed '1' to 'it\\'s'",
                "undefined 'minute' from ['1', '2']",
                "gid changed 1 to 2",
                "defined 'command' as \"a\\tb\"",
            ]
        );
    }

    #[test]
    fn secrets() {
        let resource = Resource::new("User", "a");
        let mut found = Differences::of(&resource);
        found.add_secret("password");
        found.add("comment", &Shown::Text("hunter1".into()), &Shown::Text("hunter2".into()));
        found.redact("comment");
        let changes = found.into_changes();
        assert!(changes.iter().all(|change| change.redacted));
        assert!(!format!("{changes:?}").contains("hunter"), "{changes:?}");
    }
}
