//! The paths of file sync as Puppet Enterprise has them: `commit`, `latest-commits`, the status of the storage service.
//!
//! One repository, `puppet-code`, with each environment as a submodule; commits are the hexadecimal digits of a `code_id`, that of
//! the repository is over those of all environments. The shapes are those of the public documentation of file sync 2016 to 2019.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{CodeId, Digest, Environment, VersionCounter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::code::{Author, Version};
use crate::error::ServerError;
use crate::publish::{EnvironmentResult, PublishRequest};
use crate::server::{Server, now};

/// The name of the one repository.
const REPOSITORY: &str = "puppet-code";

/// The body of `commit`: everything, or the repository, or one environment of it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct CommitRequest {
    commit_all: bool,
    repo_id: Option<String>,
    submodule_id: Option<Environment>,
    message: String,
    author: Author,
    /// Ours, as those of a publish.
    #[serde(alias = "request_id")]
    request_id: Option<String>,
    #[serde(alias = "dry_run")]
    dry_run: bool,
}

impl CommitRequest {
    /// Returns what is to be published, or what is wrong with the request.
    pub(super) fn into_publish(self) -> Result<PublishRequest, String> {
        if self.repo_id.is_none() && !self.commit_all {
            return Err("say \"commit-all\": true, or name a \"repo-id\"".to_owned());
        }
        let environments = named(self.repo_id.as_deref(), self.submodule_id)?;
        let Self { message, author, request_id, dry_run, .. } = self;
        Ok(PublishRequest { environments, message, author, request_id, dry_run, ..PublishRequest::default() })
    }
}

/// Returns the environments that a repository and one submodule of it name: none for all.
fn named(repo_id: Option<&str>, submodule_id: Option<Environment>) -> Result<Vec<Environment>, String> {
    match repo_id {
        None if submodule_id.is_some() => Err("\"submodule-id\" needs \"repo-id\"".to_owned()),
        Some(name) if name != REPOSITORY => Err(format!("there is no repository {name}, only {REPOSITORY}")),
        _ => Ok(submodule_id.into_iter().collect()),
    }
}

/// Reads the body of `publish`: ours, or the repository and the submodule of `commit` in the place of environments.
pub(super) fn published(mut body: Map<String, Value>) -> Result<PublishRequest, String> {
    let (repo_id, submodule_id) = (body.remove("repo-id"), body.remove("submodule-id"));
    let is_named = repo_id.is_some() || submodule_id.is_some();
    if is_named && body.contains_key("environments") {
        return Err("name \"environments\", or \"repo-id\" and \"submodule-id\", not both".to_owned());
    }
    let read = |error: serde_json::Error| error.to_string();
    let repo_id: Option<String> = repo_id.map(serde_json::from_value).transpose().map_err(read)?;
    let submodule_id = submodule_id.map(serde_json::from_value).transpose().map_err(read)?;
    let request: PublishRequest = serde_json::from_value(Value::Object(body)).map_err(read)?;
    if !is_named {
        return Ok(request);
    }
    Ok(PublishRequest { environments: named(repo_id.as_deref(), submodule_id)?, ..request })
}

/// Who made a commit.
#[derive(Debug, Serialize)]
struct Commit {
    commit: String,
    date: String,
    message: String,
    identity: Author,
}

impl Commit {
    fn of(version: &Version) -> Self {
        let time = i64::try_from(version.time_unix_seconds).ok().and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
        Self {
            commit: version.code_id.digest().to_hex(),
            date: time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default(),
            message: version.message.clone(),
            identity: version.author.clone(),
        }
    }
}

/// Returns the answer to `commit`: what is live now, and for environments that were refused why.
/// In a dry run: as if it were.
pub(super) fn committed(server: &Server, results: &[EnvironmentResult], dry_run: bool) -> Value {
    let submodules: BTreeMap<&str, Value> = results
        .iter()
        .map(|result| {
            let value = match (&result.error, result.code_id) {
                (Some(error), _) => json!({ "error": { "type": "publish-error", "message": error.message } }),
                (None, Some(code_id)) => code_id.digest().to_hex().into(),
                (None, None) => Value::Null,
            };
            (result.environment.as_str(), value)
        })
        .collect();
    let mut commits = commits(&live(server));
    if dry_run {
        let would_be = results.iter().filter(|result| result.error.is_none() && !result.is_beside);
        commits.extend(would_be.filter_map(|result| Some((result.environment.clone(), result.code_id?))));
    }
    // Ours: the token that a request may carry, so that it is answered from nothing older.
    let accepted = results.iter().filter(|result| result.error.is_none() && result.code_id.is_some());
    let versions: BTreeMap<&str, String> = accepted
        .map(|result| {
            (result.environment.as_str(), VersionCounter { epoch: result.epoch, sequence: result.sequence }.to_string())
        })
        .collect();
    json!({ REPOSITORY: { "commit": whole(&commits), "submodules": submodules, "versions": versions } })
}

