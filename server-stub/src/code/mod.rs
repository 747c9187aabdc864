//! Published code: which is live in each environment, and everything that ever was.

mod answered;
mod history;
pub(crate) mod links;
mod manifests;
pub(crate) mod parts;
pub(crate) mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use direct_puppet_agent::fs::{ensure_private_dir, remove_unfinished};
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{
    CodeId, Digest, EntryKind, Environment, Manifest, ManifestEntry, PublishedVersion, TreePath, VersionCounter,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use self::answered::MOST_TOLD;
pub(crate) use self::answered::{Answers, Effect};
use self::manifests::{manifest_path, read_manifest};
pub(crate) use self::parts::Differences;
use crate::disk;
use crate::error::{ServerError, chain};

/// Longest manifest, in bytes: room for some million files.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// The format of `live.json`.
const FORMAT: u32 = 1;

/// The file of an environment's versions, a line for each.
const HISTORY: &str = "history.jsonl";

/// Who published: as the request says, else who was authenticated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// A name.
    #[serde(default)]
    pub name: String,
    /// An address.
    #[serde(default)]
    pub email: String,
}

/// One publish that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The environment.
    pub environment: Environment,
    /// The code.
    pub code_id: CodeId,
    /// Where it stands in the environment's history.
    #[serde(flatten)]
    pub version: VersionCounter,
    /// When it was published, in seconds since 1970 UTC.
    pub time_unix_seconds: u64,
    /// Who published it.
    #[serde(default)]
    pub author: Author,
    /// Why.
    #[serde(default)]
    pub message: String,
    /// The revision of its source, as the deploy tool or git says it, or who published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The request that published it, so that asking twice publishes once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Files in it.
    pub files: u64,
    /// Contents that no earlier version had.
    pub new_contents: u64,
    /// Where each epoch before its own ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<VersionCounter>,
}

impl Version {
    /// Returns the version as it is told to replicas.
    pub(crate) fn published(&self) -> PublishedVersion {
        PublishedVersion {
            environment: self.environment.clone(),
            code_id: self.code_id,
            version: self.version,
            time_unix_seconds: self.time_unix_seconds,
            author: self.author.name.clone(),
            email: self.author.email.clone(),
            message: self.message.clone(),
            revision: self.revision.clone(),
            request_id: self.request_id.clone(),
            files: self.files,
            lineage: self.lineage.clone(),
        }
    }

    /// Whether `live`, of the same environment, was made without this version: a promotion has left it out.
    #[must_use]
    pub fn is_left_out_of(&self, live: &Self) -> bool {
        live.leaves_out(self.version)
    }

    /// Whether a promotion has left out the version with this counter, of the same environment, before this one was made.
    pub(crate) fn leaves_out(&self, other: VersionCounter) -> bool {
        let end = self.lineage.iter().find(|end| end.epoch == other.epoch);
        other.epoch < self.version.epoch && end.is_none_or(|end| other.sequence > end.sequence)
    }

    /// Returns the version that a primary told of; `new_contents` had to be fetched.
    pub(crate) fn told(published: PublishedVersion, new_contents: u64) -> Self {
        Self {
            environment: published.environment,
            code_id: published.code_id,
            version: published.version,
            time_unix_seconds: published.time_unix_seconds,
            author: Author { name: published.author, email: published.email },
            message: published.message,
            revision: published.revision,
            request_id: published.request_id,
            files: published.files,
            new_contents,
            lineage: published.lineage,
        }
    }
}

/// Where a version stands that is to be made.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) version: VersionCounter,
    /// As in [`Version::lineage`].
    pub(crate) lineage: Vec<VersionCounter>,
}

