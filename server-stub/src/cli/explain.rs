//! `explain`.

use clap::Args;
use direct_puppet_agent::Origin;
use direct_puppet_server_stub::history::{ExplainRequest, Explanation, VersionName};
use direct_puppet_transport::protocol::{Certname, Environment};

use super::admin::{self, Question};
use super::options::Data;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A version: live, a counter as 1.7, or a code_id [default: what the node has, or live]
    version: Option<VersionName>,
    #[command(flatten)]
    data: Data,
    /// The environment [default: that of the node, or production]
    #[arg(long, value_name = "ENV")]
    environment: Option<Environment>,
    /// A node: say also which catalog it was given last
    #[arg(long, value_name = "NODE")]
    node: Option<Certname>,
    /// A path on that node: say also what manages it
    #[arg(long, value_name = "PATH", requires = "node")]
    path: Option<String>,
}

pub(super) async fn explain(arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { version, data, environment, node, path } = arguments;
    let request = ExplainRequest { environment, version, node, path: path.clone() };
    let explained: Explanation = admin::ask(&data.data, None, Question::Explain(request)).await?;
    if data.json {
        super::print_json(&explained)?;
        return Ok(0);
    }
    let Explanation { version, published_unix_seconds, is_left_out, nodes, catalog, origin } = explained;
    let print = |name: &str, value: &str| super::print_line(&format!("{name:<10} {value}"));
    if let Some(path) = path {
        match origin {
            Some(origin) => tell(&path, &origin, print),
            None => print("path", &format!("{path}: no resource manages it")),
        }
    }
    if let Some(catalog) = catalog {
        print("catalog", &format!("{} compiled {} by {}", catalog.catalog_id, time(catalog.time_unix_seconds), catalog.compiler));
    }
    let left_out = if is_left_out { " (not taken over by a promotion)" } else { "" };
    print("version", &format!("{} {}{left_out}", version.environment, version.version));
    print("code_id", &version.code_id.to_string());
    let author = match (version.author.name.as_str(), version.author.email.as_str()) {
        ("", "") => "nobody named".to_owned(),
        (name, "") => name.to_owned(),
        (name, email) => format!("{name} <{email}>"),
    };
    let published = published_unix_seconds.map_or_else(|| "before it was taken over".to_owned(), time);
    print("published", &format!("{published} by {author}"));
    if published_unix_seconds != Some(version.time_unix_seconds) {
        print("taken over", &time(version.time_unix_seconds));
    }
    print("message", &version.message);
    print("revision", version.revision.as_deref().unwrap_or("not known"));
    print("nodes", &nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    Ok(0)
}

fn tell(path: &str, origin: &Origin, print: impl Fn(&str, &str)) {
    print("path", path);
    let place = match (&origin.file, origin.line) {
        (Some(file), Some(line)) => format!(" declared in {file}:{line}"),
        (Some(file), None) => format!(" declared in {file}"),
        _ => String::new(),
    };
    print("resource", &format!("{}{place}", origin.resource));
    if let Some(source) = &origin.source {
        print("source", source);
    }
    if let Some(digest) = origin.digest {
        print("content", &digest.to_string());
    }
}

pub(super) fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}