/// Returns the code of each environment.
fn commits(live: &[Version]) -> BTreeMap<Environment, CodeId> {
    live.iter().map(|version| (version.environment.clone(), version.code_id)).collect()
}

/// Returns what is live and answered from.
fn live(server: &Server) -> Vec<Version> {
    let orphans = server.orphans();
    let mut live = server.live_versions();
    live.retain(|version| !orphans.contains(&version.environment));
    live
}

/// Returns the answer to `latest-commits`.
pub(super) fn latest(server: &Server) -> Value {
    let live = live(server);
    let submodules: BTreeMap<&str, String> =
        live.iter().map(|version| (version.environment.as_str(), version.code_id.digest().to_hex())).collect();
    json!({ REPOSITORY: { "commit": whole(&commits(&live)), "submodules": submodules } })
}

/// Returns the status of the storage service.
pub(super) fn status(server: &Server) -> Result<Value, ServerError> {
    let live = server.live_versions();
    let submodules: BTreeMap<&str, Value> =
        live.iter().map(|version| (version.environment.as_str(), json!({ "latest_commit": Commit::of(version) }))).collect();
    let newest = live.iter().max_by_key(|version| version.time_unix_seconds);
    let latest_commit =
        newest.map(|version| Commit { commit: whole(&commits(&self::live(server))).unwrap_or_default(), ..Commit::of(version) });
    let mut clients: BTreeMap<String, Value> =
        server.others()?.into_iter().map(|(name, follower)| (name, json!(follower))).collect();
    if server.role.is_primary() {
        for (name, reason) in server.followers.behind(&live, &server.options.replicas, server.own_name()) {
            clients.entry(name.to_string()).or_insert_with(|| json!({}))["behind"] = json!(reason);
        }
    }
    // One that may follow and was never heard of is not to be overlooked.
    for named in &server.options.replicas {
        clients.entry(named.certname.to_string()).or_insert(Value::Null);
    }
    Ok(json!({
        "service_name": "file-sync-storage-service", "service_status_version": 1, "state": "running",
        "status": {
            "timestamp": now(), "repos": { REPOSITORY: { "latest_commit": latest_commit, "submodules": submodules } },
            "clients": clients,
        },
    }))
}

/// Returns the status of the client service: what is live here, and how that stands to whom this server asks.
pub(super) fn client_status(server: &Server) -> Value {
    let live = server.live_versions();
    let following = server.following();
    let cause = following.as_ref().and_then(|following| following.failure.as_ref());
    let orphans = server.orphans();
    let status = |version: &Version| {
        let commit = Commit::of(version);
        let left_out = "this environment is not at the primary: no promotion has taken over what was published in it";
        match cause {
            _ if orphans.contains(&version.environment) => {
                json!({ "status": "error", "latest_commit": commit, "cause": { "type": "not-taken-over", "message": left_out } })
            }
            None if following.as_ref().is_some_and(|following| following.bringing.contains(&version.environment)) => {
                json!({ "status": "new-commits", "latest_commit": commit })
            }
            None => json!({ "status": "ok", "latest_commit": commit }),
            Some(cause) => {
                json!({ "status": "error", "latest_commit": commit, "cause": { "type": "unconfirmed", "message": cause } })
            }
        }
    };
    let submodules: BTreeMap<&str, Value> = live.iter().map(|version| (version.environment.as_str(), status(version))).collect();
    let mut whole_status = live.iter().max_by_key(|version| version.time_unix_seconds).map_or_else(|| json!({}), status);
    if let Some(commit) = whole_status.pointer_mut("/latest_commit/commit") {
        *commit = json!(whole(&commits(&self::live(server))));
    }
    whole_status["submodules"] = json!(submodules);
    json!({
        "service_name": "file-sync-client-service", "service_status_version": 1,
        "state": if cause.is_some() { "error" } else { "running" },
        "status": {
            "timestamp": now(), "repos": { REPOSITORY: whole_status },
            "role": server.role_name(),
            "primary": following.as_ref().map(|following| following.endpoint.as_str()),
            "seconds_since_confirmed": following.as_ref().and_then(|following| following.confirmed_ago).map(|ago| ago.as_secs()),
        },
    })
}

/// The commit of the repository: over the code of every environment.
fn whole(commits: &BTreeMap<Environment, CodeId>) -> Option<String> {
    if commits.is_empty() {
        return None;
    }
    let text: String = commits.iter().map(|(environment, code_id)| format!("{environment} {code_id}\n")).collect();
    Some(Digest::of(text.as_bytes()).to_hex())
}
