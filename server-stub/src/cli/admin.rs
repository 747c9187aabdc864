//! The administrator's way to a server: in this process when none runs, else over its socket.
//!
//! A running server listens on `<data>/admin.sock`, mode 0600: one JSON object a line, one answer a line. Only processes of
//! root and of the server's own user are heard.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use direct_puppet_server_stub::history::{CollectRequest, ExplainRequest, RollbackRequest, VersionName};
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::rollout::RolloutRequest;
use direct_puppet_server_stub::{PromoteRequest, Server, ServerError, ServerOptions};
use direct_puppet_transport::protocol::{Certname, Environment};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::options;

/// Longest question, in bytes.
const MAX_QUESTION_BYTES: u64 = 1 << 20;

/// How long to wait for a verb that works with the data directory.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What an administrator asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    Publish(PublishRequest),
    Versions(Option<Environment>),
    Nodes,
    Recompile(Certname),
    Diff { environment: Environment, from: VersionName, to: VersionName },
    Rollback(RollbackRequest),
    Checkout { environment: Environment, version: VersionName, dir: PathBuf },
    Verify,
    Collect(CollectRequest),
    Promote(PromoteRequest),
    Explain(ExplainRequest),
    Rollout(RolloutRequest),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// What was asked for.
    Value(serde_json::Value),
    Failed(String),
}

/// Asks the server of a data directory; answers in this process when none runs.
pub(super) async fn ask<T: DeserializeOwned>(data: &Path, staging: Option<&Path>, question: Question) -> anyhow::Result<T> {
    let is_publish = matches!(question, Question::Publish(_));
    if !data.is_dir() && !is_publish {
        bail!("there is no data directory {}: nothing was ever published there", data.display());
    }
    let options = ServerOptions { is_offline: true, ..ServerOptions::new(data, options::staging(staging)?) };
    let begun = Instant::now();
    let answer = loop {
        // Files of another user's server must stay his.
        let is_others = std::fs::metadata(data).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw());
        if !is_others {
            let options = options.clone();
            match tokio::task::spawn_blocking(move || Server::open(options)).await? {
                Ok(server) => {
                    // Whoever started this: a program that gives itself other rights acts for him all the same.
                    let who = format!("uid {}", rustix::process::getuid().as_raw());
                    break serde_json::from_slice(&answer(&server, question, &who).await)?;
                }
                Err(ServerError::Busy { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match UnixStream::connect(socket_path(data)).await {
            Ok(_) if is_publish && staging.is_some() => {
                bail!("a server works with {}, which has its own staging: leave --staging out", data.display());
            }
            Ok(stream) => break ask_running(stream, &question).await?,
            Err(_) if is_others => bail!("{} belongs to another user, and no server runs there: run this as him", data.display()),
            // Another verb has it for a moment.
            Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => {
                let path = socket_path(data);
                let what = format!("another process works with {}, and nothing answers at {}", data.display(), path.display());
                return Err(error).context(what);
            }
        }
    };
    match answer {
        Answer::Value(value) => Ok(serde_json::from_value(value)?),
        Answer::Failed(message) => bail!("{message}"),
    }
}

async fn ask_running(stream: UnixStream, question: &Question) -> anyhow::Result<Answer> {
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut text = String::new();
    stream.read_line(&mut text).await?;
    if text.is_empty() {
        bail!(
            "the server ended before it answered, so whether this was done is not known: look, and ask again; a publish with the same \
             --request-id is made once"
        );
    }
    serde_json::from_str(&text).context("the server's answer could not be read")
}

async fn answer(server: &Arc<Server>, question: Question, who: &str) -> Told {
    let question = match question {
        Question::Publish(request) => return told(server.publish_as(request, who).await),
        Question::Promote(request) => return told(server.promote(&request, who).await),
        Question::Rollback(request) => return told(server.rollback_as(request, who).await),
        Question::Collect(request) => return told(server.collect_as(request, who).await),
        question => question,
    };
    let (server, who) = (Arc::clone(server), who.to_owned());
    let answered = tokio::task::spawn_blocking(move || match question {
        Question::Publish(_) | Question::Promote(_) | Question::Rollback(_) | Question::Collect(_) => told::<()>(Ok(())),
        Question::Versions(environment) => told(server.versions(environment.as_ref())),
        Question::Nodes => told(server.nodes()),
        Question::Recompile(certname) => told(server.recompile(&certname, &who)),
        Question::Diff { environment, from, to } => told(server.diff(&environment, from, to)),
        Question::Checkout { environment, version, dir } => told(server.checkout(&environment, version, &dir)),
        Question::Verify => told(server.verify_as(&who)),
        Question::Rollout(request) => told(server.set_rollout(&request, &who).and_then(|()| server.rollout())),
        Question::Explain(request) => told(server.explain(&request)),
    });
    answered.await.unwrap_or_else(|error| failed(&error.to_string()))
}

/// An [`Answer`] as it is sent. What it is made from may be large, and is in memory once.
type Told = Vec<u8>;

/// [`Answer`], of what is borrowed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Telling<'a, T> {
    Value(&'a T),
    Failed(&'a str),
}

fn told<T: Serialize>(result: Result<T, ServerError>) -> Told {
    match result.map_err(anyhow::Error::from).and_then(|value| Ok(serde_json::to_vec(&Telling::Value(&value))?)) {
        Ok(text) => text,
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn failed(message: &str) -> Told {
    // A text always has a form in JSON.
    serde_json::to_vec(&Telling::<()>::Failed(message)).unwrap_or_default()
}

/// Binds the socket of a server that has its data directory's lock.
pub(super) fn bind(data: &Path) -> anyhow::Result<UnixListener> {
    let path = socket_path(data);
    // The lock is ours, so whoever made this socket is gone.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not remove the old {}", path.display()));
        }
        _ => {}
    }
    // The directory is for its owner alone, so nobody else reaches the socket before its mode is set.
    let listener = UnixListener::bind(&path).with_context(|| format!("could not listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers administrators until `shutdown`.
pub(super) async fn serve(
    server: Arc<Server>,
    listener: UnixListener,
    data: PathBuf,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    if let Err(error) = converse(&server, stream).await {
                        tracing::debug!(%error, "an administrator's question was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no administrator can be accepted for now");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    match std::fs::remove_file(socket_path(&data)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("could not remove the socket"),
        _ => Ok(()),
    }
}

async fn converse(server: &Arc<Server>, stream: UnixStream) -> anyhow::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        bail!("user {uid} is no administrator");
    }
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_QUESTION_BYTES)).read_line(&mut line).await?;
    let mut text = match serde_json::from_str(&line) {
        Ok(question) => answer(server, question, &format!("uid {uid}")).await,
        Err(error) => failed(&format!("the question could not be read: {error}")),
    };
    text.push(b'\n');
    Ok(write.write_all(&text).await?)
}

fn socket_path(data: &Path) -> PathBuf {
    data.join("admin.sock")
}
