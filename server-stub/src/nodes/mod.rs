//! What is known of each node, the catalogs compiled for it, and what it sends.

mod reports;
mod room;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use direct_puppet_agent::fs::{FsError, ensure_private_dir, remove_unfinished, write_cache};
use direct_puppet_transport::protocol::{Catalog, CatalogId, Certname, CodeId, Digest, Environment, NodesByCode, RunStatus};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{ServerError, chain};
use crate::server::{ServerOptions, now};

use self::reports::Allowance;
pub(crate) use self::room::Room;

/// How many catalogs of one environment a node keeps, beside the one that it holds: the live one, and the one before, which agents may still be fetching.
const KEPT_CATALOGS: usize = 2;

/// For how long after its compile a catalog stays beside these, in seconds: a node may be fetching what it names, while a request of that
/// node that was late, or was repeated on its way, has newer ones compiled.
const FETCHING_SECONDS: u64 = 900;

/// How many stay for that.
const FETCHED_CATALOGS: usize = 8;

/// How many nodes' files may be written at once; more than disks do in parallel.
const WRITERS: usize = 32;

/// Format of `node.json`.
const FORMAT: u32 = 1;

/// One compiled catalog, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompiledCatalog {
    pub(crate) environment: Environment,
    pub(crate) catalog_id: CatalogId,
    pub(crate) code_id: CodeId,
    /// Digest of the facts that were used.
    pub(crate) facts: Digest,
    /// Digest of the extensions that were used; none in what was written before these counted, which holds for any.
    #[serde(default)]
    pub(crate) extensions: Option<Digest>,
    /// Name and version of the compiler.
    pub(crate) compiler: String,
    /// No check-in is answered from it any more; its contents are still served to who is fetching them.
    #[serde(default)]
    pub(crate) is_forgotten: bool,
    pub(crate) time_unix_seconds: u64,
}

