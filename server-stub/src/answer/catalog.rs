//! Check-in and facts: is the catalog current, and if not, one compile for everybody who asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, CodeId, Digest, EntryKind, Environment, Refusal, RefusalCode, SubmitFacts, codec,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::session::stale;
use super::{internal, refusal};
use crate::blocking;
use crate::code::Code;
use crate::compile::{CompileErrorKind, CompileRequest, Compiled};
use crate::disk;
use crate::error::{ServerError, chain};
use crate::nodes::CompiledCatalog;
use crate::server::{Server, now};
use crate::shared;

/// Longest time that a check-in is held, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// When to ask a server again that could not ask others, in seconds.
pub(crate) const UNCONFIRMED_SECONDS: u32 = 5;

/// How long a server that stops takes to confirm what it tells those who waited.
const STOPPING_PATIENCE: Duration = Duration::from_secs(1);

/// Compiles that may wait at once; each holds the facts of a node.
pub(crate) const MAX_FLIGHTS: usize = 10_000;

/// When a node that was turned away shall come back, in seconds.
const BUSY_SECONDS: u32 = 30;

/// One compile: node, environment, code.
type Key = (Certname, Environment, CodeId);

/// The one result that all callers of a compile share.
type Flight = Shared<BoxFuture<'static, Result<CompiledCatalog, Refusal>>>;

/// Compiles under way, and those that failed: a node whose code does not compile is not compiled again until there is other
/// code, its certificate has other extensions, or an administrator says so.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flights(Arc<Mutex<HashMap<Key, Flying>>>);

/// A compile with the digest of the extensions that it has in it. One with others takes its place, and the old one ends for those who wait.
#[derive(Debug)]
struct Flying {
    extensions: Digest,
    flight: Flight,
}

impl Flying {
    /// Whether its result is for one whose certificate says this; as [`CompiledCatalog::holds_for`].
    fn holds_for(&self, extensions: Option<Digest>) -> bool {
        extensions.is_none_or(|shown| shown == self.extensions)
    }
}

impl Flights {
    /// Returns why a compile failed, if it did.
    fn failure(&self, key: &Key, extensions: Option<Digest>) -> Option<Refusal> {
        let flights = self.lock();
        flights.get(key).filter(|flying| flying.holds_for(extensions))?.flight.peek()?.as_ref().err().cloned()
    }

    /// Ends a flight. A catalog is with its node by now; what went wrong in the server may go right the next time.
    fn land(&self, key: &Key, extensions: Digest, result: &Result<CompiledCatalog, Refusal>) {
        let is_final = matches!(result, Err(refusal) if refusal.code == RefusalCode::CompileFailed);
        let mut flights = self.lock();
        if !is_final && flights.get(key).is_some_and(|flying| flying.extensions == extensions) {
            flights.remove(key);
        }
    }

    /// Forgets everything of a node.
    pub(crate) fn forget(&self, certname: &Certname) {
        self.lock().retain(|(name, _, _), _| name != certname);
    }

