//! Reports as files in a directory, as Puppet's processor `store` writes them.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::{Certname, Report};

use super::{ProcessorError, ReportId, ReportProcessor, error_of};
use crate::fs::write_state;
use crate::puppet_report::{PuppetReport, iso8601};

/// Writes each report to `DIR/NODE/YYYYMMDDHHMMSS-RUN.yaml`, by when the run began, in UTC, and its transaction id. Puppet's names are the
/// time up to the minute alone, so that reports of the same minute replace each other.
#[derive(Debug)]
pub struct StoreReports {
    name: String,
    dir: PathBuf,
    certname: Certname,
}

impl StoreReports {
    /// Returns a processor that writes below `dir`, which it makes.
    #[must_use]
    pub fn new(dir: PathBuf, certname: Certname) -> Self {
        let target = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
        Self { name: format!("store-{}", &target[..8]), dir, certname }
    }
}

/// Writes a report. One that is there already stays: the same is no error, another one is.
fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    match std::fs::read(path) {
        Ok(there) if there == body => return Ok(()),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another report has this name, and is left as it is")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write_state(path, body, 0o640).map_err(io::Error::other)
}

#[async_trait]
impl ReportProcessor for StoreReports {
    fn name(&self) -> &str {
        &self.name
    }

    fn body(&self, report: &Report) -> Result<Vec<u8>, ProcessorError> {
        let mut body = Vec::new();
        PuppetReport(report).write_yaml(&mut body).map_err(|error| error_of(&self.name, "make the report", false, error))?;
        Ok(body)
    }

    async fn send(&self, id: &ReportId, body: Bytes) -> Result<(), ProcessorError> {
        let time: String = iso8601(id.time_unix_nanos).chars().take(19).filter(char::is_ascii_digit).collect();
        let path = self.dir.join(self.certname.as_str()).join(format!("{time}-{}.yaml", id.transaction_uuid));
        let attempt = format!("write the report to {}", path.display());
        let written = tokio::task::spawn_blocking(move || write(&path, &body));
        let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| {
            let is_retryable = error.kind() != io::ErrorKind::AlreadyExists;
            error_of(&self.name, attempt, is_retryable, error)
        })
    }
}
