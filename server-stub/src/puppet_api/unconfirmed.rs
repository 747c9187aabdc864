//! What could not be confirmed: a header of each answer says so, and the report of a run that applied such a catalog.
//!
//! Agents of Puppet pass over the header. What they report is kept here, and so it is said there, as our own agents say it
//! themselves. It is known to the server that gave the catalog, until it ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::protocol::report::Log;
use direct_puppet_transport::protocol::{Certname, Report};
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};

use crate::server::Confirmed;

/// Says in an answer for how many seconds it could not be confirmed that the code is live.
const UNCONFIRMED: HeaderName = HeaderName::from_static("x-direct-puppet-unconfirmed-seconds");

/// For how long it could not be confirmed that what an answer was made from is live, in seconds; `None` when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age(pub(super) Option<u32>);

impl Age {
    pub(super) fn of(confirmed: &Confirmed) -> Self {
        let seconds = |age: Duration| u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        Self(confirmed.unconfirmed_for.map(seconds))
    }

    /// Says so in an answer.
    pub(super) fn told<T>(self, mut response: Response<T>) -> Response<T> {
        if let Some(seconds) = self.0 {
            response.headers_mut().insert(UNCONFIRMED, HeaderValue::from(seconds));
        }
        response
    }
}

/// Nodes whose last catalog could not be confirmed, and for how long, in seconds.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed(Mutex<HashMap<Certname, u32>>);

impl Unconfirmed {
    /// Notes how a catalog was given.
    pub(super) fn gave(&self, certname: &Certname, age: Age) {
        let mut nodes = self.lock();
        match age.0 {
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
