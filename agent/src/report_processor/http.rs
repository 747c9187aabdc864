//! Reports to Puppet Server, PuppetDB and Foreman over HTTP. How a request is sent is the host's: see [`HttpSend`].

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::TransportError;
use direct_puppet_transport::protocol::{Certname, Environment, Report};
use sha1::{Digest as _, Sha1};

use super::{ProcessorError, ReportId, ReportProcessor, bodies, error_of};
use crate::puppet_report::{PuppetReport, iso8601};
use crate::system::{System, unix_nanos};

/// Who takes the reports, and so in which shape and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportApi {
    /// A Puppet Server: `PUT /puppet/v3/report/NODE`.
    Puppet,
    /// PuppetDB: the command `store report`, version 8.
    PuppetDb,
    /// Foreman: `POST /api/config_reports`.
    Foreman,
}

impl ReportApi {
    /// Returns its name: `puppet`, `puppetdb`, `foreman`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Puppet => "puppet",
            Self::PuppetDb => "puppetdb",
            Self::Foreman => "foreman",
        }
    }
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// `PUT`.
    Put,
    /// `POST`.
    Post,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: HttpMethod,
    /// Path and query, from the root of the server.
    pub path: String,
    /// JSON.
    pub body: Bytes,
}

/// Sends requests to one server.
#[async_trait]
pub trait HttpSend: Debug + Send + Sync + 'static {
    /// Returns the URL of the server, for messages and names.
    fn endpoint(&self) -> &str;

    /// Sends a request with the content type `application/json`, and returns the status of the answer and the beginning of its body.
    ///
    /// # Errors
    ///
    /// When there is no answer within the sender's own time limit.
    async fn send(&self, request: HttpRequest) -> Result<(u16, String), TransportError>;
}

/// Sends reports over HTTP.
#[derive(Debug)]
pub struct HttpReports {
    name: String,
    api: ReportApi,
    certname: Certname,
    environment: Environment,
    sender: Box<dyn HttpSend>,
    system: Arc<dyn System>,
}

impl HttpReports {
    /// Returns a processor that sends the reports of a node.
    #[must_use]
    pub fn new(api: ReportApi, certname: Certname, environment: Environment, sender: impl HttpSend, system: impl System) -> Self {
        let target = blake3::hash(sender.endpoint().as_bytes()).to_hex();
        let name = format!("{}-{}", api.name(), &target[..8]);
        Self { name, api, certname, environment, sender: Box::new(sender), system: Arc::new(system) }
    }

    fn request(&self, body: Bytes) -> HttpRequest {
        let node = &self.certname;
        let (method, path) = match self.api {
            ReportApi::Puppet => (HttpMethod::Put, format!("/puppet/v3/report/{node}?environment={}", self.environment)),
            ReportApi::PuppetDb => {
                let checksum: String = Sha1::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
                let sent = iso8601(unix_nanos(self.system.now()));
                let sent = sent.replace("+00:00", "Z");
                let command = "command=store_report&version=8";
                (HttpMethod::Post, format!("/pdb/cmd/v1?{command}&certname={node}&producer-timestamp={sent}&checksum={checksum}"))
            }
            ReportApi::Foreman => (HttpMethod::Post, "/api/config_reports".to_owned()),
        };
        HttpRequest { method, path, body }
    }
}

/// Whether a status says that the same may be taken later.
const fn is_retryable(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 408 | 421 | 425 | 429 | 500..)
}

#[async_trait]
impl ReportProcessor for HttpReports {
    fn name(&self) -> &str {
        &self.name
    }

    fn body(&self, report: &Report) -> Result<Vec<u8>, ProcessorError> {
        let made = match self.api {
            ReportApi::Puppet => serde_json::to_vec(&PuppetReport(report)),
            ReportApi::PuppetDb => serde_json::to_vec(&bodies::puppetdb(report, unix_nanos(self.system.now()))),
            ReportApi::Foreman => serde_json::to_vec(&bodies::foreman(report)),
        };
        made.map_err(|error| error_of(&self.name, "make the report", false, error))
    }

    async fn send(&self, _: &ReportId, body: Bytes) -> Result<(), ProcessorError> {
        let attempt = || format!("send the report to {}", self.sender.endpoint());
        let answer = self.sender.send(self.request(body)).await;
        let (status, said) = answer.map_err(|error| error_of(&self.name, attempt(), true, error))?;
        match status {
            200..=299 => Ok(()),
            // It has it already.
            409 if self.api == ReportApi::Foreman => Ok(()),
            _ => {
                let answered = format!("{}: it answered {status} {}", attempt(), said.trim());
                Err(ProcessorError {
                    processor: self.name.clone(),
                    attempt: answered.trim_end().to_owned(),
                    is_retryable: is_retryable(status),
                    // The others say something of this body, or may.
                    is_away: matches!(status, 429 | 503),
                    source: None,
                })
            }
        }
    }
}
