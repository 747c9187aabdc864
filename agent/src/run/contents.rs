//! Which contents the node lacks, and bringing them into the local store.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Algorithm, Catalog, CatalogId, Digest, Edge, Resource, TreePath};

use super::state::State;
use super::{Missing, Plan, Run, Uses};
use crate::error::RunError;
use crate::event::{EventSink, RunEvent};
use crate::fs::{FsError, Root};
use crate::lock::own_file;
use crate::provider::Providers;
use crate::store::Store;
use crate::sync::{Asking, Base, FetchRequest, LARGE_BYTES, Packing, fetch};
use crate::tree::{ContentState, Proofs, Scan, ScanOptions, StatCache, WantedContent, scan};

/// How often listeners hear how far a scan is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How much of a content is in memory while it is copied.
const COPY_BYTES: usize = 64 * 1024;

/// A content that lies elsewhere on this node.
struct LocalCopy {
    digest: Digest,
    size: u64,
    holder: TreePath,
}

/// What the scan says, and what follows from it.
pub(super) struct Contents {
    pub(super) classes: Vec<String>,
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) edges: Vec<Edge>,
    pub(super) scan: Scan,
    /// Contents to be copied into the store from another path of this node.
    copies: Vec<LocalCopy>,
    /// Contents to be fetched.
    pub(super) missing: Missing,
    /// What the node has at the path that needs a missing content, as far as that is known.
    present: HashMap<Digest, (TreePath, Digest)>,
    /// Files that are to get a large missing content instead of another.
    alike: HashMap<Digest, TreePath>,
    /// Contents brought into the store for this run only.
    pub(super) uses: Uses,
    /// What the scan proved, when it found nothing to do.
    pub(super) proofs: Option<Proofs>,
    /// When it began.
    pub(super) scanned_at: SystemTime,
}

impl<T: Transport> Run<'_, T> {
    pub(super) async fn scan(&self, state: &mut State, plan: &mut Plan, catalog: Catalog) -> Result<Contents, RunError> {
        let (wanted, owners) = (std::mem::take(&mut plan.resources.wanted), std::mem::take(&mut plan.resources.owners));
        let mut needed = Missing::new();
        for (at, resource) in catalog.resources.iter().enumerate() {
            let Some(provider) = plan.providers.get(&resource.resource_type) else { continue };
            if resource.is_container() || plan.resources.refused.contains_key(&at) {
                continue;
            }
            for (digest, size) in provider.needed(resource) {
                needed.entry(digest).or_insert_with(|| (size, resource.reference().to_string()));
            }
        }
        state.needed = needed.keys().copied().collect();
        let (classes, edges) = (catalog.classes, catalog.edges);
        let resources: Vec<Arc<Resource>> = catalog.resources.into_iter().map(Arc::new).collect();
        let owners = Owners { of_wanted: owners, resources: resources.clone(), providers: Arc::clone(&plan.providers) };
        let job = ScanJob {
            root: state.root.clone(),
            store: state.store.clone(),
            state_dir: self.inner.state_dir.clone(),
            wanted,
            owners,
            needed,
            options: ScanOptions {
                threads: self.inner.threads,
                reproof_interval: self.inner.reproof_interval,
                proof: self.options.proof,
            },
            may_settle: self.may_settle(),
            now: self.inner.system.now(),
            progress: Arc::default(),
            interrupt: Arc::default(),
        };
        let (progress, interrupt) = (Arc::clone(&job.progress), Arc::clone(&job.interrupt));
        let total = job.wanted.len() as u64;
        let (contents, cache) = self.watch(move || job.run(), &progress, &interrupt, total).await??;
        state.cache = Some(cache);
        Ok(Contents { classes, resources, edges, ..contents })
    }

    /// Does work on a blocking thread, tells listeners how far it is, and interrupts it when the run is cancelled.
    pub(super) async fn watch<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
        progress: &AtomicU64,
        interrupt: &AtomicBool,
        total: u64,
    ) -> Result<R, RunError> {
        let mut task = tokio::task::spawn_blocking(work);
        let tell = |sink: &EventSink| sink.send(RunEvent::Scanned { files: progress.load(Ordering::Relaxed), total });
        loop {
            tokio::select! {
                done = &mut task => {
                    tell(&self.inner.sink);
                    return done.map_err(RunError::Lost);
                }
                () = self.cancel.cancelled(), if !interrupt.load(Ordering::Relaxed) => interrupt.store(true, Ordering::Relaxed),
                () = tokio::time::sleep(PROGRESS_INTERVAL) => tell(&self.inner.sink),
            }
        }
    }

    /// Copies what the node has elsewhere, fetches the rest; all of it verified and durable in the store afterwards.
    /// `catalogs` are the one that names them, and the one before.
    pub(super) async fn bring(
        &mut self,
        state: &State,
        contents: &mut Contents,
        catalogs: (CatalogId, Option<&(CatalogId, Catalog)>),
    ) -> Result<(), RunError> {
        if !contents.copies.is_empty() {
            let (root, store, copies) = (state.root.clone(), state.store.clone(), std::mem::take(&mut contents.copies));
            let failed = tokio::task::spawn_blocking(move || copy_all(&root, &store, copies)).await.map_err(RunError::Lost)??;
            for LocalCopy { digest, size, holder } in failed {
                // The file changed since the scan: then the server has to help.
                contents.missing.insert(digest, (size, holder.absolute()));
            }
        }
        if self.given.is_some() {
            // Nobody is asked: what is missing fails the resources that need it.
            contents.missing = Missing::new();
        }
        if contents.missing.is_empty() {
            return Ok(());
        }
        let is_packed = self.inner.compression.is_on(self.client.transport().is_local());
        let packing = is_packed.then(|| packing(&state.root, contents, catalogs));
        let mut fetched = self.fetched;
        let request = FetchRequest {
            client: &self.client,
            asking: Asking::AsNode,
            certname: &self.inner.certname,
            store: &state.store,
            missing: &contents.missing,
            packing,
            cancel: &self.cancel,
            sink: &self.inner.sink,
        };
        let result = fetch(request, &mut fetched).await;
        self.fetched = fetched;
        // Nobody needs it during the apply.
        contents.missing = Missing::new();
        result
    }
}

