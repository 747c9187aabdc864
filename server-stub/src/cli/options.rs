//! Options that the verbs of administrators share.

use std::path::{Path, PathBuf};

use clap::Args;
use direct_puppet_server_stub::Staging;

/// Where the data are.
#[derive(Debug, Clone, Args)]
pub(super) struct Data {
    /// Directory for everything that the server keeps
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Returns the staging in `dir`; verbs that need none may leave it out.
pub(super) fn staging(dir: Option<&Path>) -> anyhow::Result<Staging> {
    Ok(match dir {
        Some(dir) => Staging::Environments(std::path::absolute(dir)?),
        None => Staging::Nowhere,
    })
}
