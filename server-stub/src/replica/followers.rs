//! Who follows this server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use direct_puppet_transport::protocol::{Certname, Deployed, Environment, NodesByCode, SyncConfirm};
use serde::{Deserialize, Serialize};

use super::allowed::{AllowedReplica, Share};
use crate::code::Version;
use crate::disk;
use crate::error::{ServerError, chain};
use crate::server::now;

/// How long what is kept on disk of a replica that goes on with the same code may be behind, in seconds.
const SAVE_EVERY: u64 = 60;

/// How long one that does not come is told of after a restart, in seconds.
const FORGET_AFTER: u64 = 30 * 24 * 3600;

/// How long a version may be live here that a replica does not have before that is told, in seconds.
const BEHIND_AFTER: u64 = 60;

/// How long a replica may say nothing before that is told, in seconds: it asks again at least every minute or so.
const SILENT_AFTER: u64 = 600;

/// One replica, as it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// When it last asked what is live, in seconds since 1970 UTC; of one that has not asked since this server started, up to a minute
    /// before that.
    pub last_check_in_time: u64,
    /// What it had then.
    pub deployed: BTreeMap<Environment, Deployed>,
    /// How often it has asked since this server started.
    pub confirmations: u64,
    /// Which code its nodes have, as it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<ToldNodes>,
}

/// Which code nodes of a replica have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldNodes {
    /// When it said so, in seconds since 1970 UTC.
    pub time: u64,
    /// How many have which; 0 for code of which only a catalog is kept.
    pub by_code: NodesByCode,
}

/// All replicas that were heard of. It is for administrators, and for collections, which spare what nodes of replicas have: no answer depends on
/// it, so that it is written without waiting for the disk.
#[derive(Debug)]
pub(crate) struct Followers {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    followers: BTreeMap<Certname, Follower>,
    /// Those that were named to this server and have asked since it started: what they have counts.
    named: BTreeSet<Certname>,
    /// Those of which it was told that they are behind.
    told: BTreeSet<Certname>,
    /// When they were last saved.
    saved: u64,
    /// Since when this server is a primary, as far as anybody looked.
    awaits_since: Option<Instant>,
}

impl Followers {
    /// Loads those that were heard of before; what cannot be read is forgotten. Blocking.
    pub(crate) fn open(data: &Path) -> Self {
        let path = data.join("followers.json");
        let read = disk::read_json::<BTreeMap<Certname, Follower>>(&path);
        let mut followers = read.unwrap_or_else(|error| {
            tracing::warn!("who followed this server is forgotten: {}", chain(&error));
            None
        });
        let forgotten = now().saturating_sub(FORGET_AFTER);
        if let Some(followers) = &mut followers {
            followers.retain(|_, follower| follower.last_check_in_time >= forgotten);
            followers.values_mut().for_each(|follower| follower.confirmations = 0);
        }
        Self { path, known: Mutex::new(Known { followers: followers.unwrap_or_default(), ..Known::default() }) }
    }

    /// Reads the file again.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        disk::read_json::<BTreeMap<Certname, Follower>>(&self.path).map(drop)
    }

    /// Hears what a replica has; `is_named` says that it was named to this server.
    pub(crate) fn heard(&self, request: &SyncConfirm, is_named: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if is_named {
            known.named.insert(request.replica.clone());
        }
        let before = known.followers.get(&request.replica);
        let confirmations = before.map_or(0, |follower| follower.confirmations) + 1;
        let is_new = before.is_none_or(|follower| follower.deployed != request.deployed);
        let time = now();
        // Not each time does it say which code its nodes have.
        let nodes = request.nodes.clone().map(|by_code| ToldNodes { time, by_code });
        let nodes = nodes.or_else(|| before?.nodes.clone());
        let follower = Follower { last_check_in_time: time, deployed: request.deployed.clone(), confirmations, nodes };
        known.followers.insert(request.replica.clone(), follower);
        if is_new || time.saturating_sub(known.saved) >= SAVE_EVERY {
            known.saved = time;
            if let Err(error) = disk::write_json_cache(&self.path, &known.followers) {
                tracing::warn!("who follows this server is not saved: {}", chain(&error));
            }
        }
    }

    /// Returns which code nodes of these replicas have, as each said last; of all that were heard of where none is named. What was said too long
    /// ago is forgotten, and so is one that is named no more.
    pub(crate) fn nodes(&self, replicas: &[AllowedReplica]) -> BTreeMap<Certname, ToldNodes> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = now().saturating_sub(FORGET_AFTER);
        let awaited = known.followers.iter().filter(|(name, _)| is_awaited(name, replicas));
        let told = awaited.filter_map(|(name, follower)| Some((name.clone(), follower.nodes.clone()?)));
        told.filter(|(_, nodes)| nodes.time >= forgotten).collect()
    }

    /// Returns what each replica that was named to this server has of an environment.
    pub(crate) fn deployed(&self, environment: &Environment) -> Vec<(Certname, Deployed)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let named = known.named.iter().filter_map(|name| known.followers.get_key_value(name));
        named.filter_map(|(name, follower)| Some((name.clone(), *follower.deployed.get(environment)?))).collect()
    }

    /// Returns which replicas are not where they should be, and why, when these versions are live. `own` is the name of this server, which
    /// asks itself nothing.
    pub(crate) fn behind(
        &self,
        live: &[Version],
        replicas: &[AllowedReplica],
        own: Option<&Certname>,
    ) -> BTreeMap<Certname, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = |(name, follower): (&Certname, &Follower)| {
            let share = Share::of(name, replicas);
            let live: Vec<&Version> = live.iter().filter(|version| share.has(&version.environment)).collect();
            Some((name.clone(), why_behind(follower, &live)?))
        };
        let mut behind: BTreeMap<_, _> =
            known.followers.iter().filter(|(name, _)| is_awaited(name, replicas)).filter_map(why).collect();
        let silent = known.awaits_since.map_or(0, |since| since.elapsed().as_secs());
        if silent > SILENT_AFTER {
            let unheard = replicas
                .iter()
                .map(|replica| &replica.certname)
                .filter(|name| Some(*name) != own && !known.followers.contains_key(*name));
            behind.extend(
                unheard.map(|name| (name.clone(), format!("it was not heard of since this server is a primary, for {silent} s"))),
            );
        }
        behind
    }

    /// As [`Followers::behind`], those of which it was not told since they were last well.
    pub(crate) fn newly_behind(
        &self,
        live: &[Version],
        replicas: &[AllowedReplica],
        own: Option<&Certname>,
    ) -> BTreeMap<Certname, String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).awaits_since.get_or_insert_with(Instant::now);
        let mut behind = self.behind(live, replicas, own);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.told.retain(|name| behind.contains_key(name));
        behind.retain(|name, _| known.told.insert(name.clone()));
        behind
    }

    /// Awaits nobody: this server is no primary.
    pub(crate) fn await_none(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).awaits_since = None;
    }

    pub(crate) fn all(&self) -> BTreeMap<Certname, Follower> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).followers.clone()
    }
}

