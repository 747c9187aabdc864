//! What a plan would do, as a tree: each resource with its changes below it, and how many of each kind there are.

use std::fmt::Write as _;

use direct_puppet_transport::protocol::report::{Event, EventStatus, ResourceStatus};

use crate::output::printable;

/// What would be done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Change,
    Create,
    Remove,
    Run,
}

impl Deed {
    fn of(status: &ResourceStatus) -> Option<Self> {
        let events = || status.events.iter().filter(|event| event.status == EventStatus::Noop);
        let ensures = |value: fn(&Event) -> bool| events().any(|event| event.property == "ensure" && value(event));
        events().next()?;
        Some(match () {
            () if status.resource.starts_with("Exec[") => Self::Run,
            () if ensures(|event| is_gone(&event.desired_value)) => Self::Remove,
            () if ensures(|event| is_gone(&event.previous_value)) => Self::Create,
            () => Self::Change,
        })
    }

    const fn sign(self) -> char {
        match self {
            Self::Change => '~',
            Self::Create => '+',
            Self::Remove => '-',
            Self::Run => '!',
        }
    }
}

/// Whether a value of `ensure` says that there is nothing.
fn is_gone(value: &str) -> bool {
    matches!(value, "absent" | "purged")
}

/// Returns the tree, and as its last line the counts.
pub(crate) fn tree(statuses: &[ResourceStatus]) -> String {
    let mut out = String::new();
    let mut counts = [0_u64; 4];
    for (status, deed) in statuses.iter().filter_map(|status| Some((status, Deed::of(status)?))) {
        counts[deed as usize] += 1;
        let _ = writeln!(out, "{} {}", deed.sign(), printable(&status.resource));
        for event in status.events.iter().filter(|event| event.status == EventStatus::Noop) {
            let text = if event.property.is_empty() {
                event.message.to_string()
            } else {
                format!("{}: {} -> {}", event.property, event.previous_value, event.desired_value)
            };
            let _ = writeln!(out, "    {}", printable(&text));
        }
    }
    let [change, create, remove, run] = counts;
    let _ = writeln!(out, "{change} to change, {create} to create, {remove} to remove, {run} to run");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(resource: &str, events: &[(&'static str, &'static str, &'static str, EventStatus)]) -> ResourceStatus {
        let event = |&(property, previous, desired, status): &(&'static str, &'static str, &'static str, EventStatus)| Event {
            resource: resource.to_owned(),
            property: property.into(),
            previous_value: previous.into(),
            desired_value: desired.into(),
            message: "would have been refreshed".into(),
            status,
            corrective_change: false,
            redacted: false,
            loglevel: None,
            time_unix_nanos: 0,
        };
        ResourceStatus { resource: resource.to_owned(), events: events.iter().map(event).collect(), ..Default::default() }
    }

    #[test]
    fn each_resource_is_counted_once_by_what_would_be_done_to_it() {
        let noop = EventStatus::Noop;
        let statuses = [
            status("File[/a]", &[("ensure", "absent", "file", noop)]),
            status("File[/b]", &[("content", "{sha256}x", "{sha256}y", noop), ("mode", "0600", "0644", noop)]),
            status("Package[c]", &[("ensure", "1.0", "purged", noop)]),
            status("Exec[d]", &[("returns", "notrun", "0", noop)]),
            status("Service[e]", &[("", "", "", noop)]),
            status("File[f\u{1b}[2J]", &[("ensure", "file", "absent", noop)]),
            status("File[/g]", &[("owner", "root", "web", EventStatus::Audit)]),
            status("File[/h]", &[]),
        ];
        assert_eq!(
            tree(&statuses),
            "+ File[/a]\n    ensure: absent -> file\n~ File[/b]\n    content: {sha256}x -> {sha256}y\n    mode: 0600 -> 0644\n\
             - Package[c]\n    ensure: 1.0 -> purged\n! Exec[d]\n    returns: notrun -> 0\n~ Service[e]\n    would have been refreshed\n\
             - File[f\\u{1b}[2J]\n    ensure: file -> absent\n2 to change, 1 to create, 2 to remove, 1 to run\n"
        );
        assert_eq!(tree(&[]), "0 to change, 0 to create, 0 to remove, 0 to run\n");
    }
}
