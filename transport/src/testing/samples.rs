//! Messages for tests: plain ones, of which a test says only what it is about.
//!
//! ```
//! use direct_puppet_transport::protocol::CheckIn;
//! use direct_puppet_transport::testing::samples::check_in;
//!
//! let waiting = CheckIn { wait_seconds: 60, ..check_in("node1.example.com") };
//! assert_eq!(waiting.environment.as_str(), "production");
//! ```

use std::collections::BTreeMap;

use crate::protocol::report::{CachedCatalogStatus, REPORT_FORMAT};
use crate::protocol::{CheckIn, Environment, ProtocolVersion, Report, RunStatus};

/// Returns the check-in of a node that holds nothing and does not wait, in the environment `production`.
///
/// # Panics
///
/// When `certname` is none.
#[must_use]
pub fn check_in(certname: &str) -> CheckIn {
    CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: certname.parse().expect("tests give valid names"),
        environment: Environment::default(),
        held: None,
        features: Vec::new(),
        wait_seconds: 0,
        at_least: None,
    }
}

/// Returns the report of a run that came to its end and had nothing to do.
///
/// # Panics
///
/// When `certname` is none.
#[must_use]
pub fn report(certname: &str) -> Report {
    let CheckIn { certname: host, environment, .. } = check_in(certname);
    Report {
        host,
        environment,
        transaction_uuid: "0".repeat(32),
        report_format: REPORT_FORMAT,
        time_unix_nanos: 0,
        catalog_id: None,
        code_id: None,
        version: None,
        cached_catalog_status: CachedCatalogStatus::NotUsed,
        configuration_version: None,
        given_code_id: None,
        catalog_uuid: None,
        status: RunStatus::Unchanged,
        transaction_completed: true,
        noop: false,
        noop_pending: false,
        corrective_change: false,
        metrics: BTreeMap::new(),
        logs: Vec::new(),
        resource_statuses: Vec::new(),
    }
}
