//! Reports of agents of Puppet, kept as ours are.

mod read;
mod text;
mod time;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Certname, Environment, RefusalCode, Report};
use direct_puppet_transport::{Handler as _, Peer};
use hyper::Response;

use super::answer::{self, Failure, JSON};
use super::{Api, Asked};
use crate::blocking;
use crate::listen::RouteBody;

impl Api {
    pub(super) async fn report(&self, peer: &Peer, asked: Asked) -> Result<Response<RouteBody>, Failure> {
        match asked.content_type() {
            Some("application/json" | "text/pson") => {}
            _ => return Err(Failure::unsupported_media_type("send the report as application/json")),
        }
        let (certname, environment, body) = (asked.node()?.clone(), asked.parameters.environment()?, asked.body);
        let read = blocking::run(move || read(&body, &certname, &environment)).await;
        let mut report = read.map_err(|error| Failure::internal(&error))??;
        self.unconfirmed.tell(&mut report);
        if let Some(code_id) = report.code_id {
            let compiled = self.server.nodes.catalog(&report.host, &report.environment, code_id);
            report.catalog_id = compiled.map(|compiled| compiled.catalog_id);
        }
        self.server.report(peer, report).await.map_err(|refusal| match refusal.code {
            RefusalCode::Busy => Failure::no_room(refusal.message),
            _ => refusal.into(),
        })?;
        // Puppet names those who took it; agents want a list and do not look what is in it.
        Ok(answer::plain(JSON, Bytes::from_static(b"[]")))
    }
}

fn read(body: &[u8], certname: &Certname, environment: &Environment) -> Result<Report, Failure> {
    let report: read::PuppetReport =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(format!("the report cannot be read: {error}")))?;
    report.into_report(certname, environment).map_err(Failure::bad_request)
}
