//! Where reports go beside the server: from options to processors.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use direct_puppet_agent::AgentBuilder;
use direct_puppet_agent::report_processor::{
    HttpMethod, HttpReports, HttpRequest, HttpSend, PrometheusTextfile, ReportApi, StoreReports,
};
use direct_puppet_transport::http::{HttpOptions, HttpTransport, JsonMethod, TlsFiles};
use direct_puppet_transport::{Transport, TransportError};
use serde::Deserialize;

use crate::options::Common;

/// How long a server may take to take a report.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

/// One more place for reports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum ReportTo {
    /// A server, by URL.
    Http(ReportApi, String),
    /// A directory.
    Store(PathBuf),
    /// A file of metrics.
    Prometheus(PathBuf),
}

impl FromStr for ReportTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "write KIND=TARGET: puppet=URL, puppetdb=URL, foreman=URL, store=DIR or prometheus=FILE";
        let (kind, target) = text.split_once('=').ok_or(expected)?;
        let url = |api| match target.starts_with("https://") || target.starts_with("http://") {
            true => Ok(Self::Http(api, target.trim_end_matches('/').to_owned())),
            false => Err(format!("{kind} needs a URL that begins with https:// or http://")),
        };
        let path = || match target.starts_with('/') {
            true => Ok(PathBuf::from(target)),
            false => Err(format!("{kind} needs an absolute path")),
        };
        match kind {
            "puppet" => url(ReportApi::Puppet),
            "puppetdb" => url(ReportApi::PuppetDb),
            "foreman" => url(ReportApi::Foreman),
            "store" => path().map(Self::Store),
            "prometheus" => path().map(Self::Prometheus),
            _ => Err(expected.to_owned()),
        }
    }
}

impl TryFrom<String> for ReportTo {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Sends over the connections of a transport.
#[derive(Debug)]
struct Sender {
    transport: HttpTransport,
    url: String,
}

#[async_trait]
impl HttpSend for Sender {
    fn endpoint(&self) -> &str {
        &self.url
    }

    async fn send(&self, request: HttpRequest) -> Result<(u16, String), TransportError> {
        let method = match request.method {
            HttpMethod::Put => JsonMethod::Put,
            HttpMethod::Post => JsonMethod::Post,
        };
        self.transport.send_json(method, &request.path, request.body, SEND_TIMEOUT).await
    }
}

/// Adds the processors that the options name.
pub(crate) fn add<T: Transport>(common: &Common, mut builder: AgentBuilder<T>) -> anyhow::Result<AgentBuilder<T>> {
    let certname = common.certname()?;
    for target in &common.report_to {
        builder = match target {
            ReportTo::Store(dir) => builder.report_processor(StoreReports::new(dir.clone(), certname.clone())),
            ReportTo::Prometheus(path) => builder.report_processor(PrometheusTextfile::new(path.clone())),
            ReportTo::Http(api, url) => {
                let tls = common.ssldir.as_ref().map(|dir| TlsFiles::from_ssldir(dir, &certname));
                let options = HttpOptions { tls, ..HttpOptions::default() };
                let transport = HttpTransport::new(url, &options)
                    .with_context(|| format!("could not use {url} as a target of reports: https needs --ssldir"))?;
                let sender = Sender { transport, url: url.clone() };
                let environment = common.environment.clone().unwrap_or_default();
                builder.report_processor(HttpReports::new(*api, certname.clone(), environment, sender, common.system()?))
            }
        };
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
