//! `rollout`.

use clap::Args;
use direct_puppet_server_stub::rollout::{ReplicaRollout, RolloutRequest, RolloutStatus};

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `rollout`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Wake so many waiting nodes a second after a publish; 0 for all at once
    #[arg(long, value_name = "NODES")]
    per_second: Option<u32>,
    /// Let no node that has other code have the new one, and tell why
    #[arg(long, value_name = "WHY", conflicts_with = "resume")]
    pause: Option<String>,
    /// Go on
    #[arg(long)]
    resume: bool,
}

pub(super) async fn rollout(arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { data, per_second, pause, resume } = arguments;
    let request = RolloutRequest { per_second, pause, resume };
    let status: RolloutStatus = admin::ask(&data.data, None, Question::Rollout(request)).await?;
    if data.json {
        super::print_json(&status)?;
        return Ok(0);
    }
    let rate = match status.rollout.per_second {
        0 => "all waiting nodes at once".to_owned(),
        rate => format!("{rate} waiting nodes a second"),
    };
    let state = status.rollout.paused.map_or_else(|| "running".to_owned(), |why| format!("PAUSED: {why}"));
    super::print_line(&format!("{state}; {rate}; {} wait for their turn", status.waiting));
    for environment in status.environments {
        let live = environment.live.as_ref();
        let standing = live.map_or_else(|| "nothing is live".to_owned(), |live| format!("{} {}", live.version, live.code_id));
        super::print_line(&format!("{}: {standing}", environment.environment));
        for (code, nodes) in environment.nodes {
            let is_live = live.is_some_and(|live| live.code_id.to_string() == code);
            let (mark, code) =
                (if is_live { "live" } else { "old" }, if code.is_empty() { "no code yet" } else { code.as_str() });
            let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
            super::print_line(&format!("  {mark:<4} {code} {} nodes: {}", names.len(), names.join(" ")));
        }
    }
    for (replica, ReplicaRollout { seconds_ago, nodes }) in status.replicas {
        super::print_line(&format!("{replica}, as it said {seconds_ago} s ago:"));
        if nodes.is_empty() {
            super::print_line("  no nodes");
        }
        for (environment, codes) in nodes {
            for (code, nodes) in codes {
                super::print_line(&format!("  {environment}: {code} {nodes} nodes"));
            }
        }
    }
    Ok(0)
}