impl CompiledCatalog {
    /// Whether it answers one whose certificate has extensions with this digest. One that shows no certificate claims nothing, so that a
    /// node that is asked for both ways, over TLS and on a Unix socket, does not have its catalog compiled in turns.
    pub(crate) fn holds_for(&self, extensions: Option<Digest>) -> bool {
        match (self.extensions, extensions) {
            (Some(compiled), Some(shown)) => compiled == shown,
            _ => true,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeFile {
    format: u32,
    certname: Certname,
    compiles: u64,
    last_seen_unix_seconds: u64,
    status: Option<RunStatus>,
    environment: Option<Environment>,
    /// What the node last said, or reported, that it holds.
    catalog_id: Option<CatalogId>,
    code_id: Option<CodeId>,
    /// The one that was given last stands last.
    catalogs: Vec<CompiledCatalog>,
}

#[derive(Debug)]
struct Node {
    file: NodeFile,
    /// Contents that its catalogs name, by catalog; filled when first needed.
    contents: HashMap<CatalogId, Arc<HashSet<Digest>>>,
    /// How many reports it may send; filled when it sends the first.
    reports: Option<Allowance>,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Its name.
    pub certname: Certname,
    /// The environment it was last in.
    pub environment: Option<Environment>,
    /// The catalog it last said it holds.
    pub catalog_id: Option<CatalogId>,
    /// The code that made it.
    pub code_id: Option<CodeId>,
    /// How often a catalog was compiled for it.
    pub compiles: u64,
    /// When it was last heard of, in seconds since 1970 UTC. Check-ins that change nothing are remembered in memory only.
    pub last_seen: u64,
    /// How its last run ended.
    pub status: Option<RunStatus>,
}

impl NodeSummary {
    /// Joins what two servers know of a node: what was heard last counts, and beside it what only one of them knows. Of what was
    /// heard in the same second counts what tells more, or else `other`.
    pub(crate) fn joined(self, other: Self) -> Self {
        let told = |summary: &Self| [summary.environment.is_some(), summary.catalog_id.is_some(), summary.status.is_some()];
        let is_newer = (self.last_seen, told(&self)) > (other.last_seen, told(&other));
        let (newer, older) = if is_newer { (self, other) } else { (other, self) };
        let status = newer.status.or(older.status);
        match newer.environment {
            Some(_) => Self { status, ..newer },
            // A server that only gave it something has not heard where it is, nor what it holds.
            None => Self { compiles: newer.compiles, last_seen: newer.last_seen, status, ..older },
        }
    }
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    dir: PathBuf,
    reports_per_node: usize,
    room: Room,
    nodes: Mutex<BTreeMap<Certname, Node>>,
    /// Held while files of a node are written, so that what is newest lands last; by a byte of the digest of its name.
    writing: [Mutex<()>; WRITERS],
}

impl Nodes {
    /// Loads what is known. Blocking.
    pub(crate) fn open(options: &ServerOptions) -> Result<Self, ServerError> {
        let dir = options.data_dir.join("nodes");
        ensure_private_dir(&dir)?;
        let mut nodes = BTreeMap::new();
        for entry in disk::entries(&dir)? {
            for dir in [entry.path(), entry.path().join("reports"), entry.path().join("bucket")] {
                remove_unfinished(&dir)?;
            }
            let path = entry.path().join("node.json");
            let file = match disk::read_json::<NodeFile>(&path) {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(ServerError::Damaged { reason, .. }) => {
                    // One node has its catalogs compiled again; the others are not kept waiting for that.
                    tracing::error!(path = %path.display(), reason, "what was known of a node is damaged and moved aside");
                    std::fs::rename(&path, path.with_extension("damaged"))
                        .map_err(|error| FsError::new(&path, "move aside", error))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if file.format != FORMAT {
                return Err(ServerError::Format { path, format: file.format });
            }
            nodes.insert(file.certname.clone(), Node { file, contents: HashMap::new(), reports: None });
        }
        let room = Room::open(&dir, options.max_node_bytes, options.keep_free_bytes)?;
        let reports_per_node = options.reports_per_node;
        Ok(Self { dir, reports_per_node, room, nodes: Mutex::new(nodes), writing: Default::default() })
    }

    /// Returns files of what was known of nodes that were damaged, and of which nothing has been heard since. Blocking.
    pub(crate) fn damaged(&self) -> Result<Vec<PathBuf>, ServerError> {
        let entries = disk::entries(&self.dir)?;
        let damaged = entries.iter().map(|entry| entry.path()).filter(|dir| !dir.join("node.json").exists());
        Ok(damaged.map(|dir| dir.join("node.damaged")).filter(|path| path.exists()).collect())
    }

    /// Returns the directories of all nodes. Blocking.
    pub(crate) fn dirs(&self) -> Result<Vec<PathBuf>, ServerError> {
        Ok(disk::entries(&self.dir)?.iter().map(std::fs::DirEntry::path).collect())
    }

    /// Notes that a node was heard of, and what it says it holds.
    pub(crate) fn seen(&self, certname: &Certname, environment: &Environment, held: Option<(CatalogId, CodeId)>) {
        let mut nodes = self.lock();
        let node = nodes.entry(certname.clone()).or_insert_with(|| Node::new(certname));
        node.file.last_seen_unix_seconds = now();
        node.file.environment = Some(environment.clone());
        node.file.catalog_id = held.map(|held| held.0);
        node.file.code_id = held.map(|held| held.1);
    }

    /// Returns the catalog that `code_id` made for a node, unless it was forgotten. Another version of the compiler is no cause
    /// to compile: only code, a certificate with other extensions, and administrators are.
    pub(crate) fn catalog(&self, certname: &Certname, environment: &Environment, code_id: CodeId) -> Option<CompiledCatalog> {
        let is_it = |catalog: &&CompiledCatalog| {
            catalog.code_id == code_id && catalog.environment == *environment && !catalog.is_forgotten
        };
        self.lock().get(certname)?.file.catalogs.iter().rev().find(is_it).cloned()
    }

    /// As [`Self::catalog`], for one whose certificate says this; see [`CompiledCatalog::holds_for`].
    pub(crate) fn catalog_for(
        &self,
        certname: &Certname,
        environment: &Environment,
        code_id: CodeId,
        extensions: Option<Digest>,
    ) -> Option<CompiledCatalog> {
        self.catalog(certname, environment, code_id).filter(|catalog| catalog.holds_for(extensions))
    }

    /// Returns the catalog that a node says it holds, as far as it is kept.
    pub(crate) fn held_catalog(&self, certname: &Certname, environment: &Environment) -> Option<CompiledCatalog> {
        let nodes = self.lock();
        let file = &nodes.get(certname)?.file;
        let is_it =
            |catalog: &&CompiledCatalog| Some(catalog.catalog_id) == file.catalog_id && catalog.environment == *environment;
        file.catalogs.iter().rev().find(is_it).cloned()
    }

    /// Returns the catalog that `code_id` made for a node, whether it is forgotten or not.
    pub(crate) fn catalog_of(&self, certname: &Certname, environment: &Environment, code_id: CodeId) -> Option<CompiledCatalog> {
        let is_it = |catalog: &&CompiledCatalog| catalog.code_id == code_id && catalog.environment == *environment;
        self.lock().get(certname)?.file.catalogs.iter().rev().find(is_it).cloned()
    }

    /// Returns all catalogs that are kept.
    pub(crate) fn catalogs(&self) -> Vec<(Certname, CompiledCatalog)> {
        let nodes = self.lock();
        let of_node = |(certname, node): (&Certname, &Node)| {
            node.file.catalogs.iter().map(|catalog| (certname.clone(), catalog.clone())).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(of_node).collect()
    }

    /// Notes that a node is given a catalog, which counts as its newest from now on, whenever it was compiled. Blocking, where it was not
    /// that before.
    pub(crate) fn given(&self, certname: &Certname, catalog_id: CatalogId) {
        let is_it = |catalog: &CompiledCatalog| catalog.catalog_id == catalog_id;
        {
            let nodes = self.lock();
            let Some(node) = nodes.get(certname) else { return };
            let Some(at) = node.file.catalogs.iter().rposition(is_it) else { return };
            let environment = &node.file.catalogs[at].environment;
            if node.file.catalogs[at + 1..].iter().all(|later| later.environment != *environment) {
                return;
            }
        }
        let _turn = self.turn(certname);
        let file = {
            let mut nodes = self.lock();
            let Some(node) = nodes.get_mut(certname) else { return };
            let Some(at) = node.file.catalogs.iter().rposition(is_it) else { return };
            let catalog = node.file.catalogs.remove(at);
            node.file.catalogs.push(catalog);
            node.file.clone()
        };
        if let Err(error) = disk::write_json_cache(&self.node_dir(certname).join("node.json"), &file) {
            tracing::warn!(%certname, "a restart does not know which catalog was given last: {}", chain(&error));
        }
    }

    /// Returns the catalog that a node was last given in an environment.
    pub(crate) fn newest_catalog(&self, certname: &Certname, environment: &Environment) -> Option<CompiledCatalog> {
        let nodes = self.lock();
        nodes.get(certname)?.file.catalogs.iter().rev().find(|catalog| catalog.environment == *environment).cloned()
    }

    /// Returns whether a catalog was compiled for this node, and is kept.
    pub(crate) fn has_catalog(&self, certname: &Certname, catalog_id: CatalogId) -> bool {
        self.lock().get(certname).is_some_and(|node| node.file.catalogs.iter().any(|catalog| catalog.catalog_id == catalog_id))
    }

    /// Reads a catalog; `None` when it is gone or damaged. Blocking.
    pub(crate) fn decoded(&self, certname: &Certname, catalog_id: CatalogId) -> Option<Catalog> {
        Catalog::decode(&self.read(certname, catalog_id)?, catalog_id).ok()
    }

    /// Keeps a compiled catalog and counts the compile. What a power cut takes away or damages is noticed and compiled again, so nobody
    /// waits for the disk. Blocking.
    pub(crate) fn keep(&self, certname: &Certname, compiled: CompiledCatalog, bytes: &Bytes) -> Result<(), ServerError> {
        self.add(certname, compiled, bytes, 1)
    }

    /// Keeps a catalog that another server has compiled; as [`Self::keep`].
    pub(crate) fn adopt(&self, certname: &Certname, compiled: CompiledCatalog, bytes: &Bytes) -> Result<(), ServerError> {
        self.add(certname, compiled, bytes, 0)
    }

    fn add(&self, certname: &Certname, compiled: CompiledCatalog, bytes: &Bytes, compiles: u64) -> Result<(), ServerError> {
        let dir = self.node_dir(certname);
        let _turn = self.turn(certname);
        ensure_private_dir(&dir)?;
        write_cache(&catalog_path(&dir, compiled.catalog_id), bytes, 0o600)?;
        let (file, dropped) = {
            let mut nodes = self.lock();
            let node = nodes.entry(certname.clone()).or_insert_with(|| Node::new(certname));
            node.file.compiles += compiles;
            node.file.last_seen_unix_seconds = now();
            node.add(compiled)
        };
        disk::write_json_cache(&dir.join("node.json"), &file)?;
        for catalog_id in dropped {
            if let Err(error) = std::fs::remove_file(catalog_path(&dir, catalog_id)) {
                tracing::debug!(%certname, %catalog_id, %error, "an old catalog stays");
            }
        }
        Ok(())
    }

    /// Reads the bytes of a catalog; `None` when they are gone or damaged. Blocking.
    pub(crate) fn read(&self, certname: &Certname, catalog_id: CatalogId) -> Option<Bytes> {
        let bytes = std::fs::read(catalog_path(&self.node_dir(certname), catalog_id)).ok()?;
        (CatalogId::of(&bytes) == catalog_id).then(|| bytes.into())
    }

    /// Returns the contents that a node's catalogs of some environments name, one set for each. Blocking.
    pub(crate) fn contents(&self, certname: &Certname, is_of: impl Fn(&Environment) -> bool) -> Vec<Arc<HashSet<Digest>>> {
        let ids: Vec<CatalogId> = match self.lock().get(certname) {
            Some(node) => {
                let catalogs = node.file.catalogs.iter().filter(|catalog| is_of(&catalog.environment));
                catalogs.map(|catalog| catalog.catalog_id).collect()
            }
            None => Vec::new(),
        };
        let mut sets = Vec::new();
        for id in ids {
            let known = self.lock().get(certname).and_then(|node| node.contents.get(&id).map(Arc::clone));
            let set = known.or_else(|| {
                let Some(catalog) = self.decoded(certname, id) else {
                    tracing::error!(%certname, catalog_id = %id, "a catalog is gone or damaged on disk: it is compiled again");
                    self.lose(certname, id);
                    return None;
                };
                let set = Arc::new(catalog.contents().map(|(digest, _)| digest).collect::<HashSet<_>>());
                if let Some(node) = self.lock().get_mut(certname) {
                    node.contents.insert(id, Arc::clone(&set));
                }
                Some(set)
            });
            sets.extend(set);
        }
        sets
    }

    /// Returns the contents that any catalog of any node names. Blocking.
    pub(crate) fn all_contents(&self) -> HashSet<Digest> {
        let names: Vec<Certname> = self.lock().keys().cloned().collect();
        let sets = names.iter().flat_map(|certname| self.contents(certname, |_| true));
        sets.fold(HashSet::new(), |mut all, set| {
            all.extend(set.iter().copied());
            all
        })
    }

    /// Forgets which catalogs a node has, so that the next check-in compiles; their contents stay until then. Blocking.
    pub(crate) fn forget_catalogs(&self, certname: &Certname) -> Result<(), ServerError> {
        let _turn = self.turn(certname);
        let file = {
            let mut nodes = self.lock();
            let node = nodes.get_mut(certname).ok_or_else(|| ServerError::UnknownNode { certname: certname.to_string() })?;
            node.file.catalogs.iter_mut().for_each(|catalog| catalog.is_forgotten = true);
            node.file.clone()
        };
        // A node that only ever checked in has no directory yet.
        ensure_private_dir(&self.node_dir(certname))?;
        disk::write_json(&self.node_dir(certname).join("node.json"), &file)
    }

    /// Answers no check-in from a catalog any more, because its bytes are gone.
    pub(crate) fn lose(&self, certname: &Certname, catalog_id: CatalogId) {
        if let Some(node) = self.lock().get_mut(certname) {
            let lost = node.file.catalogs.iter_mut().filter(|catalog| catalog.catalog_id == catalog_id);
            lost.for_each(|catalog| catalog.is_forgotten = true);
        }
    }

    /// Answers no check-in from the catalogs of a node any more, because a content that they name is gone.
    pub(crate) fn lose_all(&self, certname: &Certname) {
        if let Some(node) = self.lock().get_mut(certname) {
            node.file.catalogs.iter_mut().for_each(|catalog| catalog.is_forgotten = true);
        }
    }

    /// Returns the room for what nodes send.
    pub(crate) const fn room(&self) -> &Room {
        &self.room
    }

    /// Does work on files of a node while nothing else does. Blocking.
    pub(crate) fn in_turn<T>(&self, certname: &Certname, work: impl FnOnce() -> T) -> T {
        let _turn = self.turn(certname);
        work()
    }

    fn turn(&self, certname: &Certname) -> MutexGuard<'_, ()> {
        let at = usize::from(Digest::of(certname.as_str().as_bytes()).bytes()[0]) % WRITERS;
        self.writing[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the code of every catalog that a node has or says it holds.
    pub(crate) fn codes(&self) -> HashSet<CodeId> {
        let nodes = self.lock();
        let of_node =
            |node: &Node| node.file.catalogs.iter().map(|catalog| catalog.code_id).chain(node.file.code_id).collect::<Vec<_>>();
        nodes.values().flat_map(of_node).collect()
    }

    /// Returns how many nodes said that they have which code; 0 for code of which only a catalog is kept.
    pub(crate) fn by_code(&self) -> NodesByCode {
        let mut found = NodesByCode::new();
        for Node { file, .. } in self.lock().values() {
            for catalog in &file.catalogs {
                found.entry(catalog.environment.clone()).or_default().entry(catalog.code_id).or_default();
            }
            if let (Some(environment), Some(code_id)) = (&file.environment, file.code_id) {
                *found.entry(environment.clone()).or_default().entry(code_id).or_default() += 1;
            }
        }
        found
    }

    pub(crate) fn summaries(&self) -> Vec<NodeSummary> {
        self.lock().values().map(Node::summary).collect()
    }

    pub(crate) fn summary(&self, certname: &Certname) -> Option<NodeSummary> {
        self.lock().get(certname).map(Node::summary)
    }

    /// Returns where a catalog lies.
    pub(crate) fn path_of(&self, certname: &Certname, catalog_id: CatalogId) -> PathBuf {
        catalog_path(&self.node_dir(certname), catalog_id)
    }

    /// The directory of a node: named by the digest of its name, never by the name.
    pub(crate) fn node_dir(&self, certname: &Certname) -> PathBuf {
        self.dir.join(Digest::of(certname.as_str().as_bytes()).to_hex())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Certname, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn new(certname: &Certname) -> Self {
        let file = NodeFile {
            format: FORMAT,
            certname: certname.clone(),
            compiles: 0,
            last_seen_unix_seconds: now(),
            status: None,
            environment: None,
            catalog_id: None,
            code_id: None,
            catalogs: Vec::new(),
        };
        Self { file, contents: HashMap::new(), reports: None }
    }

    fn summary(&self) -> NodeSummary {
        NodeSummary {
            certname: self.file.certname.clone(),
            environment: self.file.environment.clone(),
            catalog_id: self.file.catalog_id,
            code_id: self.file.code_id,
            compiles: self.file.compiles,
            last_seen: self.file.last_seen_unix_seconds,
            status: self.file.status,
        }
    }

    /// Adds a catalog; returns what is to be written, and catalogs that nothing refers to any more.
    fn add(&mut self, compiled: CompiledCatalog) -> (NodeFile, Vec<CatalogId>) {
        let environment = compiled.environment.clone();
        let catalogs = &mut self.file.catalogs;
        catalogs.retain(|catalog| catalog.code_id != compiled.code_id || catalog.environment != environment);
        // Most nodes have one or two.
        catalogs.reserve_exact(1);
        catalogs.push(compiled);
        let ids = |catalogs: &[CompiledCatalog]| catalogs.iter().map(|catalog| catalog.catalog_id).collect::<HashSet<_>>();
        let before = ids(catalogs);
        // The newest stay, and what the node holds once: a rollback may make it current again.
        let mut held = self.file.catalog_id;
        let (mut newest, mut fetched, now) = (KEPT_CATALOGS, FETCHED_CATALOGS, now());
        let mut stays: Vec<bool> = catalogs
            .iter()
            .rev()
            .map(|catalog| {
                let is_newest = catalog.environment == environment && newest > 0;
                newest -= usize::from(is_newest);
                let is_fetched = catalog.environment == environment
                    && fetched > 0
                    && now.abs_diff(catalog.time_unix_seconds) < FETCHING_SECONDS;
                fetched -= usize::from(is_fetched);
                let is_held = held == Some(catalog.catalog_id);
                if is_held && catalog.environment == environment {
                    held = None;
                }
                is_newest || is_fetched || is_held || catalog.environment != environment
            })
            .collect();
        catalogs.retain(|_| stays.pop().unwrap_or(true));
        let after = ids(catalogs);
        self.contents.retain(|id, _| after.contains(id));
        (self.file.clone(), before.difference(&after).copied().collect())
    }
}

fn catalog_path(dir: &Path, id: CatalogId) -> PathBuf {
    dir.join(format!("{}.catalog", id.digest().to_hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code that leaves a catalog as it is gives it another entry; none of them pushes out what was compiled last.
    #[test]
    fn the_newest_catalogs_stay_and_the_one_that_is_held() {
        let mut node = Node::new(&"n1".parse().unwrap());
        let of = |catalog: &str, code: u8, environment: &str| CompiledCatalog {
            catalog_id: CatalogId::of(catalog.as_bytes()),
            code_id: format!("blake3:{}", Digest::of(&[code]).to_hex()).parse().unwrap(),
            environment: environment.parse().unwrap(),
            facts: Digest::of(b""),
            extensions: None,
            compiler: String::new(),
            is_forgotten: false,
            time_unix_seconds: 0,
        };
        let ids = |node: &Node| node.file.catalogs.iter().map(|kept| (kept.catalog_id, kept.code_id)).collect::<Vec<_>>();
        node.add(of("x", 1, "production"));
        node.file.catalog_id = Some(CatalogId::of(b"x"));
        node.add(of("z", 1, "test"));
        for code in 2..9 {
            let (_, gone) = node.add(of("x", code, "production"));
            assert_eq!((gone.len(), node.file.catalogs.len()), (0, 3.min(usize::from(code) + 1)), "{code}");
        }
        let (_, gone) = node.add(of("y", 9, "production"));
        assert_eq!(gone, []);
        assert_eq!(node.file.catalogs.last().unwrap().catalog_id, CatalogId::of(b"y"));
        node.add(of("w", 10, "production"));
        let (_, gone) = node.add(of("v", 11, "production"));
        assert_eq!(gone, [CatalogId::of(b"y")]);
        let expected = [("z", 1), ("x", 8), ("w", 10), ("v", 11)].map(|(catalog, code)| of(catalog, code, "test"));
        assert_eq!(ids(&node), expected.map(|kept| (kept.catalog_id, kept.code_id)));
    }

    /// However fast it is published: a node gets what it was told of a moment ago.
    #[test]
    fn what_may_be_being_fetched_stays() {
        let mut node = Node::new(&"n1".parse().unwrap());
        let mut add = |code: u8, age: u64| {
            let (file, _) = node.add(CompiledCatalog {
                catalog_id: CatalogId::of(&[code]),
                code_id: format!("blake3:{}", Digest::of(&[code]).to_hex()).parse().unwrap(),
                environment: Environment::default(),
                facts: Digest::of(b""),
                extensions: None,
                compiler: String::new(),
                is_forgotten: false,
                time_unix_seconds: now() - age,
            });
            file.catalogs.len()
        };
        assert_eq!((0..4).map(|code| add(code, 100_000)).collect::<Vec<_>>(), [1, 2, 2, 2]);
        // The first two are beside an old one.
        assert_eq!((4..20).map(|code| add(code, 0)).collect::<Vec<_>>(), [2, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn of_two_summaries_what_was_heard_last_counts_and_nothing_is_lost_that_only_one_tells() {
        let summary = |last_seen| NodeSummary {
            certname: "n1".parse().unwrap(),
            environment: None,
            catalog_id: None,
            code_id: None,
            compiles: 0,
            last_seen,
            status: None,
        };
        let of = |last_seen, held: &str| NodeSummary {
            environment: Some(Environment::default()),
            catalog_id: Some(CatalogId::of(held.as_bytes())),
            ..summary(last_seen)
        };
        let both =
            |one: &NodeSummary, other: &NodeSummary| [one.clone().joined(other.clone()), other.clone().joined(one.clone())];
        // In the same second, what tells more.
        assert_eq!(both(&of(7, "a"), &summary(7)), [of(7, "a"), of(7, "a")]);
        // One that was only given something, later.
        assert_eq!(both(&of(7, "a"), &summary(8)), [of(8, "a"), of(8, "a")]);
        // One that says it holds nothing, later, and how its run before ended.
        let reported = NodeSummary { status: Some(RunStatus::Changed), ..of(7, "a") };
        let empty = NodeSummary { catalog_id: None, ..of(8, "") };
        let expected = NodeSummary { status: Some(RunStatus::Changed), ..empty.clone() };
        assert_eq!(both(&reported, &empty), [expected.clone(), expected]);
        // Of two that tell as much in the same second, the other.
        assert_eq!(of(7, "a").joined(of(7, "b")), of(7, "b"));
    }
}