/// Whether a replica is one of those that there should be: one that is named no more is not.
fn is_awaited(name: &Certname, replicas: &[AllowedReplica]) -> bool {
    replicas.is_empty() || replicas.iter().any(|replica| replica.certname == *name)
}

/// Says why a replica is not where it should be, if it is not.
fn why_behind(follower: &Follower, live: &[&Version]) -> Option<String> {
    let now = now();
    let silent = now.saturating_sub(follower.last_check_in_time);
    if silent > SILENT_AFTER {
        return Some(format!("it was not heard of for {silent} s"));
    }
    live.iter().find_map(|version| {
        let age = now.saturating_sub(version.time_unix_seconds);
        let there = follower.deployed.get(&version.environment).map(|deployed| deployed.version);
        let is_behind = age > BEHIND_AFTER && there.is_none_or(|there| there < version.version);
        let there = there.map_or("nothing".to_owned(), |there| there.to_string());
        let Version { environment, version, .. } = version;
        is_behind.then(|| format!("it has {there} of {environment}, and {version} is live since {age} s"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use direct_puppet_transport::protocol::{ProtocolVersion, Rollout};

    use super::*;

    #[test]
    fn one_that_was_named_and_never_came_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let followers = Followers::open(dir.path());
        let silent = || {
            let since = Instant::now().checked_sub(Duration::from_secs(SILENT_AFTER + 1)).unwrap();
            followers.known.lock().unwrap().awaits_since = Some(since);
        };
        let named: Vec<AllowedReplica> = ["replica1", "replica2=test", "self"].map(|text| text.parse().unwrap()).into();
        let own = Some(&named[2].certname);
        assert!(followers.newly_behind(&[], &named, own).is_empty());
        silent();
        followers.heard(&confirm("replica1"), true);
        let behind = followers.newly_behind(&[], &named, own);
        assert!(behind.len() == 1 && behind[&"replica2".parse().unwrap()].starts_with("it was not heard of since"), "{behind:?}");
        assert!(followers.newly_behind(&[], &named, own).is_empty());
        // One that becomes a primary later has heard of nobody yet.
        followers.await_none();
        assert!(followers.newly_behind(&[], &named, own).is_empty() && followers.behind(&[], &named, own).is_empty());
        silent();
        assert_eq!(followers.newly_behind(&[], &named, own).len(), 1);
        followers.heard(&confirm("replica2"), true);
        assert!(followers.behind(&[], &named, own).is_empty());
    }

    fn confirm(name: &str) -> SyncConfirm {
        SyncConfirm {
            protocol: ProtocolVersion::CURRENT,
            replica: name.parse().unwrap(),
            deployed: BTreeMap::new(),
            wait_seconds: 0,
            rollout: Rollout::default(),
            epoch: 0,
            answered: BTreeMap::new(),
            nodes: None,
        }
    }

    #[test]
    fn who_was_heard_of_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let followers = Followers::open(dir.path());
        let replica: Certname = "replica1".parse().unwrap();
        let request = confirm("replica1");
        followers.heard(&request, true);
        followers.heard(&request, true);
        let before = followers.all()[&replica].clone();
        assert_eq!(before.confirmations, 2);
        let again = Followers::open(dir.path()).all()[&replica].clone();
        assert_eq!(again, Follower { confirmations: 0, ..before });
        // What is damaged costs no more than itself.
        std::fs::write(dir.path().join("followers.json"), "{").unwrap();
        assert!(Followers::open(dir.path()).all().is_empty());
    }
}
