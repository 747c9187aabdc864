//! `apply`: publish a directory to a server inside this process, and make a run against it; or apply one catalog of Puppet's.

use std::io::Read as _;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_agent::{GivenCatalog, Outcome, RunMode, RunOptions};
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{Server, ServerError, ServerOptions, Staging};
use direct_puppet_transport::{MemoryTransport, Transport};

use crate::connect;
use crate::options::Common;
use crate::plan_file::Plan;
use crate::run::RunArguments;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Directory with site.yaml, or with environments/ENV/site.yaml; or a file that "plan --out" wrote, which is applied as it is, or not at all
    #[arg(required_unless_present = "catalog", conflicts_with = "catalog")]
    site: Option<PathBuf>,
    /// Apply this catalog of Puppet's, in JSON, as "puppet apply --catalog" does; "-" reads it from standard input
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    #[command(flatten)]
    run: RunArguments,
}

pub(crate) async fn apply(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let options = RunOptions { run_mode: RunMode::User, ..arguments.run.options(common.json) };
    let outcome = match (&arguments.catalog, &arguments.site) {
        (Some(file), _) => apply_catalog(common, file, options).await?,
        (None, Some(file)) if file.is_file() => {
            if options.noop || !options.tags.is_empty() || !options.skip_tags.is_empty() {
                bail!("a plan says itself what is applied: leave out --noop, --tags and --skip-tags");
            }
            Plan::read(file)?.apply(common, options).await?
        }
        (None, Some(site)) => {
            let agent = common.agent(embedded(common, site).await?)?;
            crate::run::once(&agent, &options, common.json).await?
        }
        (None, None) => bail!("nothing to apply: name a site, or a catalog with --catalog"),
    };
    crate::run::print(&outcome, common.json)
}

/// Applies the catalog in `file` for the node and the environment that it names.
pub(crate) async fn apply_catalog(common: &Common, file: &Path, options: RunOptions) -> anyhow::Result<Outcome> {
    let text = read(file).with_context(|| format!("could not read the catalog {}", file.display()))?;
    let given =
        GivenCatalog::read(&text).with_context(|| format!("could not use {} as a catalog of Puppet's", file.display()))?;
    drop(text);
    let catalog = &given.puppet().catalog;
    let (certname, environment) = (&catalog.certname, &catalog.environment);
    if let Some(node) = common.node.as_ref().filter(|node| *node != certname) {
        bail!("catalog {} is for node {certname}, not {node}: leave out --node", file.display());
    }
    if let Some(wanted) = common.environment.as_ref().filter(|wanted| *wanted != environment) {
        bail!("catalog {} is of environment {environment}, not {wanted}: leave out --environment", file.display());
    }
    make_root(common)?;
    let builder = common.builder()?.certname(certname.clone()).environment(environment.clone());
    let common = Common { node: Some(certname.clone()), environment: Some(environment.clone()), ..common.clone() };
    // What it has read of the machine is not taken apart either.
    let agent = ManuallyDrop::new(common.complete(builder.transport(connect::nowhere()))?);
    let options = RunOptions { ends_process: true, ..options };
    crate::run::once_with(&agent, Some(given), &options, common.json).await
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file.as_os_str() != "-" {
        return std::fs::read(file);
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

/// Makes the managed root if it is not there: one level only, so that a mistyped path is an error.
fn make_root(common: &Common) -> anyhow::Result<()> {
    let root = common.root()?;
    if !root.is_dir() {
        std::fs::create_dir(&root)
            .with_context(|| format!("managed root {} is not there and could not be made", root.display()))?;
    }
    Ok(())
}

/// Publishes `site` to a server inside this process, and returns a transport to it. Its data lie in the state directory, so a
/// second run compiles nothing.
pub(crate) async fn embedded(common: &Common, site: &Path) -> anyhow::Result<Arc<dyn Transport>> {
    let environment = common.environment.clone().unwrap_or_default();
    make_root(common)?;
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
    Ok(Arc::new(MemoryTransport::new(server)))
}
