//! `disable` and `enable`.

use clap::Args;

use crate::options::Common;
use crate::output;

/// Arguments of `disable`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Why, for whoever finds the agent disabled
    #[arg(default_value = "reason not specified")]
    message: String,
}

pub(crate) fn disable(common: &Common, arguments: &Arguments) -> anyhow::Result<u8> {
    direct_puppet_agent::disable(&common.state_dir()?, &arguments.message)?;
    tell(common, true, Some(&arguments.message), &format!("runs are disabled: {}", arguments.message))
}

pub(crate) fn enable(common: &Common) -> anyhow::Result<u8> {
    let was_disabled = direct_puppet_agent::enable(&common.state_dir()?)?;
    tell(common, false, None, if was_disabled { "runs are enabled" } else { "runs were not disabled" })
}

fn tell(common: &Common, disabled: bool, message: Option<&str>, line: &str) -> anyhow::Result<u8> {
    if common.json {
        output::json(&serde_json::json!({ "disabled": disabled, "disabled_message": message }))?;
    } else {
        output::line(line);
    }
    Ok(0)
}
