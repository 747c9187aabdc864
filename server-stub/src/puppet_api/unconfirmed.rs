//! Catalogs that could not be confirmed, told of in the report of the run that applied them.
//!
//! Agents of Puppet pass over the header that says so. What they report is kept here, and so it is said there, as our own agents say it
//! themselves. It is known to the server that gave the catalog, until it ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use direct_puppet_transport::protocol::report::Log;
use direct_puppet_transport::protocol::{Certname, Report};

/// Nodes whose last catalog could not be confirmed, and for how long, in seconds.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed(Mutex<HashMap<Certname, u32>>);

impl Unconfirmed {
    /// Notes how a catalog was given; `None` when it was confirmed.
    pub(super) fn gave(&self, certname: &Certname, seconds: Option<u32>) {
        let mut nodes = self.lock();
        match seconds {
            Some(seconds) => drop(nodes.insert(certname.clone(), seconds)),
            None => drop(nodes.remove(certname)),
        }
    }

    /// Adds to a report what was noted of its node.
    pub(super) fn tell(&self, report: &mut Report) {
        let Some(seconds) = self.lock().get(&report.host).copied() else { return };
        report.logs.push(Log {
            level: "warning".to_owned(),
            message: format!("the server could not confirm for {seconds} s, with its primary, that this catalog is the live one"),
            source: "direct-puppet-server".to_owned(),
            time_unix_nanos: report.time_unix_nanos,
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Certname, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
