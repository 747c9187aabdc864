//! Check-in and facts: is the catalog current, and if not, one compile for everybody who asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, CodeId, Digest, Environment, Refusal, RefusalCode, SubmitFacts, codec,
};
use tokio::sync::OnceCell;

use super::{internal, refusal};
use crate::code::Code;
use crate::compile::{CompileRequest, Compiled};
use crate::error::ServerError;
use crate::nodes::CompiledCatalog;
use crate::server::{Server, now};

/// Longest time that a check-in is held, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// One compile: node, environment, code.
type Key = (Certname, Environment, CodeId);

/// The one result that all callers of a compile share.
type Flight = Arc<OnceCell<Result<CompiledCatalog, Refusal>>>;

/// Compiles under way, and those that failed: a node whose code does not compile is not compiled again until there is other
/// code, or an administrator says so.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, Flight>>);

impl Flights {
    fn board(&self, key: &Key) -> Flight {
        Arc::clone(self.lock().entry(key.clone()).or_default())
    }

    /// Ends the flight of a success; the result is with the node from now on.
    fn land(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Forgets failures of a node under other code than `live`.
    fn forget_older(&self, certname: &Certname, environment: &Environment, live: CodeId) {
        self.lock().retain(|(name, place, code_id), flight| {
            let is_stale = name == certname && place == environment && *code_id != live && flight.get().is_some();
            !is_stale
        });
    }

    /// Forgets everything of a node.
    pub(crate) fn forget(&self, certname: &Certname) {
        self.lock().retain(|(name, _, _), _| name != certname);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    pub(super) async fn answer_check_in(&self, request: &CheckIn) -> Result<CatalogReply, Refusal> {
        self.nodes.seen(&request.certname, &request.environment, request.held.map(|held| (held.catalog_id, held.code_id)));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(request.wait_seconds)).min(MAX_WAIT);
        let mut changes = self.environments.changes();
        loop {
            changes.mark_unchanged();
            let code = self.live(&request.environment)?;
            let is_news = request.held.is_none_or(|held| held.code_id != code.version.code_id);
            let reply = self.reply(request, &code)?;
            let is_current = matches!(reply, CatalogReply::Current { .. });
            if is_news || !is_current || tokio::time::Instant::now() >= deadline {
                return Ok(reply);
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Ok(reply);
            }
        }
    }

    pub(super) async fn answer_facts(&self, request: &SubmitFacts) -> Result<CatalogReply, Refusal> {
        let check_in = &request.check_in;
        let code = self.live(&check_in.environment)?;
        let reply = self.reply(check_in, &code)?;
        if reply != CatalogReply::FactsNeeded {
            // Somebody's facts have been compiled with this code already: changed facts are no cause to do it again.
            return Ok(reply);
        }
        let key = (check_in.certname.clone(), check_in.environment.clone(), code.version.code_id);
        self.flights.forget_older(&key.0, &key.1, key.2);
        let flight = self.flights.board(&key);
        let compiled = flight.get_or_init(|| self.compile(request, Arc::clone(&code))).await.clone()?;
        self.flights.land(&key);
        self.deliver(check_in, &code, &compiled)
    }

    fn live(&self, environment: &Environment) -> Result<Arc<Code>, Refusal> {
        self.environments.live(environment).ok_or_else(|| {
            let message = format!("nothing is published in environment {environment}: publish it, or choose another");
            Refusal::new(RefusalCode::NotPublished, message)
        })
    }

    /// Answers from what is compiled already.
    fn reply(&self, check_in: &CheckIn, code: &Code) -> Result<CatalogReply, Refusal> {
        let compiler = self.options.compiler.name_and_version();
        match self.nodes.catalog(&check_in.certname, &check_in.environment, code.version.code_id, compiler) {
            Some(compiled) => self.deliver(check_in, code, &compiled),
            None => Ok(CatalogReply::FactsNeeded),
        }
    }

    fn deliver(&self, check_in: &CheckIn, code: &Code, compiled: &CompiledCatalog) -> Result<CatalogReply, Refusal> {
        let (code_id, version) = (code.version.code_id, code.version.version);
        let catalog_id = compiled.catalog_id;
        if check_in.held.is_some_and(|held| held.catalog_id == catalog_id) {
            return Ok(CatalogReply::Current { code_id, version });
        }
        match self.nodes.read(&check_in.certname, catalog_id) {
            Some(catalog) => Ok(CatalogReply::Catalog { catalog_id, code_id, version, catalog }),
            // Gone or damaged on disk: then it is made again.
            None => Ok(CatalogReply::FactsNeeded),
        }
    }

    async fn compile(&self, request: &SubmitFacts, code: Arc<Code>) -> Result<CompiledCatalog, Refusal> {
        let _worker = self.workers.acquire().await.map_err(|error| internal(&error))?;
        let compiler = Arc::clone(&self.options.compiler);
        let facts = Digest::of(&codec::encode(&request.facts).map_err(|error| internal(&error))?);
        let compile = CompileRequest { certname: request.check_in.certname.clone(), code, facts: request.facts.clone() };
        let (store, nodes) = (self.store.clone(), Arc::clone(&self.nodes));
        let work = move || -> Result<CompiledCatalog, ServerError> {
            let Compiled { catalog, contents } = compiler.compile(&compile)?;
            for content in &contents {
                store.put_bytes(content)?;
            }
            store.sync()?;
            let (catalog_id, bytes) = catalog.encode()?;
            let compiled = CompiledCatalog {
                environment: compile.code.version.environment.clone(),
                catalog_id,
                code_id: compile.code.version.code_id,
                facts,
                compiler: compiler.name_and_version().to_owned(),
                time_unix_seconds: now(),
            };
            nodes.keep(&compile.certname, compiled.clone(), &bytes)?;
            Ok(compiled)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))?.map_err(|error| refusal(&error))
    }
}
