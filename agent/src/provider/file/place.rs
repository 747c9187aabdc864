//! Puts files in place in bounded batches: all contents staged and checked first, then only renames.

use std::collections::VecDeque;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Algorithm, Digest};

use super::apply::{Action, Application, Job};
use super::backup::Keeper;
use super::observe::hash_file;
use super::source::Content;
use super::validate_cmd;
use crate::fs::{ContentSource, FileKind, FsError, FsErrorKind, Stage};
use crate::undo::Left;

/// Files of one batch.
const MAX_BATCH_FILES: usize = 1024;
/// Bytes of one batch, after which it is closed; a larger file is a batch by itself.
const MAX_BATCH_BYTES: u64 = 64 * 1024 * 1024;

/// Puts all files in place; stops between batches when the run is cancelled.
pub(super) fn files(application: &mut Application<'_>, mut jobs: VecDeque<Job>) {
    while !jobs.is_empty() {
        if !application.goes_on(&jobs) {
            return;
        }
        let next = jobs.drain(..batch_len(&jobs)).collect();
        batch(application, next);
    }
}

/// Returns how many jobs from the first make a batch: at least one.
fn batch_len(jobs: &VecDeque<Job>) -> usize {
    let mut bytes = 0_u64;
    let full = jobs.iter().take(MAX_BATCH_FILES).position(|job| {
        bytes = bytes.saturating_add(size_of(job));
        bytes > MAX_BATCH_BYTES
    });
    full.unwrap_or(jobs.len().min(MAX_BATCH_FILES)).max(1)
}

fn size_of(job: &Job) -> u64 {
    match &job.action {
        Action::PutFile(Some(Content::Stored { size, .. })) => *size,
        Action::PutFile(Some(Content::Local { stat, .. })) => stat.size,
        // A usize fits in 64 bits.
        Action::PutFile(Some(Content::Inline(inline))) => inline.bytes.len() as u64,
        _ => 0,
    }
}

fn batch(application: &mut Application<'_>, jobs: Vec<Job>) {
    let context = application.context;
    let mut stage = Stage::new(context.root(), context.stage_journal());
    let mut keeper = Keeper::new(context, application.parameters);
    let mut staged: Vec<Job> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let prepared = prepare(application, &mut stage, &job).and_then(|digest| {
            keeper.keep(&job.path, job.stat.as_deref(), Left::File { digest }).map_err(|error| {
                stage.discard(&job.path);
                super::errors::chain(&error)
            })
        });
        match prepared {
            Ok(()) => staged.push(job),
            Err(reason) => application.fail(&job.indexes, reason),
        }
    }
    if let Err(error) = keeper.record() {
        for job in staged {
            stage.discard(&job.path);
            application.fail_with(&job.indexes, &error);
        }
        return;
    }
    staged.retain(|job| {
        let cleared = if job.destroys_directory() { application.remove_tree(&job.path) } else { Ok(()) };
        cleared
            .map_err(|error| {
                stage.discard(&job.path);
                application.fail_with(&job.indexes, &error);
            })
            .is_ok()
    });
    for (path, written) in stage.commit() {
        match written {
            Ok(written) => context.record_written(path, written.stat, written.digest),
            Err(error) => {
                let indexes = staged.iter().filter(|job| job.path == path).flat_map(|job| job.indexes.clone());
                application.fail_with(&indexes.collect::<Vec<_>>(), &error);
            }
        }
    }
}

/// Stages the new content of one file and has it checked; returns its digest.
fn prepare(application: &Application<'_>, stage: &mut Stage<'_>, job: &Job) -> Result<Digest, String> {
    let content = if let Action::PutFile(content) = &job.action { content } else { &None };
    let text = |error: FsError| super::errors::chain(&error);
    let parameters = application.parameters;
    let (source, digest) = open(application, content.as_ref()).map_err(text)?;
    let attributes = match &job.stat {
        Some(stat) if stat.kind() == FileKind::File => application.identities.of_replacement(parameters, job.source, stat),
        _ => application.identities.of_new(parameters, job.source, FileKind::File),
    };
    stage.add(&job.path, source, digest, attributes).map_err(text)?;
    let checked = check(application, stage, job, content.is_some());
    if checked.is_err() {
        stage.discard(&job.path);
    }
    checked.map(|()| digest)
}

/// Checks staged content by `checksum_value` and `validate_cmd`.
fn check(application: &Application<'_>, stage: &Stage<'_>, job: &Job, has_content: bool) -> Result<(), String> {
    let parameters = application.parameters;
    if !has_content || (parameters.checksum_value.is_none() && parameters.validate_cmd.is_none()) {
        return Ok(());
    }
    let path = stage.staged_path(&job.path).ok_or("its staged content was lost")?;
    if let Some(value) = &parameters.checksum_value {
        let file = std::fs::File::open(&path).map_err(|error| format!("could not read its staged content: {error}"))?;
        let verified = value.verifies(file).map_err(|error| format!("could not read its staged content: {error}"))?;
        if !verified {
            return Err("the new content does not have its checksum_value: the old one was kept".to_owned());
        }
    }
    if let Some(command) = &parameters.validate_cmd {
        let (replacement, cancel) = (&parameters.validate_replacement, application.context.cancel());
        validate_cmd::run(command, replacement, &path, cancel, !parameters.sensitive)
            .map_err(|reason| format!("validate_cmd refused the new content, the old one was kept: {reason}"))?;
    }
    Ok(())
}

/// Returns where a content is to be had, and its digest.
fn open(application: &Application<'_>, content: Option<&Content>) -> Result<(ContentSource, Digest), FsError> {
    let context = application.context;
    match content {
        None => Ok((ContentSource::Bytes(Bytes::new()), Digest::of(b""))),
        Some(Content::Inline(inline)) => Ok((ContentSource::Bytes(inline.bytes.clone()), inline.digest())),
        Some(Content::Local { path, .. }) => {
            let digest = hash_file(context.root(), path, Algorithm::Blake3)?;
            Ok((ContentSource::Copy(context.root().open_file(path)?), digest))
        }
        Some(Content::Remote(_)) => Err(super::http::unfetched()),
        Some(Content::Stored { digest, size }) => {
            // A command that checks it finds it beside its target, with its owner and mode.
            if application.parameters.validate_cmd.is_none()
                && context.is_last_use(digest)
                && let Some(taken) = context.store().take(digest)?
            {
                return Ok((ContentSource::Take(taken), *digest));
            }
            match context.store().open(digest)? {
                Some(file) => Ok((ContentSource::Copy(file), *digest)),
                None if *size == 0 => Ok((ContentSource::Bytes(Bytes::new()), *digest)),
                None => Err(FsError {
                    path: context.store().path_of(digest),
                    attempt: "find the content",
                    kind: FsErrorKind::NotFound,
                    hint: Some(
                        "it was not fetched, or removed since: run again; a catalog from a file needs contents that are on this node",
                    ),
                    source: std::io::ErrorKind::NotFound.into(),
                }),
            }
        }
    }
}
