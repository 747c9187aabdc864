//! `apply`: publish a directory to a server inside this process, and make a run against it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{Server, ServerError, ServerOptions, Staging};
use direct_puppet_transport::MemoryTransport;

use crate::options::Common;
use crate::run::RunArguments;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Directory with site.yaml, or with environments/ENV/site.yaml
    site: PathBuf,
    #[command(flatten)]
    run: RunArguments,
}

pub(crate) async fn apply(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let agent = common.agent(embedded(common, &arguments.site).await?)?;
    let outcome = crate::run::once(&agent, &arguments.run.options(), common.json).await?;
    crate::run::print(&outcome, common.json)
}

/// Publishes `site` to a server inside this process, and returns a transport to it. Its data lie in the state directory, so a
/// second run compiles nothing.
pub(crate) async fn embedded(common: &Common, site: &Path) -> anyhow::Result<MemoryTransport> {
    let environment = common.environment.clone().unwrap_or_default();
    let root = common.root()?;
    if !root.is_dir() {
        // One level only: a mistyped path is an error.
        std::fs::create_dir(&root)
            .with_context(|| format!("managed root {} is not there and could not be made", root.display()))?;
    }
    let staging = Staging::of_site(&std::path::absolute(site)?, &environment);
    let options = ServerOptions::new(common.state_dir()?.join("server"), staging);
    let server = match tokio::task::spawn_blocking(move || Server::open(options)).await? {
        Err(ServerError::Busy { .. }) => {
            bail!("another apply or plan works with state directory {}: wait for it to end", common.state_dir()?.display())
        }
        opened => opened?,
    };
    let request = PublishRequest { environments: vec![environment], message: "apply".to_owned(), ..PublishRequest::default() };
    for result in server.publish(request).await? {
        if let Some(error) = result.error {
            bail!("site {} is refused: {}", site.display(), error.message);
        }
    }
    Ok(MemoryTransport::new(server))
}