    /// How many are under way, or have failed.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flying>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller that needs a catalog gets on.
enum Boarded {
    Flight(Flight),
    /// It landed between the caller's first look and now.
    Landed(CompiledCatalog),
}

impl Server {
    /// Makes sure that nobody is answered from code that was replaced before he asked, nor from older code than he asks for. Returns
    /// for how many seconds that could not be confirmed, where such answers are allowed.
    async fn confirmed(&self, request: &CheckIn) -> Result<Option<u32>, Refusal> {
        let confirmed = self.confirm_environment(&request.environment).await;
        let confirmed = confirmed.map_err(|error| stale(format!("{error}: try again, or ask another server")))?;
        if confirmed.orphans.contains(&request.environment) {
            let message = format!("the primary has no environment {}: publish it there", request.environment);
            return Err(stale(message));
        }
        let at_least = request.at_least.or(request.held.map(|held| held.version));
        #[cfg(test)]
        let at_least = at_least.filter(|_| !crate::tests::sim::is_planted(crate::tests::sim::Bug::SessionIgnored));
        if let Some(at_least) = at_least {
            self.refuse_older(&request.environment, at_least)?;
        }
        if let Some(at_least) = request.at_least {
            self.refuse_without(&request.environment, at_least)?;
        }
        Ok(confirmed.unconfirmed_for.map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX)))
    }

    pub(crate) async fn answer_check_in(&self, peer: &Peer, request: &CheckIn) -> Result<CatalogReply, Refusal> {
        let extensions = peer.extensions_digest();
        let mut unconfirmed = self.confirmed(request).await?;
        self.nodes.seen(&request.certname, &request.environment, request.held.map(|held| (held.catalog_id, held.code_id)));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(request.wait_seconds)).min(MAX_WAIT);
        let mut changes = self.environments.changes();
        let (mut is_its_turn, mut is_over) = (false, request.wait_seconds == 0);
        loop {
            let touches = changes.borrow_and_update().touches;
            let code = self.live(&request.environment)?;
            let is_news = request.held.is_none_or(|held| held.code_id != code.version.code_id);
            // Its turn was for what was live then.
            is_its_turn &= is_news;
            if let Some(held) = request.held
                && is_news
                && request.at_least.is_none()
                && !is_its_turn
            {
                if request.wait_seconds == 0 {
                    self.refuse_while_paused(&request.environment)?;
                } else if is_over {
                    // Who waits is told of new code when it is his turn; until then he keeps what he has.
                    let (code_id, version) = (held.code_id, held.version);
                    return Ok(CatalogReply::Current { code_id, version, unconfirmed_seconds: unconfirmed });
                } else {
                    // Boxed, so that those who wait for news do not hold room for it.
                    let mut turn = Box::pin(self.gate.turn());
                    loop {
                        tokio::select! {
                            biased;
                            () = self.stopping.cancelled() => is_over = true,
                            () = &mut turn => is_its_turn = true,
                            () = tokio::time::sleep_until(deadline) => is_over = true,
                            // What it has may be live again: then it waits for no turn.
                            _ = changes.changed() => {
                                if self.live(&request.environment)?.version.code_id != held.code_id {
                                    continue;
                                }
                            }
                        }
                        break;
                    }
                    unconfirmed = self.confirmed_again(request).await?;
                    continue;
                }
            }
            self.adopt(request, &code, extensions).await?;
            let reply = self.reply(request, &code, extensions, unconfirmed)?;
            let is_current = matches!(reply, CatalogReply::Current { .. });
            if is_news || !is_current || is_over {
                return Ok(reply);
            }
            drop((code, reply));
            loop {
                tokio::select! {
                    _ = changes.changed() => {
                        let is_touched = changes.borrow_and_update().touches != touches;
                        // News of other environments are none.
                        if !is_touched && self.has_live(request) {
                            continue;
                        }
                    }
                    () = tokio::time::sleep_until(deadline) => is_over = true,
                    // Whoever waits is told that nothing is new, and asks again where somebody answers.
                    () = self.stopping.cancelled() => is_over = true,
                }
                break;
            }
            unconfirmed = self.confirmed_again(request).await?;
        }
    }

    /// Whether what a node holds was compiled from what is live here.
    fn has_live(&self, request: &CheckIn) -> bool {
        let live = self.environments.live(&request.environment);
        live.is_some_and(|live| request.held.is_some_and(|held| held.code_id == live.version.code_id))
    }

    /// Confirms once more, after a wait: what was confirmed before it may have been replaced since.
    async fn confirmed_again(&self, request: &CheckIn) -> Result<Option<u32>, Refusal> {
        // Boxed, so that those who wait do not pay for it.
        let again = Box::pin(self.confirmed(request));
        if !self.stopping.is_cancelled() {
            return again.await;
        }
        tokio::time::timeout(STOPPING_PATIENCE, again)
            .await
            .unwrap_or_else(|_| Err(stale("this server is stopping: ask again, or another server".to_owned())))
    }

    /// While a rollout is paused, a node that has other code keeps it.
    fn refuse_while_paused(&self, environment: &Environment) -> Result<(), Refusal> {
        let Some(why) = self.gate.rollout().paused else { return Ok(()) };
        let message = format!("the rollout of new code in {environment} is paused: {why}");
        Err(Refusal::new(RefusalCode::Busy, message))
    }

    /// Answers who has sent facts. The extensions of his certificate are compiled with them, and others are cause to compile.
    pub(crate) async fn answer_facts(&self, peer: &Peer, request: &SubmitFacts) -> Result<CatalogReply, Refusal> {
        let extensions = peer.extensions_digest();
        let check_in = &request.check_in;
        let unconfirmed = self.confirmed(check_in).await?;
        let code = self.live(&check_in.environment)?;
        if check_in.at_least.is_none() && check_in.held.is_some_and(|held| held.code_id != code.version.code_id) {
            self.refuse_while_paused(&check_in.environment)?;
        }
        self.adopt(check_in, &code, extensions).await?;
        let reply = self.reply(check_in, &code, extensions, unconfirmed)?;
        if reply != CatalogReply::FactsNeeded {
            // Somebody's facts have been compiled with this code already: changed facts are no cause to do it again.
            return Ok(reply);
        }
        let compiled = match self.board(peer, request, &code)? {
            Boarded::Flight(flight) => flight.await?,
            Boarded::Landed(compiled) => compiled,
        };
        self.deliver(check_in, &code, &compiled, unconfirmed)
    }

    /// Joins the compile of this node and code, or begins it. It goes on when the caller goes away, so that it is never begun twice.
    fn board(&self, peer: &Peer, request: &SubmitFacts, code: &Arc<Code>) -> Result<Boarded, Refusal> {
        let (shown, extensions) = (peer.extensions_digest(), peer.extensions());
        let check_in = &request.check_in;
        let key: Key = (check_in.certname.clone(), check_in.environment.clone(), code.version.code_id);
        let mut flights = self.flights.lock();
        if let Some(flying) = flights.get(&key).filter(|flying| flying.holds_for(shown)) {
            return Ok(Boarded::Flight(flying.flight.clone()));
        }
        // A flight lands after its catalog is with the node: under this lock it is in one place or the other.
        if let Some(compiled) = self.nodes.catalog_for(&key.0, &key.1, key.2, shown) {
            return Ok(Boarded::Landed(compiled));
        }
        flights.retain(|(name, place, _), flying| *name != key.0 || *place != key.1 || flying.flight.peek().is_none());
        if flights.len() >= MAX_FLIGHTS && flights.values().filter(|flying| flying.flight.peek().is_none()).count() >= MAX_FLIGHTS
        {
            let busy = Refusal::new(RefusalCode::Busy, "too many catalogs wait to be compiled");
            return Err(Refusal { retry_after_seconds: Some(BUSY_SECONDS), ..busy });
        }
        let (certname, facts) = (key.0.clone(), request.facts.clone());
        let compile = CompileRequest { certname, code: Arc::clone(code), facts, extensions };
        let extensions = compile.extensions.digest();
        let (work, all, own) = (self.compile(compile), self.flights.clone(), key.clone());
        let task = tokio::spawn(async move {
            let result = work.await;
            all.land(&own, extensions, &result);
            result
        });
        let flight = async move { task.await.unwrap_or_else(|error| Err(internal(&error))) }.boxed().shared();
        flights.insert(key, Flying { extensions, flight: flight.clone() });
        Ok(Boarded::Flight(flight))
    }

    fn live(&self, environment: &Environment) -> Result<Arc<Code>, Refusal> {
        self.environments.live(environment).ok_or_else(|| {
            let message = match self.environments.is_lost(environment) {
                true => format!("the code of environment {environment} is damaged on the server: publish it again"),
                false => format!("nothing is published in environment {environment}: publish it, or choose another"),
            };
            Refusal::new(RefusalCode::NotPublished, message)
        })
    }

    /// Brings the catalog that another server has compiled for a node from this code, where they share a store.
    async fn adopt(&self, check_in: &CheckIn, code: &Code, extensions: Option<Digest>) -> Result<(), Refusal> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let (certname, environment, code_id) = (&check_in.certname, &check_in.environment, code.version.code_id);
        if self.nodes.catalog_for(certname, environment, code_id, extensions).is_none() {
            // Boxed, so that those who wait do not pay for it.
            let adopt = async {
                let Some(held) = self.hold_collections().await else { return Ok(None) };
                shared.adopt(certname, environment, code_id, extensions, &held).await
            };
            Box::pin(adopt).await.map_err(|error| refusal(&error))?;
        }
        Ok(())
    }

    /// Answers from what is compiled already.
    fn reply(
        &self,
        check_in: &CheckIn,
        code: &Code,
        extensions: Option<Digest>,
        unconfirmed: Option<u32>,
    ) -> Result<CatalogReply, Refusal> {
        match self.nodes.catalog_for(&check_in.certname, &check_in.environment, code.version.code_id, extensions) {
            Some(compiled) => self.deliver(check_in, code, &compiled, unconfirmed),
            None => {
                let key = (check_in.certname.clone(), check_in.environment.clone(), code.version.code_id);
                self.flights.failure(&key, extensions).map_or(Ok(CatalogReply::FactsNeeded), Err)
            }
        }
    }

    fn deliver(
        &self,
        check_in: &CheckIn,
        code: &Code,
        compiled: &CompiledCatalog,
        unconfirmed_seconds: Option<u32>,
    ) -> Result<CatalogReply, Refusal> {
        let (code_id, version) = (code.version.code_id, code.version.version);
        let catalog_id = compiled.catalog_id;
        if check_in.held.is_some_and(|held| held.catalog_id == catalog_id) {
            return Ok(CatalogReply::Current { code_id, version, unconfirmed_seconds });
        }
        match self.nodes.read(&check_in.certname, catalog_id) {
            Some(catalog) => {
                self.nodes.given(&check_in.certname, catalog_id);
                Ok(CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds, catalog })
            }
            // Gone or damaged on disk: then it is made again.
            None => {
                tracing::error!(certname = %check_in.certname, %catalog_id, "a catalog is gone or damaged on disk: it is compiled again");
                self.nodes.lose(&check_in.certname, catalog_id);
                Ok(CatalogReply::FactsNeeded)
            }
        }
    }

    /// Returns the work of one compile; it holds nothing of a request.
    fn compile(&self, compile: CompileRequest) -> impl Future<Output = Result<CompiledCatalog, Refusal>> + Send + 'static {
        let compiler = Arc::clone(&self.options.compiler);
        let (store, nodes, workers) = (self.store.clone(), Arc::clone(&self.nodes), Arc::clone(&self.workers));
        let (collecting, shared, mending) = (Arc::clone(&self.collecting), self.shared.clone(), Arc::clone(&self.mending));
        let work = move || -> Result<CompiledCatalog, ServerError> {
            let _turn = collecting.read().unwrap_or_else(PoisonError::into_inner);
            let facts = Digest::of(&codec::encode(&compile.facts)?);
            let compiled = compiler.compile(&compile);
            if let Err(CompileErrorKind::Unreadable { digest }) = compiled.as_ref().map_err(|error| error.kind) {
                mending.want(digest);
            }
            let Compiled { catalog, contents } = compiled?;
            let mut named: HashMap<Digest, u64> = catalog.contents().collect();
            for content in &contents {
                store.put_bytes(content)?;
            }
            let (catalog_id, bytes) = catalog.encode()?;
            let compiled = CompiledCatalog {
                environment: compile.code.version.environment.clone(),
                catalog_id,
                code_id: compile.code.version.code_id,
                facts,
                extensions: Some(compile.extensions.digest()),
                compiler: compiler.name_and_version().to_owned(),
                is_forgotten: false,
                time_unix_seconds: now(),
            };
            if let Some(shared) = shared {
                // What is in the code is there already.
                for entry in compile.code.manifest.entries() {
                    if let EntryKind::File { digest, .. } = &entry.kind {
                        named.remove(digest);
                    }
                }
                let all = shared::wait(shared.offer(&compile.certname, &compiled, &bytes, named))?;
                if all != compiled {
                    return Ok(all);
                }
            }
            nodes.keep(&compile.certname, compiled.clone(), &bytes)?;
            Ok(compiled)
        };
        async move {
            let _worker = workers.acquire_owned().await.map_err(|error| internal(&error))?;
            blocking::run(work).await.map_err(|error| internal(&error))?.map_err(|error| not_compiled(&error))
        }
    }
}

/// What a peer hears of a catalog that could not be made, or not be kept. Where the disk is full it is not told to come again: it has a
/// catalog to go on with, and Puppet's agents would wait instead, for hours.
fn not_compiled(error: &ServerError) -> Refusal {
    if !disk::is_full(error) {
        return refusal(error);
    }
    tracing::error!("{}", chain(error));
    Refusal::new(RefusalCode::Internal, "the disk of this server is full: no catalog can be kept")
}
