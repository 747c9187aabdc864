//! `recompile`.

use clap::Args;
use direct_puppet_transport::protocol::Certname;

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `recompile`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The node
    node: Certname,
    #[command(flatten)]
    data: Data,
}

pub(super) async fn recompile(arguments: Arguments) -> anyhow::Result<u8> {
    let node = arguments.node.clone();
    let () = admin::ask(&arguments.data.data, None, Question::Recompile(arguments.node)).await?;
    if arguments.data.json {
        super::print_json(&serde_json::json!({ "recompile": node }))?;
    } else {
        super::print_line(&format!("{node} gets a new catalog at its next check-in"));
    }
    Ok(0)
}
