//! Events as reports have them.

use direct_puppet_transport::protocol::report::{Event, EventStatus};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::iso8601;
use crate::provider::secrets::REDACTED;

/// An event of a resource of the given type.
pub(super) struct OfType<'a>(pub(super) &'a str, pub(super) &'a Event);

impl Serialize for OfType<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(resource_type, event) = *self;
        let is_audit = event.status == EventStatus::Audit;
        let named = |text: &'_ str| (!event.property.is_empty()).then(|| text.to_owned());
        let desired = named(&event.desired_value);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("audited", &is_audit)?;
        map.serialize_entry("property", &named(&event.property))?;
        map.serialize_entry("previous_value", &named(&event.previous_value))?;
        match event.property.as_ref() {
            // What any of is wanted is a list, also when it is one alone.
            "returns" if resource_type == "Exec" && event.desired_value != REDACTED => {
                map.serialize_entry("desired_value", &event.desired_value.split(',').collect::<Vec<_>>())?;
            }
            _ => map.serialize_entry("desired_value", &desired.as_ref().filter(|_| !is_audit))?,
        }
        map.serialize_entry("historical_value", &desired.as_ref().filter(|_| is_audit))?;
        map.serialize_entry("message", &message(event))?;
        map.serialize_entry("name", &name(resource_type, event))?;
        map.serialize_entry("status", &event.status)?;
        map.serialize_entry("time", &iso8601(event.time_unix_nanos))?;
        map.serialize_entry("redacted", &event.redacted)?;
        map.serialize_entry("corrective_change", &event.corrective_change)?;
        map.end()
    }
}

/// Returns the message of an event, with Puppet's mark of drift.
pub(super) fn message(event: &Event) -> String {
    let drift = if event.corrective_change { " (corrective)" } else { "" };
    format!("{}{drift}", event.message)
}

/// Returns whether an event tells of a resource as a whole that it could not be looked at, or refreshed.
pub(super) fn is_error(event: &Event) -> bool {
    event.property.is_empty() && event.status == EventStatus::Failure
}

/// Returns Puppet's name of an event.
pub(crate) fn name(resource_type: &str, event: &Event) -> String {
    let lower = || resource_type.to_lowercase();
    match (resource_type, &*event.property, &*event.desired_value) {
        _ if is_error(event) => "resource_error".to_owned(),
        (_, "", _) => "refresh".to_owned(),
        ("Exec", "returns", _) => "executed_command".to_owned(),
        ("File", "ensure", kind @ ("file" | "directory" | "link")) => format!("{kind}_created"),
        ("File", "ensure", "present") => "file_created".to_owned(),
        ("Service", "ensure", "running") => "service_started".to_owned(),
        ("Service", "ensure", "stopped") => "service_stopped".to_owned(),
        ("Package", "ensure", "present") => "package_installed".to_owned(),
        ("Package", "ensure", "purged") => "package_purged".to_owned(),
        (_, "ensure", "present") => format!("{}_created", lower()),
        (_, "ensure", "absent") => format!("{}_removed", lower()),
        (_, "ensure", _) => format!("{}_changed", lower()),
        (_, property, _) => format!("{property}_changed"),
    }
}
