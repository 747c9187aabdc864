//! Reports as files in a directory, as Puppet's processor `store` writes them.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::{Certname, Report};

use super::{ProcessorError, ReportProcessor, error_of};
use crate::fs::write_state;
use crate::puppet_report::{PuppetReport, iso8601};
use crate::system::{System, unix_nanos};

/// Writes each report to `DIR/NODE/YYYYMMDDHHMMSS.yaml`; Puppet's names end with the minute.
#[derive(Debug)]
pub struct StoreReports<S> {
    dir: PathBuf,
    certname: Certname,
    system: S,
}

impl<S: System> StoreReports<S> {
    /// Returns a processor that writes below `dir`, which it makes.
    #[must_use]
    pub const fn new(dir: PathBuf, certname: Certname, system: S) -> Self {
        Self { dir, certname, system }
    }
}

#[async_trait]
impl<S: System> ReportProcessor for StoreReports<S> {
    fn name(&self) -> &str {
        "store"
    }

    fn body(&self, report: &Report) -> Result<Vec<u8>, ProcessorError> {
        let mut body = Vec::new();
        PuppetReport(report).write_yaml(&mut body).map_err(|error| error_of("store", "make the report", false, error))?;
        Ok(body)
    }

    async fn send(&self, body: Bytes) -> Result<(), ProcessorError> {
        let dir = self.dir.join(self.certname.as_str());
        let time: String = iso8601(unix_nanos(self.system.now()))[..19].chars().filter(char::is_ascii_digit).collect();
        let path = dir.join(format!("{time}.yaml"));
        let attempt = format!("write the report to {}", path.display());
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir).map_err(Box::<dyn std::error::Error + Send + Sync>::from)?;
            write_state(&path, &body, 0o640).map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        });
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|error| error_of("store", attempt, true, error))
    }
}
