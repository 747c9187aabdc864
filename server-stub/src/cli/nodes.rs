//! `nodes`.

use clap::Args;
use direct_puppet_server_stub::NodeSummary;

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `nodes`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
}

pub(super) async fn nodes(arguments: Arguments) -> anyhow::Result<u8> {
    let nodes: Vec<NodeSummary> = admin::ask(&arguments.data.data, None, Question::Nodes).await?;
    if arguments.data.json {
        super::print_json(&nodes)?;
    } else {
        for node in &nodes {
            let code_id = node.code_id.map(|id| id.to_string()).unwrap_or_else(|| "none".to_owned());
            let status = node.status.map(|status| format!("{status:?}").to_lowercase()).unwrap_or_else(|| "no report".to_owned());
            super::print_line(&format!("{} {status} {code_id} {} compiles", node.certname, node.compiles));
        }
    }
    Ok(0)
}
