//! `verify`.

use clap::Args;
use direct_puppet_agent::RunOptions;
use direct_puppet_agent::tree::Proof;

use crate::options::Common;
use crate::{connect, output, run};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Compare by fingerprints under this node's secret where there are, instead of digests: faster; finds damage and changes, but is
    /// no proof against who could read the secret
    #[arg(long)]
    fingerprints: bool,
}

pub(crate) async fn verify(common: &Common, arguments: &Arguments) -> anyhow::Result<u8> {
    let agent = common.agent(connect::nowhere())?;
    let proof = if arguments.fingerprints { Proof::Fingerprint } else { Proof::Digest };
    // As `Agent::verify_by`, with what it tells.
    let options = RunOptions {
        noop: true,
        use_cached_catalog: true,
        proof,
        fetch: false,
        report: false,
        lines: output::listener(common.json),
        ..RunOptions::default()
    };
    run::print(&agent.run(&options).await?, common.json)
}
