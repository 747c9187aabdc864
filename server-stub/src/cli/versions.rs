//! `versions`.

use clap::Args;
use direct_puppet_server_stub::code::Version;
use direct_puppet_server_stub::history::Listed;
use direct_puppet_transport::protocol::Environment;

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `versions`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Only this environment
    #[arg(long, value_name = "ENV")]
    environment: Option<Environment>,
}

pub(super) async fn versions(arguments: Arguments) -> anyhow::Result<u8> {
    let versions: Vec<Listed> = admin::ask(&arguments.data.data, None, Question::Versions(arguments.environment)).await?;
    if arguments.data.json {
        super::print_json(&versions)?;
    } else {
        for Listed { version, is_left_out } in &versions {
            let left_out = if *is_left_out { " (not taken over)" } else { "" };
            let Version { environment, code_id, version, files, message, author, time_unix_seconds, .. } = version;
            let time = super::explain::time(*time_unix_seconds);
            super::print_line(&format!(
                "{environment} {version} {time} {code_id} {files} files, by {}: {message}{left_out}",
                named(&author.name)
            ));
        }
    }
    Ok(0)
}

/// Returns a name, or what stands for none.
fn named(name: &str) -> &str {
    if name.is_empty() { "nobody named" } else { name }
}