impl Next {
    fn after(last: Option<&Version>, epoch: u64) -> Self {
        let counter = last.map(|last| last.version).unwrap_or_default();
        let mut lineage = last.map(|last| last.lineage.clone()).unwrap_or_default();
        if epoch <= counter.epoch {
            return Self { version: VersionCounter { sequence: counter.sequence + 1, ..counter }, lineage };
        }
        // Whatever was last is part of its history, however it came that it had no version of this epoch yet.
        lineage.extend(last.map(|last| last.version));
        Self { version: VersionCounter { epoch, sequence: 1 }, lineage }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct LiveFile {
    format: u32,
    #[serde(flatten)]
    version: Version,
}

/// The live code of one environment; whoever holds it goes on with it, whatever is published meanwhile.
#[derive(Debug)]
pub struct Code {
    /// How it was published.
    pub version: Version,
    /// What is in it.
    pub manifest: Manifest,
    store: Store,
}

impl Code {
    /// Returns code that is not live, as for a check before it becomes so.
    #[must_use]
    pub const fn new(version: Version, manifest: Manifest, store: Store) -> Self {
        Self { version, manifest, store }
    }

    /// Returns whether a file of the code has this content.
    #[must_use]
    pub fn has_content(&self, wanted: &Digest) -> bool {
        let is_it = |entry: &ManifestEntry| matches!(&entry.kind, EntryKind::File { digest, .. } if digest == wanted);
        self.manifest.entries().any(is_it)
    }

    /// Reads a file of the code, at most `limit` bytes, verified. Blocking.
    ///
    /// # Errors
    ///
    /// When the code has it and the store does not.
    pub fn read(&self, path: &TreePath, limit: u64) -> Result<Option<Bytes>, ServerError> {
        let Some(entry) = self.manifest.get(path) else { return Ok(None) };
        let EntryKind::File { digest, .. } = &entry.kind else { return Ok(None) };
        match self.store.read(digest, limit)? {
            Some(content) => Ok(Some(content)),
            None => Err(ServerError::Damaged {
                path: self.store.path_of(digest),
                reason: format!("content of {path} is missing: publish again"),
            }),
        }
    }
}

/// How often something changed that somebody may wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changes {
    /// How often code was made live.
    switches: u64,
    /// How often all are to look for another reason.
    pub(crate) touches: u64,
}

/// All environments.
#[derive(Debug)]
pub(crate) struct Environments {
    dir: PathBuf,
    store: Store,
    live: ArcSwap<HashMap<Environment, Arc<Code>>>,
    /// Environments whose live code was damaged when the server started, with what was live.
    lost: HashMap<Environment, Version>,
    /// How requests to publish were answered.
    pub(crate) answers: Answers,
    changed: watch::Sender<Changes>,
    /// Held while something becomes live.
    switching: Mutex<()>,
    /// Held while a manifest is written.
    keeping: Mutex<()>,
}

impl Environments {
    /// Loads what is live. Blocking.
    pub(crate) fn open(data: &Path, store: &Store) -> Result<Self, ServerError> {
        let dir = data.join("code");
        ensure_private_dir(&dir)?;
        let (mut live, mut lost, answers) = (HashMap::new(), HashMap::new(), Answers::new(&dir));
        for entry in disk::entries(&dir)? {
            let Some(environment) = entry.file_name().to_str().and_then(|name| name.parse::<Environment>().ok()) else {
                continue;
            };
            for left in [dir.join(environment.as_str()), dir.join(environment.as_str()).join("manifests")] {
                remove_unfinished(&left)?;
            }
            let loaded = load(&dir, &environment, store);
            answers.load(&environment)?;
            match loaded {
                Ok(Some(code)) => {
                    if let Err(error) = history::mend(&dir.join(environment.as_str()).join(HISTORY), &code.version) {
                        // As on a full disk: what is live is live, and the next publish or start writes the line.
                        tracing::error!("{}", chain(&error));
                    }
                    live.insert(environment, Arc::new(code));
                }
                Ok(None) => {}
                // Nothing incomplete is served, and nothing else suffers. What comes next stands above what was live.
                Err(error @ ServerError::Damaged { .. }) => {
                    let Some(last) = history::last_version(&dir.join(environment.as_str())) else { return Err(error) };
                    tracing::error!("environment {environment} is not served until it is published again: {}", chain(&error));
                    lost.insert(environment, last);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            dir,
            store: store.clone(),
            live: ArcSwap::from_pointee(live),
            lost,
            answers,
            changed: watch::channel(Changes::default()).0,
            switching: Mutex::default(),
            keeping: Mutex::default(),
        })
    }

    /// Returns the directory of an environment.
    pub(crate) fn dir(&self, environment: &Environment) -> PathBuf {
        self.dir.join(environment.as_str())
    }

    /// Returns the live code.
    pub(crate) fn live(&self, environment: &Environment) -> Option<Arc<Code>> {
        self.live.load().get(environment).map(Arc::clone)
    }

    /// Returns the live code of all environments, by name.
    pub(crate) fn all_live(&self) -> Vec<Arc<Code>> {
        let mut all: Vec<Arc<Code>> = self.live.load().values().map(Arc::clone).collect();
        all.sort_by(|a, b| a.version.environment.cmp(&b.version.environment));
        all
    }

    /// Whether any live code has this content.
    pub(crate) fn has_content(&self, digest: &Digest) -> bool {
        self.live.load().values().any(|code| code.has_content(digest))
    }

    /// Whether the code of an environment was damaged when the server started, and was not published since.
    pub(crate) fn is_lost(&self, environment: &Environment) -> bool {
        self.lost(environment).is_some()
    }

    /// Returns the version of an environment that was damaged when the server started, and was not published since.
    pub(crate) fn lost(&self, environment: &Environment) -> Option<&Version> {
        self.lost.get(environment).filter(|_| self.live(environment).is_none())
    }

    /// Returns the versions of all environments that are lost, by name.
    pub(crate) fn all_lost(&self) -> Vec<&Version> {
        let mut all: Vec<&Version> = self.lost.keys().filter_map(|environment| self.lost(environment)).collect();
        all.sort_by(|a, b| a.environment.cmp(&b.environment));
        all
    }

    /// Returns what is live in an environment, or was when it was damaged.
    pub(crate) fn last(&self, environment: &Environment) -> Option<Version> {
        self.live(environment).map(|code| code.version.clone()).or_else(|| self.lost(environment).cloned())
    }

    /// Returns what is live in all environments, or was where that is damaged, by name.
    pub(crate) fn all_last(&self) -> Vec<Version> {
        let live = self.all_live().into_iter().map(|code| code.version.clone());
        let mut all: Vec<Version> = live.chain(self.all_lost().into_iter().cloned()).collect();
        all.sort_by(|a, b| a.environment.cmp(&b.environment));
        all
    }

    /// Returns the versions here that become no part of the history of `next` when that becomes live, if they were part of it before.
    /// Blocking.
    pub(crate) fn left_out(&self, next: &Version) -> Result<Vec<Version>, ServerError> {
        let Some(live) = self.live(&next.environment) else { return Ok(Vec::new()) };
        if live.version.version.epoch == next.version.epoch {
            return Ok(Vec::new());
        }
        let is_it = |version: &Version| version.is_left_out_of(next) && !version.is_left_out_of(&live.version);
        Ok(self.history(&next.environment)?.into_iter().filter(is_it).collect())
    }

    /// Returns where the next version of an environment stands: in this epoch, or the environment's own.
    pub(crate) fn next(&self, environment: &Environment, epoch: u64) -> Next {
        Next::after(self.last(environment).as_ref(), epoch)
    }

    /// Makes what is live in each environment live again as its first version of an epoch, unless it is of that epoch or a later one; `made`
    /// says how it is made. Where that fails for one it does not for others. Blocking.
    pub(crate) fn begin_epoch(&self, epoch: u64, made: impl Fn(&Version) -> Version) -> Result<(), ServerError> {
        // What is brought meanwhile comes before, and is taken over, or after, and is refused.
        let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut begun = Ok(());
        for live in self.all_live().into_iter().filter(|live| live.version.version.epoch < epoch) {
            let Next { version, lineage } = Next::after(Some(&live.version), epoch);
            let version = Version { version, lineage, ..made(&live.version) };
            begun = begun.and(self.switch_now(Code::new(version, live.manifest.clone(), self.store.clone())));
        }
        begun
    }

    /// Returns the highest epoch of any code.
    pub(crate) fn epoch(&self) -> u64 {
        let live = self.live.load();
        live.values()
            .map(|code| code.version.version.epoch)
            .chain(self.lost.values().map(|last| last.version.epoch))
            .max()
            .unwrap_or(0)
    }

    /// Has everybody look who waits for a switch, whichever environment it waits for.
    pub(crate) fn touch(&self) {
        self.changed.send_modify(|changes| changes.touches += 1);
    }

    /// Returns a receiver that hears of every switch.
    pub(crate) fn changes(&self) -> watch::Receiver<Changes> {
        self.changed.subscribe()
    }

    /// Makes code live: durable first, then at once for everybody. Its contents must be durable. Blocking.
    pub(crate) fn switch(&self, code: Code) -> Result<(), ServerError> {
        let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        self.switch_now(code)
    }

    /// As [`Environments::switch`], unless what is live is newer by now: while code was on its way here, this server may have been
    /// promoted and have published. What is of an epoch before the one that `leads` says it is primary of comes too late. Blocking.
    pub(crate) fn switch_forward(&self, code: Code, leads: impl FnOnce() -> Option<u64>) -> Result<(), ServerError> {
        let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = leads().filter(|epoch| code.version.version.epoch < *epoch) {
            let Version { environment, version, .. } = code.version;
            let reason = format!("{version} of {environment} came when this server was primary of epoch {epoch} already");
            return Err(ServerError::Unconfirmed { reason });
        }
        match self.live(&code.version.environment) {
            Some(live) if live.version.version >= code.version.version => Ok(()),
            _ => self.switch_now(code),
        }
    }

    fn switch_now(&self, code: Code) -> Result<(), ServerError> {
        let environment = code.version.environment.clone();
        let dir = self.dir(&environment);
        ensure_private_dir(&dir.join("manifests"))?;
        // A new environment's own name must last as well; `write_state` sees to what lies within.
        disk::sync_dir(&self.dir)?;
        disk::sync_dir(&dir)?;
        let history = dir.join(HISTORY);
        if let Some(before) = self.live(&environment) {
            // Its own line may be missing, when the disk was full then.
            history::mend(&history, &before.version)?;
        }
        self.keep_manifest(&environment, code.version.code_id, &code.manifest)?;
        disk::write_json(&dir.join("live.json"), &LiveFile { format: FORMAT, version: code.version.clone() })?;
        // From here on it is live, whatever fails: a restart would find it so.
        if let Err(error) = disk::append_json(&history, &code.version) {
            tracing::error!("{}: the next publish or start writes it", chain(&error));
        }
        let code = Arc::new(code);
        self.live.rcu(|live| {
            let mut next = HashMap::clone(live);
            next.insert(environment.clone(), Arc::clone(&code));
            next
        });
        self.changed.send_modify(|changes| changes.switches += 1);
        Ok(())
    }

    /// Reads from the disk what is live, and that it is; whatever is damaged is written again, from memory. Returns what was. Blocking.
    pub(crate) fn reread(&self, live: &Code) -> Result<Vec<String>, ServerError> {
        let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        if self.live(&live.version.environment).is_none_or(|now| now.version != live.version) {
            // Another was published meanwhile, and all of this with it.
            return Ok(Vec::new());
        }
        let mut found: Vec<String> = self.reread_manifest(live)?.into_iter().collect();
        let dir = self.dir(&live.version.environment);
        let path = dir.join("live.json");
        let wrong = match disk::read_json::<LiveFile>(&path) {
            Ok(Some(file)) if file.version == live.version => None,
            Ok(Some(_)) => Some("it tells of another version"),
            Ok(None) => Some("it is missing"),
            Err(ServerError::Damaged { .. }) => Some("it is damaged"),
            Err(error) => return Err(error),
        };
        if let Some(wrong) = wrong {
            disk::write_json(&path, &LiveFile { format: FORMAT, version: live.version.clone() })?;
            found.push(format!("{}: {wrong}; it was written again", path.display()));
        }
        let path = dir.join(HISTORY);
        if !history::has_line(&path, &live.version)? {
            let written = match disk::append_json(&path, &live.version) {
                Ok(()) => "that line was written again".to_owned(),
                Err(error) => format!("that line could not be written again: {}", chain(&error)),
            };
            let path = path.display();
            found.push(format!("{path}: it does not tell of what is live, so others may be missing as well; {written}"));
        }
        Ok(found)
    }
}

fn load(dir: &Path, environment: &Environment, store: &Store) -> Result<Option<Code>, ServerError> {
    let dir = dir.join(environment.as_str());
    let path = dir.join("live.json");
    let damaged = |path: &Path, reason: &str| ServerError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let Some(live) = disk::read_json::<LiveFile>(&path)? else {
        // What was only heard of has no manifest here, and a first publish that did not come to its end no history.
        return match history::was_live(&dir)? {
            true => Err(damaged(&path, "it is missing: publish again")),
            false => Ok(None),
        };
    };
    if live.format != FORMAT {
        return Err(ServerError::Format { path, format: live.format });
    }
    let manifest_path = manifest_path(&dir, live.version.code_id);
    let manifest = read_manifest(&manifest_path, live.version.code_id, store)?;
    let manifest = manifest.ok_or_else(|| damaged(&manifest_path, "it is missing: publish again"))?;
    Ok(Some(Code { version: live.version, manifest, store: store.clone() }))
}
