//! Statuses of resources as reports have them.

use direct_puppet_transport::protocol::report::{EventStatus, ResourceStatus};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::event::OfType;
use super::iso8601;

/// All statuses, by resource.
pub(super) struct Statuses<'a>(pub(super) &'a [ResourceStatus]);

impl Serialize for Statuses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|status| (&status.resource, Status(status))))
    }
}

struct Status<'a>(&'a ResourceStatus);

/// Returns type and title of a reference.
pub(super) fn type_and_title(reference: &str) -> (&str, &str) {
    let (resource_type, rest) = reference.split_once('[').unwrap_or((reference, ""));
    (resource_type, rest.strip_suffix(']').unwrap_or(rest))
}

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let status = self.0;
        let (resource_type, title) = type_and_title(&status.resource);
        let place = status.place.as_deref();
        let path: Vec<&str> = place.into_iter().flat_map(|place| place.names()).chain([status.resource.as_str()]).collect();
        let events: Vec<OfType> = status.events.iter().map(|event| OfType(resource_type, event)).collect();
        let count = |counts: fn(EventStatus) -> bool| status.events.iter().filter(|event| counts(event.status)).count();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("title", title)?;
        map.serialize_entry("file", &status.file)?;
        map.serialize_entry("line", &status.line)?;
        map.serialize_entry("resource", &status.resource)?;
        map.serialize_entry("resource_type", resource_type)?;
        map.serialize_entry("provider_used", &None::<&str>)?;
        map.serialize_entry("containment_path", &path)?;
        map.serialize_entry("evaluation_time", &status.evaluation.as_secs_f64())?;
        map.serialize_entry("tags", place.map(|place| place.tags.as_slice()).unwrap_or_default())?;
        map.serialize_entry("time", &iso8601(status.began_unix_nanos))?;
        map.serialize_entry("failed", &status.failed)?;
        map.serialize_entry("failed_to_restart", &status.failed_to_restart)?;
        map.serialize_entry("changed", &status.changed)?;
        map.serialize_entry("out_of_sync", &status.out_of_sync)?;
        map.serialize_entry("skipped", &status.skipped)?;
        map.serialize_entry("change_count", &count(|status| status == EventStatus::Success))?;
        map.serialize_entry("out_of_sync_count", &count(|status| status != EventStatus::Audit))?;
        map.serialize_entry("events", &events)?;
        map.serialize_entry("corrective_change", &status.corrective_change)?;
        map.end()
    }
}
