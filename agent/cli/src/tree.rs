//! What a plan would do, as a tree: stages, classes and defines, in them resources, each with its changes below it; and how many of each kind
//! there are.

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
        let ensures = |value: fn(&Event) -> bool| pending(status).any(|event| event.property == "ensure" && value(event));
        let is_changed = !pending(status).next()?.property.is_empty();
        Some(match () {
            // A service that would be restarted runs something too.
            () if !is_changed || status.resource.starts_with("Exec[") => Self::Run,
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

/// A container: what would be done to what it holds, and the containers in it.
#[derive(Debug, Default)]
struct Container<'a> {
    held: Vec<(Deed, &'a ResourceStatus)>,
    below: Vec<(&'a str, Self)>,
}

impl<'a> Container<'a> {
    /// Returns the container of this name in it.
    fn enter(&mut self, name: &'a str) -> &mut Self {
        // Mostly it is where the last resource was.
        let at = self.below.iter().rposition(|(known, _)| *known == name).unwrap_or_else(|| {
            self.below.push((name, Self::default()));
            self.below.len() - 1
        });
        &mut self.below[at].1
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        for (deed, status) in &self.held {
            let _ = writeln!(out, "{indent}{} {}", deed.sign(), printable(&status.resource));
            for event in pending(status) {
                let _ = writeln!(out, "{indent}    {}", printable(&text_of(event)));
            }
        }
        for (name, container) in &self.below {
            let _ = writeln!(out, "{indent}{}", printable(name));
            container.write(out, depth + 1);
        }
    }
}

/// Returns what would be done to a resource: changes, then a refresh.
fn pending(status: &ResourceStatus) -> impl Iterator<Item = &Event> {
    status.events.iter().filter(|event| event.status == EventStatus::Noop).chain(status.pending_refresh.as_deref())
}

fn text_of(event: &Event) -> String {
    if event.property.is_empty() {
        event.message.to_string()
    } else {
        format!("{}: {} -> {}", event.property, event.previous_value, event.desired_value)
    }
}

/// Returns the tree, and as its last line the counts. Containers come after the resources beside them.
pub(crate) fn tree(statuses: &[ResourceStatus]) -> String {
    let mut root = Container::default();
    let mut counts = [0_u64; 4];
    for (status, deed) in statuses.iter().filter_map(|status| Some((status, Deed::of(status)?))) {
        counts[deed as usize] += 1;
        let containers = status.place.as_deref().map(|place| place.containers.as_slice()).unwrap_or_default();
        let container = containers.iter().fold(&mut root, |container, name| container.enter(name));
        container.held.push((deed, status));
    }
    let mut out = String::new();
    root.write(&mut out, 0);
    let [change, create, remove, run] = counts;
    let _ = writeln!(out, "{change} to change, {create} to create, {remove} to remove, {run} to run");
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use direct_puppet_transport::protocol::report::Place;

    use super::*;

    fn status(resource: &str, events: &[(&'static str, &'static str, &'static str, EventStatus)]) -> ResourceStatus {
        let event = |&(property, previous, desired, status): &(&'static str, &'static str, &'static str, EventStatus)| Event {
            resource: resource.to_owned(),
            property: property.into(),
            previous_value: previous.into(),
            desired_value: desired.into(),
            message: "Would have triggered 'refresh' from 1 event".into(),
            status,
            corrective_change: false,
            redacted: false,
            loglevel: None,
            time_unix_nanos: 0,
        };
        ResourceStatus { resource: resource.to_owned(), events: events.iter().map(event).collect(), ..Default::default() }
    }

    fn refreshed(of: ResourceStatus) -> ResourceStatus {
        let mut events = status(&of.resource, &[("", "", "", EventStatus::Noop)]).events;
        ResourceStatus { pending_refresh: events.pop().map(Box::new), ..of }
    }

    fn placed(of: ResourceStatus, containers: &[&str]) -> ResourceStatus {
        let containers = containers.iter().map(|&name| name.to_owned()).collect();
        ResourceStatus { place: Some(Arc::new(Place { containers, tags: Vec::new() })), ..of }
    }

    #[test]
    fn resources_stand_below_what_holds_them() {
        let create = |name: &str| status(name, &[("ensure", "absent", "file", EventStatus::Noop)]);
        let statuses = [
            placed(create("File[/a]"), &["Stage[main]", "Class[Web]", "Web::Site[a\nb]"]),
            placed(create("File[/b]"), &["Stage[main]", "Class[Web]"]),
            placed(create("File[/c]"), &["Stage[main]", "Class[Main]"]),
            placed(refreshed(status("Exec[d]", &[])), &["Stage[main]", "Class[Web]"]),
            create("File[/e]"),
        ];
        assert_eq!(
            tree(&statuses),
            [
                "+ File[/e]",
                "    ensure: absent -> file",
                "Stage[main]",
                "  Class[Web]",
                "    + File[/b]",
                "        ensure: absent -> file",
                "    ! Exec[d]",
                "        Would have triggered 'refresh' from 1 event",
                "    Web::Site[a\\nb]",
                "      + File[/a]",
                "          ensure: absent -> file",
                "  Class[Main]",
                "    + File[/c]",
                "        ensure: absent -> file",
                "0 to change, 4 to create, 0 to remove, 1 to run",
                "",
            ]
            .join("\n")
        );
    }

    #[test]
    fn each_resource_is_counted_once_by_what_would_be_done_to_it() {
        let noop = EventStatus::Noop;
        let statuses = [
            status("File[/a]", &[("ensure", "absent", "file", noop)]),
            status("File[/b]", &[("content", "{sha256}x", "{sha256}y", noop), ("mode", "0600", "0644", noop)]),
            status("Package[c]", &[("ensure", "1.0", "purged", noop)]),
            status("Exec[d]", &[("returns", "notrun", "0", noop)]),
            refreshed(status("Service[e]", &[])),
            refreshed(status("Service[i]", &[("ensure", "stopped", "running", noop)])),
            status("File[f\u{1b}[2J]", &[("ensure", "file", "absent", noop)]),
            status("File[/g]", &[("owner", "root", "web", EventStatus::Audit)]),
            status("File[/h]", &[]),
        ];
        assert_eq!(
            tree(&statuses),
            "+ File[/a]\n    ensure: absent -> file\n~ File[/b]\n    content: {sha256}x -> {sha256}y\n    mode: 0600 -> 0644\n\
             - Package[c]\n    ensure: 1.0 -> purged\n! Exec[d]\n    returns: notrun -> 0\n\
             ! Service[e]\n    Would have triggered 'refresh' from 1 event\n\
             ~ Service[i]\n    ensure: stopped -> running\n    Would have triggered 'refresh' from 1 event\n\
             - File[f\\u{1b}[2J]\n    ensure: file -> absent\n2 to change, 1 to create, 2 to remove, 2 to run\n"
        );
        assert_eq!(tree(&[]), "0 to change, 0 to create, 0 to remove, 0 to run\n");
    }
}
