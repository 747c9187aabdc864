//! `undo`.

use crate::options::Common;
use crate::{connect, output};

pub(crate) async fn undo(common: &Common) -> anyhow::Result<u8> {
    let outcome = common.agent(connect::nowhere())?.undo().await?;
    if common.json {
        output::json(&outcome)?;
    } else {
        for path in &outcome.restored {
            output::line(&format!("Notice: {path}: put back"));
        }
        for (path, reason) in &outcome.failed {
            output::line(&format!("Error: {path}: {reason}"));
        }
    }
    let changed = if outcome.restored.is_empty() { 0 } else { 2 };
    Ok(changed + if outcome.failed.is_empty() { 0 } else { 4 })
}
