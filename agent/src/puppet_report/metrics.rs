//! Metrics as reports have them.

use direct_puppet_transport::protocol::Report;
use serde::{Serialize, Serializer};

/// Metrics by category, each a name and a value, in Puppet's order.
pub type Metrics<'a> = Vec<(&'a str, Vec<(&'a str, f64)>)>;

/// Puppet's order of categories; others come after them.
const ORDER: [&str; 4] = ["resources", "time", "changes", "events"];

/// Names that Puppet only has when they are not 0.
const ONLY_IF_ANY: [&str; 2] = ["audit", "noop"];

/// Returns the metrics of a report: those of Puppet first.
#[must_use]
pub fn metrics(report: &Report) -> Metrics<'_> {
    let rest = report.metrics.keys().map(String::as_str).filter(|name| !ORDER.contains(name));
    let category = |name| {
        let values = report.metrics.get(name).into_iter().flatten();
        let values = values.filter(|(key, value)| name != "events" || **value > 0.0 || !ONLY_IF_ANY.contains(&key.as_str()));
        (name, values.map(|(key, value)| (key.as_str(), *value)).collect())
    };
    ORDER.into_iter().chain(rest).map(category).collect()
}

/// Metrics with their labels.
pub(super) struct Labelled<'a>(pub(super) &'a Metrics<'a>);

impl Serialize for Labelled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0.iter().map(|(name, values)| (name, Category { name, label: label(name), values: Values(name, values) })),
        )
    }
}

#[derive(Serialize)]
struct Category<'a> {
    name: &'a str,
    label: String,
    values: Values<'a>,
}

struct Values<'a>(&'a str, &'a [(&'a str, f64)]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|&(name, value)| (name, label(name), Number(self.0, value))))
    }
}

/// A value: whole, but for seconds.
pub(crate) struct Number<'a>(pub(crate) &'a str, pub(crate) f64);

impl Number<'_> {
    /// Returns the value if it is counted.
    #[expect(clippy::cast_possible_truncation, reason = "counts far below 2^53")]
    pub(crate) fn count(&self) -> Option<i64> {
        (self.0 != "time").then_some(self.1 as i64)
    }
}

impl Serialize for Number<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.count() {
            Some(count) => serializer.serialize_i64(count),
            None => serializer.serialize_f64(self.1),
        }
    }
}

/// Returns the label of a name: `failed_to_restart` is `Failed to restart`.
pub(crate) fn label(name: &str) -> String {
    let mut label = name.replace('_', " ");
    if let Some(first) = label.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    label
}
