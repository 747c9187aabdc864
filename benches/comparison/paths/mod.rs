//! One file for each path of the goals table.

mod apply;
mod big_file;
mod bytes;
mod check_in;
mod cold;
mod content;
mod fetch;
mod growth;
mod latency;
mod mixed;
mod no_change;
mod publish;
mod puppet;
mod puppet_server;
mod start_up;
mod watch;

pub(crate) use fetch::free_address;
pub(crate) use growth::PLOTS;

use crate::bench::Bench;
use crate::table::{Goal, Row, Rows};

/// Measures one path.
type Measure = fn(&Bench, &mut Rows) -> anyhow::Result<()>;

/// A path: how it is called on the command line, its heading, and what measures it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) heading: &'static str,
    measure: Measure,
}

/// All paths, in the order of the goals.
pub(crate) const ALL: [Path; 16] = [
    path("no-change", "Run, nothing changed", no_change::measure),
    path("cold", "Run, nothing changed, cold page cache", cold::measure),
    path("puppet", "Beside the real agent, 5,000 files", puppet::measure),
    path("mixed", "Beside the real agent, 5,000 resources of many types", mixed::measure),
    path("puppet-server", "Beside Puppet Server", puppet_server::measure),
    path("watch", "Resident daemon with a watch", watch::measure),
    path("content", "All contents read", content::measure),
    path("big-file", "One large file", big_file::measure),
    path("fetch", "Fetch of 10,000 contents, loopback", fetch::measure),
    path("latency", "Fetch of 10,000 contents, round trip of 20 ms", latency::measure),
    path("bytes", "Bytes on the wire", bytes::measure),
    path("apply", "First apply of 10,000 files, durable", apply::measure),
    path("check-in", "Check-in, nothing new", check_in::measure),
    path("publish", "Publish", publish::measure),
    path("start-up", "Start", start_up::measure),
    path("growth", "Growth", growth::measure),
];

const fn path(name: &'static str, heading: &'static str, measure: Measure) -> Path {
    Path { name, heading, measure }
}

impl Path {
    /// Returns the rows. Where not even the start succeeds, that is a row not met.
    pub(crate) fn rows(&self, bench: &Bench) -> Vec<Row> {
        let mut rows = Rows::new(self.heading);
        if let Err(error) = (self.measure)(bench, &mut rows) {
            rows.limit((self.heading, Err(format!("{error:#}"))), crate::table::Unit::Count, Goal::AtMost(0.0), "");
        }
        rows.rows
    }
}
