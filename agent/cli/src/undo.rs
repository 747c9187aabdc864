//! `undo`.

use clap::Args;
use direct_puppet_agent::undo::UndoOptions;

use crate::options::Common;
use crate::{connect, output};

/// Arguments of `undo`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Put back also what was changed since the run; what is replaced so is kept in the store for 30 days
    #[arg(long)]
    force: bool,
}

pub(crate) async fn undo(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let outcome = common.agent(connect::nowhere())?.undo(UndoOptions::force(arguments.force)).await?;
    if common.json {
        output::json(&outcome)?;
    } else {
        for path in &outcome.restored {
            output::line(&output::printable(&format!("Notice: {path}: put back")));
        }
        for (path, digest) in &outcome.kept {
            output::line(&output::printable(&format!("Notice: {path}: what was there is in the store as {digest}")));
        }
        for (path, reason) in &outcome.failed {
            output::line(&output::printable(&format!("Error: {path}: {reason}")));
        }
        let age = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_secs().saturating_sub(outcome.run_time_unix_seconds));
        let (put_back, failed) = (outcome.restored.len(), outcome.failed.len());
        output::line(&format!("run {} of {age} s ago: {put_back} put back, {failed} not", outcome.run));
    }
    let changed = if outcome.restored.is_empty() { 0 } else { 2 };
    Ok(changed + if outcome.failed.is_empty() { 0 } else { 4 })
}
