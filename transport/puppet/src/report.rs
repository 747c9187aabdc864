//! Reports, in Puppet's own format.

use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::puppet_report::PuppetReport;
use direct_puppet_transport::http::PlainMethod;
use direct_puppet_transport::protocol::{Refusal, RefusalCode, Report, ReportAccepted};

use crate::api::{self, Answer, Call, Failure};
use crate::encode::{component, form};
use crate::transport::Inner;

/// Most bytes of what a server says of a report that it took: the names of its processors.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Sends a report. What it says of code and catalog is what the server called them.
pub(crate) async fn send(inner: &Arc<Inner>, mut report: Report) -> Result<ReportAccepted, Failure> {
    // What the agent calls the code is made up here: see `code_id_of`.
    let ours = report.code_id.take();
    report.version = None;
    let known = inner.places.look(|known| known.iter().find(|known| Some(known.catalog_id) == report.catalog_id).cloned());
    match known {
        Some(known) => {
            report.configuration_version = known.version.or(report.configuration_version);
            report.given_code_id = known.code_id;
            report.catalog_uuid = known.catalog_uuid.or(report.catalog_uuid);
        }
        // It is of a catalog from another server.
        None => report.code_id = ours,
    }
    let json = serde_json::to_vec(&PuppetReport(&report)).map_err(|error| {
        let message = format!("the report of {} has no JSON form: {error}", report.host);
        Failure::Refused(Refusal::new(RefusalCode::BadRequest, message))
    })?;
    let query = form([("environment", report.environment.as_str())]);
    let asked = Call {
        method: PlainMethod::Put,
        path: format!("report/{}?{query}", component(report.host.as_str())),
        accept: "application/json",
        content_type: Some("application/json"),
        body: Bytes::from(json),
    };
    let endpoint = inner.exchange.endpoint();
    match api::call(&*inner.exchange, asked).await? {
        // It is taken, whatever the server says of it and however that ends; what was read whole leaves the connection usable.
        Answer::Here(response) => drop(api::read(response, MAX_ANSWER_BYTES, endpoint, "a report").await),
        Answer::NotFound(said) => {
            let message = format!("{endpoint} takes no reports: {said}");
            return Err(Failure::Refused(Refusal::new(RefusalCode::NotFound, message)));
        }
    }
    Ok(ReportAccepted { duplicate: false })
}
