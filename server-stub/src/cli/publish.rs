//! `publish`.

use std::path::PathBuf;

use clap::Args;
use direct_puppet_server_stub::code::Author;
use direct_puppet_server_stub::publish::{EnvironmentResult, PublishRequest};
use direct_puppet_transport::protocol::{CodeId, Environment};

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Staged code; a running server has its own
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// Only these environments
    #[arg(long = "environment", value_name = "ENV", value_delimiter = ',')]
    environments: Vec<Environment>,
    /// Why
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
    /// Who
    #[arg(long, value_name = "NAME", default_value = "")]
    author: String,
    /// The revision of its source [default: as the deploy tool or git left it in staging]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Asked again with the same id, nothing is published twice
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only if this is live in the one environment that is named; else nothing is published
    #[arg(long, value_name = "CODE_ID", requires = "environments")]
    if_live: Option<CodeId>,
    /// Check, but publish nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn publish(arguments: Arguments) -> anyhow::Result<u8> {
    let request = PublishRequest {
        environments: arguments.environments,
        message: arguments.message,
        author: Author { name: arguments.author, email: String::new() },
        revision: arguments.revision,
        request_id: arguments.request_id,
        if_live: arguments.if_live,
        dry_run: arguments.dry_run,
    };
    let is = if request.dry_run { "would be" } else { "is" };
    let staging = arguments.staging.as_deref();
    let results: Vec<EnvironmentResult> = admin::ask(&arguments.data.data, staging, Question::Publish(request)).await?;
    if arguments.data.json {
        super::print_json(&serde_json::json!({ "environments": results }))?;
    } else {
        results.iter().for_each(|result| super::print_line(&line(result, is)));
    }
    Ok(u8::from(results.iter().any(|result| result.error.is_some())))
}

/// Says what became of an environment; `is` is the verb of what was made live.
pub(super) fn line(result: &EnvironmentResult, is: &str) -> String {
    let EnvironmentResult { environment, files, new_contents, .. } = result;
    let code_id = result.code_id.map(|id| id.to_string()).unwrap_or_else(|| "nothing".to_owned());
    let note = result.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    match &result.error {
        Some(error) => format!("{environment}: refused, {code_id} stays live: {}{note}", error.message),
        None if result.changed => {
            format!(
                "{environment}: {code_id} {is} live as {}.{}, {files} files, {new_contents} new contents{note}",
                result.epoch, result.sequence
            )
        }
        None => format!("{environment}: unchanged, {code_id} is live as {}.{}{note}", result.epoch, result.sequence),
    }
}
