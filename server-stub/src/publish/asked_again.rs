//! Requests that are asked again, and those that are made on top of what their asker has seen.

use direct_puppet_transport::protocol::{Answered, CodeId, Environment, VersionCounter};

use super::{EnvironmentResult, PublishRequest, unchanged};
use crate::code::Version;
use crate::error::ServerError;
use crate::server::Server;

/// Returns the environments in which a request was answered before: who asks for all again is answered though nothing is staged here.
pub(super) fn answered_before(server: &Server, request: &PublishRequest) -> Result<Option<Vec<Environment>>, ServerError> {
    let Some(request_id) = request.request_id.as_ref().filter(|_| !request.dry_run) else { return Ok(None) };
    let mut found = Vec::new();
    for environment in server.environments.all_last().into_iter().map(|last| last.environment) {
        server.learn(&environment)?;
        let is_of_history = || -> Result<bool, ServerError> {
            let history = server.environments.history(&environment)?;
            Ok(history.iter().any(|done| done.request_id.as_ref() == Some(request_id)))
        };
        if server.environments.answers.find(&environment, request_id).is_some() || is_of_history()? {
            found.push(environment);
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

/// Returns the answer that a request was given before.
fn answered(environment: Environment, done: &Answered) -> EnvironmentResult {
    EnvironmentResult {
        code_id: Some(done.code_id),
        epoch: done.version.epoch,
        sequence: done.version.sequence,
        changed: done.is_changed,
        files: done.files,
        new_contents: done.new_contents,
        ..unchanged(environment, None)
    }
}

/// Returns how a request was answered that is asked again; `live` is what is live now.
pub(crate) fn answer_given(
    server: &Server,
    environment: &Environment,
    request_id: &str,
    live: Option<&Version>,
) -> Result<Option<EnvironmentResult>, ServerError> {
    let Some(live) = live else { return Ok(None) };
    if let Some(done) = server.environments.answers.find(environment, request_id).filter(|done| !live.leaves_out(done.version)) {
        return Ok(Some(since(live, answered(environment.clone(), &done))));
    }
    let history = server.environments.history(environment)?;
    let done = history.into_iter().find(|done| done.request_id.as_deref() == Some(request_id) && !done.is_left_out_of(live));
    Ok(done.map(|done| {
        let answer = unchanged(environment.clone(), Some(&done));
        since(live, EnvironmentResult { changed: true, new_contents: done.new_contents, ..answer })
    }))
}

/// Refuses what was asked for on top of other code than that which is live.
pub(crate) fn refuse_other_than(
    if_live: Option<CodeId>,
    environment: &Environment,
    live: Option<&Version>,
) -> Result<(), ServerError> {
    let live = live.map(|live| live.code_id);
    match if_live.is_some_and(|expected| live != Some(expected)) {
        true => Err(ServerError::Conflict { environment: environment.clone(), expected: if_live, live }),
        false => Ok(()),
    }
}

/// Says of an answer that was given before what is live since.
fn since(live: &Version, answer: EnvironmentResult) -> EnvironmentResult {
    let was = VersionCounter { epoch: answer.epoch, sequence: answer.sequence };
    let note = (live.version != was).then(|| format!("this request was made before; {} is live since", live.version));
    EnvironmentResult { note, ..answer }
}
