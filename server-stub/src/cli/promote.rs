//! `promote`.

use clap::Args;
use direct_puppet_server_stub::{LeftOut, PromoteRequest, Promoted};

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `promote`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Leave out servers that cannot be asked to step down, because they were stopped: what was published there and never came
    /// here is not taken over
    #[arg(long)]
    force: bool,
}

pub(super) async fn promote(arguments: Arguments) -> anyhow::Result<u8> {
    let question = Question::Promote(PromoteRequest { force: arguments.force });
    let promoted: Promoted = admin::ask(&arguments.data.data, None, question).await?;
    if arguments.data.json {
        super::print_json(&promoted)?;
    } else {
        super::print_line(&format!("this server is the primary of epoch {}", promoted.epoch));
        for version in &promoted.live {
            super::print_line(&format!("{} {} {}", version.environment, version.version, version.message));
        }
        if let Some(reason) = &promoted.unfinished {
            super::print_line(&format!("not all of it could be written as of that epoch yet, which is tried again: {reason}"));
        }
        for left_out in &promoted.left_out {
            let LeftOut { server, reason } = left_out;
            super::print_line(&format!("left out: {server} ({reason}); stop it, or keep nodes away until it follows"));
        }
    }
    Ok(0)
}
