//! How requests to publish were answered, so that one that is asked again gets the same answer: at this server, and at one that was
//! promoted in its place.
//!
//! What a request has changed is in the history as well, at the server where it did. The last [`MOST`] answers of an environment are in
//! `<data>/code/<environment>/answered.json`; replicas learn them with what is live.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use direct_puppet_agent::fs::ensure_private_dir;
use direct_puppet_transport::protocol::{Answered, Digest, Environment, VersionCounter};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Environments, Version};
use crate::disk;
use crate::error::{ServerError, chain};

/// Answers that are remembered of an environment: deploy tools ask again within minutes.
const MOST: usize = 256;

/// Answers that are told in one message, of all environments.
pub(crate) const MOST_TOLD: usize = 4_096;

/// Format of `answered.json`.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct AnsweredFile {
    format: u32,
    answered: Vec<Answered>,
}

/// What a request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Changed,
    Unchanged,
}

/// The answers of all environments.
#[derive(Debug)]
pub(crate) struct Answers {
    dir: PathBuf,
    all: Mutex<HashMap<Environment, Vec<Answered>>>,
    /// Held while a file is written: what is learned from several servers at once comes in turn.
    writing: Mutex<()>,
    changed: watch::Sender<()>,
}

impl Answers {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), all: Mutex::default(), writing: Mutex::default(), changed: watch::channel(()).0 }
    }

    /// Loads those of an environment. Blocking.
    pub(super) fn load(&self, environment: &Environment) -> Result<(), ServerError> {
        let path = self.path(environment);
        let file = match disk::read_json::<AnsweredFile>(&path) {
            // Nobody goes without code for it: what was changed is in the history too.
            Err(error @ ServerError::Damaged { .. }) => {
                tracing::error!("how requests were answered is forgotten: {}", chain(&error));
                None
            }
            read => read?,
        };
        let file = file.unwrap_or(AnsweredFile { format: FORMAT, answered: Vec::new() });
        if file.format != FORMAT {
            return Err(ServerError::Format { path, format: file.format });
        }
        self.all().insert(environment.clone(), file.answered);
        Ok(())
    }

    /// Reads the file of an environment again.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub(crate) fn check(&self, environment: &Environment) -> Result<(), ServerError> {
        disk::read_json::<AnsweredFile>(&self.path(environment)).map(drop)
    }

    /// Remembers that the request of a version was answered with it, in an epoch, by whoever leads it: replicas know answers by their
    /// numbers. Servers that share a store tell each other none. Durable before it returns. Blocking.
    pub(crate) fn add(&self, version: &Version, epoch: u64, effect: Effect) -> Result<(), ServerError> {
        let Some(request_id) = &version.request_id else { return Ok(()) };
        let request = Digest::of(request_id.as_bytes());
        let _turn = self.turn();
        if self.find(&version.environment, request_id).is_some_and(|found| found.version == version.version) {
            return Ok(());
        }
        let last = self.last(&version.environment);
        let at = match last.epoch < epoch {
            true => VersionCounter { epoch, sequence: 1 },
            false => VersionCounter { sequence: last.sequence.saturating_add(1), ..last },
        };
        let Version { code_id, version: counter, files, new_contents, .. } = *version;
        let is_changed = effect == Effect::Changed;
        let new_contents = if is_changed { new_contents } else { 0 };
        let answered = Answered { at, request, code_id, version: counter, is_changed, files, new_contents };
        self.append(&version.environment, vec![answered])
    }

    /// Remembers answers of another server that are newer than all that are known here. Durable before it returns. Blocking.
    pub(crate) fn learn(&self, environment: &Environment, answers: Vec<Answered>) -> Result<(), ServerError> {
        let _turn = self.turn();
        self.append(environment, answers)
    }

    /// As [`Answers::learn`], in the turn of whoever calls.
    fn append(&self, environment: &Environment, mut answers: Vec<Answered>) -> Result<(), ServerError> {
        let last = self.last(environment);
        answers.retain(|answered| answered.at > last);
        if answers.is_empty() {
            return Ok(());
        }
        answers.sort_by_key(|answered| answered.at);
        let mut all = self.all().get(environment).cloned().unwrap_or_default();
        all.extend(answers);
        all.drain(..all.len().saturating_sub(MOST));
        ensure_private_dir(&self.dir.join(environment.as_str()))?;
        let file = AnsweredFile { format: FORMAT, answered: all };
        disk::write_json(&self.path(environment), &file)?;
        self.all().insert(environment.clone(), file.answered);
        self.changed.send_replace(());
        Ok(())
    }

    /// Returns what tells of new answers.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether another server, with what it knows, lacks answers of an environment that it can be told.
    pub(crate) fn is_behind(&self, known: &BTreeMap<Environment, VersionCounter>, environment: &Environment) -> bool {
        let is_told = self.all().len() <= MOST_TOLD;
        is_told && self.last(environment) > known.get(environment).copied().unwrap_or_default()
    }

    /// Returns how a request was answered.
    pub(crate) fn find(&self, environment: &Environment, request_id: &str) -> Option<Answered> {
        let request = Digest::of(request_id.as_bytes());
        self.all().get(environment)?.iter().rev().find(|answered| answered.request == request).copied()
    }

    /// Returns where the last answer of each environment stands.
    pub(crate) fn known(&self) -> BTreeMap<Environment, VersionCounter> {
        let last = |(environment, answers): (&Environment, &Vec<Answered>)| Some((environment.clone(), answers.last()?.at));
        self.all().iter().filter_map(last).collect()
    }

    /// Returns the answers beyond what another server knows, as far as they fit into a message: the newest.
    pub(crate) fn beyond(&self, known: &BTreeMap<Environment, VersionCounter>) -> BTreeMap<Environment, Vec<Answered>> {
        let all = self.all();
        let most = MOST_TOLD / all.len().max(1);
        let newer = |(environment, answers): (&Environment, &Vec<Answered>)| {
            let known = known.get(environment).copied().unwrap_or_default();
            let from = answers.partition_point(|answered| answered.at <= known).max(answers.len().saturating_sub(most));
            (from < answers.len()).then(|| (environment.clone(), answers[from..].to_vec()))
        };
        all.iter().filter_map(newer).collect()
    }

    fn last(&self, environment: &Environment) -> VersionCounter {
        self.all().get(environment).and_then(|answers| answers.last()).map(|last| last.at).unwrap_or_default()
    }

    fn path(&self, environment: &Environment) -> PathBuf {
        self.dir.join(environment.as_str()).join("answered.json")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Environment, Vec<Answered>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Environments {
    /// Remembers how the requests of what is live were answered, which a crash may have cut off: at the server that leads this epoch. Blocking.
    pub(crate) fn answer_live(&self, epoch: u64) {
        for code in self.all_live() {
            if let Err(error) = self.answers.add(&code.version, epoch, Effect::Changed) {
                // The history has it: only a server that is promoted in this one's place does not hear of it.
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(epoch: u64, sequence: u64, request: &str) -> Answered {
        let at = VersionCounter { epoch, sequence };
        let code_id = direct_puppet_transport::protocol::Manifest::default().code_id();
        let request = Digest::of(request.as_bytes());
        Answered { at, request, code_id, version: at, is_changed: true, files: 1, new_contents: 1 }
    }

    #[test]
    fn what_is_learned_from_several_at_once_is_written_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let (answers, production) = (Answers::new(dir.path()), Environment::default());
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (answers, production) = (&answers, &production);
                scope.spawn(move || {
                    for round in 0..50 {
                        let number = round * 4 + thread + 1;
                        answers.learn(production, vec![answered(1, number, &number.to_string())]).unwrap();
                    }
                });
            }
        });
        let written = Answers::new(dir.path());
        written.load(&production).unwrap();
        assert_eq!(written.beyond(&BTreeMap::new()), answers.beyond(&BTreeMap::new()));
        assert_eq!(written.last(&production), VersionCounter { epoch: 1, sequence: 200 });
    }

    #[test]
    fn the_last_answers_are_remembered_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Answers::new(dir.path()), Answers::new(&dir.path().join("other")));
        let production = Environment::default();
        ensure_private_dir(&dir.path().join("other")).unwrap();
        let all: Vec<Answered> = (1..=MOST as u64 + 50).map(|number| answered(1, number, &number.to_string())).collect();
        one.learn(&production, all.clone()).unwrap();
        one.learn(&production, all).unwrap();
        assert_eq!((one.find(&production, "50"), one.find(&production, "51").unwrap().at.sequence), (None, 51));
        other.learn(&production, one.beyond(&other.known()).remove(&production).unwrap()).unwrap();
        assert_eq!(one.beyond(&other.known()), BTreeMap::new());
        one.learn(&production, vec![answered(2, 1, "new"), answered(1, 3, "old")]).unwrap();
        assert_eq!(one.beyond(&other.known())[&production], [answered(2, 1, "new")]);
        let again = Answers::new(dir.path());
        again.load(&production).unwrap();
        assert_eq!(again.find(&production, "new"), Some(answered(2, 1, "new")));
        std::fs::write(again.path(&production), "{").unwrap();
        again.load(&production).unwrap();
        assert_eq!(again.known(), BTreeMap::new());
    }
}