/// Collects what can be said of missing contents beside their digests: where catalogs name them, and what the node has instead.
fn packing(root: &Root, contents: &Contents, (catalog_id, prior): (CatalogId, Option<&(CatalogId, Catalog)>)) -> Packing {
    let mut places = HashMap::with_capacity(contents.missing.len());
    let named = contents.resources.iter().flat_map(|resource| resource.contents());
    for (place, (digest, _)) in (0_u32..).zip(named) {
        if contents.missing.contains_key(&digest) {
            places.entry(digest).or_insert(place);
        }
    }
    let needed: HashSet<Digest> = contents.present.values().map(|(_, digest)| *digest).collect();
    let mut before = HashMap::with_capacity(needed.len());
    for (place, (digest, size)) in (0_u32..).zip(prior.iter().flat_map(|(_, catalog)| catalog.contents())) {
        if needed.contains(&digest) {
            before.entry(digest).or_insert((place, size));
        }
    }
    let base = |(digest, (path, present)): (&Digest, &(TreePath, Digest))| {
        let (place, size) = *before.get(present)?;
        Some((*digest, Base { place, path: path.clone(), size }))
    };
    let bases: HashMap<Digest, Base> = contents.present.iter().filter_map(base).collect();
    let is_unknown = |(digest, _): &(&Digest, &TreePath)| !bases.contains_key(digest);
    let alike = contents.alike.iter().filter(is_unknown).map(|(digest, path)| (*digest, path.clone())).collect();
    Packing { root: root.clone(), catalog_id, places, base_catalog_id: prior.map(|(id, _)| *id), bases, alike }
}

struct ScanJob {
    root: Root,
    store: Store,
    state_dir: PathBuf,
    wanted: Vec<WantedContent>,
    owners: Owners,
    /// Contents that must be in the store, whatever the scan finds.
    needed: Missing,
    options: ScanOptions,
    /// Whether what is proved may be written down for runs to come.
    may_settle: bool,
    now: SystemTime,
    progress: Arc<AtomicU64>,
    interrupt: Arc<AtomicBool>,
}

/// Who wants the contents.
struct Owners {
    /// Indexes of resources, in the order of the contents.
    of_wanted: Vec<usize>,
    resources: Vec<Arc<Resource>>,
    providers: Arc<Providers>,
}

impl Owners {
    /// Whether a content is carried by the resource that wants it. Only that one has it: others of the same content still need it.
    fn carry(&self, at: usize, digest: &Digest) -> bool {
        let resource = self.of_wanted.get(at).and_then(|&owner| self.resources.get(owner));
        let provider = |resource: &Arc<Resource>| self.providers.get(&resource.resource_type);
        resource.is_some_and(|resource| provider(resource).is_some_and(|provider| provider.carried(resource).contains(digest)))
    }
}

impl ScanJob {
    fn run(mut self) -> Result<(Contents, StatCache), RunError> {
        let mut cache = StatCache::load(&self.state_dir)?;
        follow_links(&self.root, &mut self.wanted);
        let scanned = scan(&self.root, &self.wanted, &mut cache, &self.options, self.now, &self.interrupt, &self.progress);
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(RunError::Cancelled);
        }
        let scanned = scanned?;
        let proofs = self.may_settle.then(|| Proofs::of(&self.wanted, &scanned, &cache, self.options.reproof_interval)).flatten();
        let present = |path: &TreePath, content: &ContentState| present(&cache, path, content);
        let mut contents = resolve(&self.store, &self.wanted, &|at, digest| self.owners.carry(at, digest), scanned, &present)?;
        need(&self.store, self.needed, &mut contents)?;
        Ok((Contents { proofs, scanned_at: self.now, ..contents }, cache))
    }
}

