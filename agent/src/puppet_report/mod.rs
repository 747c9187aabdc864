//! Reports as Puppet's agent writes them: report format 12.
//!
//! [`PuppetReport`] is a view on a [`Report`] that serialises with the keys and shapes of `Puppet::Transaction::Report#to_data_hash` of Puppet
//! 7.23, so that whatever reads Puppet's reports reads these. Beside those keys it has `catalog_id`, `version` and `time_unix_nanos`, and the
//! metrics `scan` and `wire`. As with Puppet's `exclude_unchanged_resources`, the default of Puppet 8, resources that were in sync are left out.
//!
//! [`lines`] makes of a report what Puppet's agent logs.

mod event;
mod lines;
mod metrics;
mod status;
mod time;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use direct_puppet_transport::protocol::Report;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

pub(crate) use event::name as event_name;
pub(crate) use lines::{FAILED_REFRESH, closing, kept_lines, level_name, of_event, of_log, opening};
pub use lines::{Line, lines};
pub use metrics::{Metrics, metrics};
pub(crate) use metrics::{Number, label};
pub use time::iso8601;
pub(crate) use yaml::write as write_yaml;

/// The tag by which Ruby's loader knows what a YAML document is.
const YAML_TAG: &str = "--- !ruby/object:Puppet::Transaction::Report";

/// A report in the shape of Puppet's.
#[derive(Debug, Clone, Copy)]
pub struct PuppetReport<'a>(pub &'a Report);

impl PuppetReport<'_> {
    /// Writes the report as the YAML that Puppet keeps: `last_run_report.yaml`.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn write_yaml(&self, to: &mut impl io::Write) -> io::Result<()> {
        to.write_all(YAML_TAG.as_bytes())?;
        yaml::write(self, to)
    }

    /// Returns the version of the catalog as reports call it: that of a catalog that was given, else where its code stands.
    #[must_use]
    pub fn configuration_version(&self) -> String {
        let report = self.0;
        let code = || report.version.map(|version| version.to_string());
        let catalog = || report.catalog_id.map(|id| id.to_string());
        report.configuration_version.clone().or_else(code).or_else(catalog).unwrap_or_default()
    }

    /// Returns the code that the catalog was made from.
    #[must_use]
    pub fn code_id(&self) -> Option<String> {
        self.0.given_code_id.clone().or_else(|| self.0.code_id.map(|id| id.to_string()))
    }

    /// Returns an id of the catalog in the form of a UUID; that of a catalog of ours is made of its own id, so equal catalogs have one.
    #[must_use]
    pub fn catalog_uuid(&self) -> Option<String> {
        let own = || self.0.catalog_id.map(|id| uuid(&id.to_string()));
        self.0.catalog_uuid.clone().or_else(own)
    }

    /// Returns the id of the run in the form of a UUID.
    #[must_use]
    pub fn transaction_uuid(&self) -> String {
        uuid(&self.0.transaction_uuid)
    }
}

/// Puts the first 32 hexadecimal digits of an id into groups. What has fewer stays as it is.
fn uuid(id: &str) -> String {
    let digits = id.rsplit(':').next().unwrap_or(id);
    let part = |range| digits.get(range);
    match (part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)) {
        (Some(a), Some(b), Some(c), Some(d), Some(e)) => [a, b, c, d, e].join("-"),
        _ => id.to_owned(),
    }
}

/// A version: a number where it is one, as in Puppet.
struct Version(String);

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            Ok(number) if number.to_string() == self.0 => serializer.serialize_u64(number),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl Serialize for PuppetReport<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("host", &report.host)?;
        map.serialize_entry("time", &iso8601(report.time_unix_nanos))?;
        map.serialize_entry("configuration_version", &Version(self.configuration_version()))?;
        map.serialize_entry("transaction_uuid", &self.transaction_uuid())?;
        map.serialize_entry("report_format", &report.report_format)?;
        map.serialize_entry("puppet_version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("status", &report.status)?;
        map.serialize_entry("transaction_completed", &report.transaction_completed)?;
        map.serialize_entry("noop", &report.noop)?;
        map.serialize_entry("noop_pending", &report.noop_pending)?;
        map.serialize_entry("environment", &report.environment)?;
        map.serialize_entry("logs", &lines::Lines(report))?;
        map.serialize_entry("metrics", &metrics::Labelled(&metrics(report)))?;
        map.serialize_entry("resource_statuses", &status::Statuses(&report.resource_statuses))?;
        map.serialize_entry("corrective_change", &report.corrective_change)?;
        if let Some(uuid) = self.catalog_uuid() {
            map.serialize_entry("catalog_uuid", &uuid)?;
        }
        if let Some(code_id) = self.code_id() {
            map.serialize_entry("code_id", &code_id)?;
        }
        map.serialize_entry("cached_catalog_status", &report.cached_catalog_status)?;
        let own = BTreeMap::from([
            ("catalog_id", report.catalog_id.map(|id| id.to_string())),
            ("version", report.version.map(|v| v.to_string())),
        ]);
        for (name, value) in own {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("time_unix_nanos", &report.time_unix_nanos)?;
        map.end()
    }
}