/// Looks through links that a resource follows. What cannot be followed stays: checking the resource says why.
fn follow_links(root: &Root, wanted: &mut [WantedContent]) {
    for want in wanted.iter_mut().filter(|want| want.follow) {
        if let Ok(Some(path)) = root.resolve_links(&want.path) {
            want.path = path;
        }
    }
}

/// Returns the content of a file that is to get another: as it was read now, or as it was last seen. That it still is so shows when it
/// is used.
fn present(cache: &StatCache, path: &TreePath, content: &ContentState) -> Option<Digest> {
    match content {
        ContentState::Different(Some(digest)) => Some(*digest),
        ContentState::Different(None) => cache.last_seen(path).map(|(digest, _)| digest),
        _ => None,
    }
}

/// Decides for each content that is not in place where it comes from: the store, another path, or the server.
fn resolve(
    store: &Store,
    wanted: &[WantedContent],
    is_carried: &dyn Fn(usize, &Digest) -> bool,
    mut scan: Scan,
    present_at: &dyn Fn(&TreePath, &ContentState) -> Option<Digest>,
) -> Result<Contents, RunError> {
    let mut uses = Uses::new();
    let mut needed: Vec<&WantedContent> = Vec::new();
    for (at, want) in wanted.iter().enumerate() {
        let state = scan.files.get(&want.path).map(|scanned| &scanned.content);
        let is_needed = match state {
            // If nothing replaces what blocks the way, the resource fails, as it must.
            Some(ContentState::Absent | ContentState::Blocked) => true,
            Some(ContentState::Different(_) | ContentState::OtherKind) => want.replace,
            _ => false,
        };
        if is_needed && !is_carried(at, &want.digest) {
            let count = uses.entry(want.digest).or_insert(0);
            *count += 1;
            if *count == 1 {
                needed.push(want);
            }
        }
    }
    let mut copies = Vec::new();
    let mut missing = Missing::new();
    let (mut present, mut alike) = (HashMap::new(), HashMap::new());
    for want in needed {
        if store.has_verified(&want.digest)? {
            // It was there before this run, as a backup or from a fetch that broke off: it stays.
            uses.remove(&want.digest);
        } else if let Some(holder) = scan.holders.get(&want.digest) {
            copies.push(LocalCopy { digest: want.digest, size: want.size, holder: holder.clone() });
        } else {
            missing.insert(want.digest, (want.size, want.path.absolute()));
            let is_file =
                matches!(scan.files.get(&want.path), Some(found) if matches!(found.content, ContentState::Different(_)));
            if is_file && LARGE_BYTES.contains(&want.size) {
                alike.insert(want.digest, want.path.clone());
            }
            if let Some(digest) = scan.files.get(&want.path).and_then(|scanned| present_at(&want.path, &scanned.content)) {
                present.insert(want.digest, (want.path.clone(), digest));
            }
        }
    }
    scan.counters.missing = missing.len() as u64;
    let (proofs, scanned_at) = (None, SystemTime::UNIX_EPOCH);
    let (classes, resources, edges) = Default::default();
    Ok(Contents { classes, resources, edges, scan, copies, missing, present, alike, uses, proofs, scanned_at })
}

/// Adds contents that must be in the store, and stay there.
fn need(store: &Store, needed: Missing, contents: &mut Contents) -> Result<(), RunError> {
    for (digest, (size, resource)) in needed {
        // A file that needs it too must not take it away.
        contents.uses.remove(&digest);
        let is_coming = contents.missing.contains_key(&digest) || contents.copies.iter().any(|copy| copy.digest == digest);
        if is_coming || store.has_verified(&digest)? {
            continue;
        }
        match contents.scan.holders.get(&digest) {
            Some(holder) => contents.copies.push(LocalCopy { digest, size, holder: holder.clone() }),
            None => drop(contents.missing.insert(digest, (size, resource))),
        }
    }
    contents.scan.counters.missing = contents.missing.len() as u64;
    Ok(())
}

/// Copies a content into the store by a digest that is not the store's own, and verifies it by that.
fn put_as(store: &Store, digest: Digest, mut file: File) -> Result<(), FsError> {
    let failed = |error: io::Error| own_file(&store.path_of(&digest), "copy a content from elsewhere on this node", error);
    let size = file.metadata().map_err(failed)?.len();
    let mut incoming = store.receive(digest, size, 0)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return incoming.finish(),
            count => incoming.write(&buffer[..count])?,
        }
    }
}

/// Copies contents into the store; returns those that turned out to be others.
fn copy_all(root: &Root, store: &Store, copies: Vec<LocalCopy>) -> Result<Vec<LocalCopy>, RunError> {
    let is_copied = |copy: &LocalCopy| {
        let file = root.open_file(&copy.holder)?;
        if copy.digest.algorithm() == Algorithm::Blake3 {
            return store.put_file(&file).map(|put| put.digest == copy.digest);
        }
        put_as(store, copy.digest, file).map(|()| true)
    };
    let failed = copies.into_iter().filter(|copy| !is_copied(copy).unwrap_or(false)).collect();
    store.sync()?;
    Ok(failed)
}
