//! Collecting what nothing in the store refers to any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use direct_puppet_transport::protocol::{Catalog, CodeId, Digest, EntryKind, Environment};

use super::catalogs::CatalogRecord;
use super::{Shared, VersionRecord, names};
use crate::code::Version;
use crate::error::ServerError;
use crate::history::{InStore, fresh};
use crate::nodes::NodeSummary;
use crate::server::now;

/// What may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Versions stay that were replaced at this time or later; `None` for no such time.
    pub(crate) horizon: Option<u64>,
    /// Contents stay for so long after they were last put or looked for: a publish that is under way puts them before it names them.
    pub(crate) min_age: Duration,
    pub(crate) dry_run: bool,
}

impl Shared {
    /// Removes contents of versions that are not live, that no node was last heard to have, and that were replaced before the horizon;
    /// then catalogs of such versions. What any other server puts meanwhile stays.
    pub(crate) async fn collect(self: &Arc<Self>, rules: Rules) -> Result<InStore, ServerError> {
        let Rules { horizon, min_age, dry_run } = rules;
        // First what is there, then what refers to it: what comes in between is younger than anything that goes.
        let all = self.store.blobs.all().await?;
        let catalogs = self.store.pointers.list(names::CATALOGS).await?;
        let mut done = InStore::default();
        let mut reachable: HashSet<Digest> = HashSet::new();
        let held: HashSet<CodeId> = self.summaries().await?.iter().filter_map(|node: &NodeSummary| node.code_id).collect();
        // What is in neither was published since: nothing of it goes.
        let (mut kept, mut gone) = (HashSet::new(), HashSet::new());
        let environments = self.store.pointers.list(names::ENVIRONMENTS).await?;
        if environments.is_empty() && !all.is_empty() {
            let reason = "no environment is live there, and there are contents: nothing is collected before one is published";
            return Err(self.unusable(reason.to_owned()).into());
        }
        for name in self.store.pointers.names(names::VERSIONS).await? {
            let environment = name.strip_prefix(names::VERSIONS).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            let is_listed = environments.iter().any(|(live, _)| live.strip_prefix(names::ENVIRONMENTS) == Some(environment));
            // It may have been published for the first time since.
            if !is_listed && self.store.pointers.get(&format!("{}{environment}", names::ENVIRONMENTS)).await?.is_none() {
                let reason =
                    format!("{environment} has versions there and none is live: publish it before anything is collected");
                return Err(self.unusable(reason).into());
            }
        }
        for (name, pointer) in environments {
            let live = self.decode_or_mend(&name, &pointer)?;
            let environment = live.version.environment.clone();
            let mut records: Vec<VersionRecord> = Vec::new();
            for (name, pointer) in self.store.pointers.list(&names::versions(&environment)).await? {
                records.push(self.decode_or_mend(&name, &pointer)?);
            }
            if records.last().is_none_or(|last| last.version.version < live.version.version) {
                records.push(live.clone());
            }
            let history: Vec<_> = records.iter().map(|record| record.version.clone()).collect();
            let fresh = horizon.map(|horizon| fresh(&history, horizon, now())).unwrap_or_default();
            let mut codes: HashMap<CodeId, Vec<&VersionRecord>> = HashMap::new();
            for record in &records {
                codes.entry(record.version.code_id).or_default().push(record);
            }
            for (code_id, records) in codes {
                // As new as what was live, or newer: it was published since.
                let is_live = records.iter().any(|record| record.version.version >= live.version.version);
                if is_live || code_id == live.version.code_id || fresh.contains(&code_id) || held.contains(&code_id) {
                    done.kept += 1;
                    kept.insert((environment.clone(), code_id));
                    reachable.extend(records.iter().map(|record| record.manifest));
                    reachable.extend(records.iter().filter_map(|record| Some(record.delta?.content)));
                    self.reach(records[0], &mut reachable).await?;
                    continue;
                }
                gone.insert((environment.clone(), code_id));
                if records.iter().any(|record| all.contains(&record.manifest)) {
                    done.collected.push((environment.clone(), code_id));
                }
            }
        }
        self.retain_what_is_not_live(&mut gone).await?;
        let mut old = Vec::new();
        for (name, pointer) in catalogs {
            let Some(record) = self.catalog_record(&name, &pointer)? else {
                if !dry_run {
                    self.store.pointers.swap(&name, Some(pointer.generation), None).await?;
                }
                continue;
            };
            let code: (Environment, CodeId) = (record.compiled.environment.clone(), record.compiled.code_id);
            if kept.contains(&code) || !gone.contains(&code) {
                self.reach_catalog(&record, &mut reachable).await?;
            } else {
                old.push((code, name, pointer, record));
            }
        }
        // To read all that took its time: those go whose code is live neither before nor after.
        self.retain_what_is_not_live(&mut gone).await?;
        let (old, back): (Vec<_>, Vec<_>) = old.into_iter().partition(|(code, ..)| gone.contains(code));
        for (.., record) in &back {
            self.reach_catalog(record, &mut reachable).await?;
        }
        if !dry_run {
            for (_, name, pointer, _) in &old {
                self.store.pointers.swap(name, Some(pointer.generation), None).await?;
            }
            self.retain_what_is_not_live(&mut gone).await?;
            for (_, name, pointer, record) in old.iter().filter(|(code, ..)| !gone.contains(code)) {
                self.store.pointers.swap(name, None, Some(pointer.value.clone())).await?;
                self.reach_catalog(record, &mut reachable).await?;
            }
        }
        done.collected.retain(|code| gone.contains(code));
        if !dry_run {
            for name in self.store.pointers.names(names::WANTED).await? {
                let digest = names::segment(&name, names::WANTED).and_then(|digest| digest.parse::<Digest>().ok());
                if digest.is_none_or(|digest| !reachable.contains(&digest)) {
                    self.unset(&name).await?;
                }
            }
            let gone: Vec<Digest> = all.difference(&reachable).copied().collect();
            done.contents = self.store.blobs.remove(&gone, min_age).await?;
        }
        Ok(done)
    }

    /// Takes out what is live by now: somebody went back to it.
    async fn retain_what_is_not_live(self: &Arc<Self>, gone: &mut HashSet<(Environment, CodeId)>) -> Result<(), ServerError> {
        for (name, pointer) in self.store.pointers.list(names::ENVIRONMENTS).await? {
            let live = self.decode_or_mend(&name, &pointer)?;
            gone.remove(&(live.version.environment, live.version.code_id));
        }
        Ok(())
    }

    /// Adds a catalog and its contents.
    async fn reach_catalog(self: &Arc<Self>, record: &CatalogRecord, reachable: &mut HashSet<Digest>) -> Result<(), ServerError> {
        reachable.insert(record.content);
        if let Some(bytes) = self.read(record.content, MAX_CATALOG_BYTES).await?
            && let Ok(catalog) = Catalog::decode(&bytes, record.compiled.catalog_id)
        {
            reachable.extend(catalog.contents().map(|(digest, _)| digest));
        }
        Ok(())
    }

    /// Adds the contents of a version.
    async fn reach(self: &Arc<Self>, record: &VersionRecord, reachable: &mut HashSet<Digest>) -> Result<(), ServerError> {
        let Version { environment, code_id, .. } = &record.version;
        let written = self.read_manifest(record).await?.ok_or_else(|| {
            self.unusable(format!(
                "the manifest of {environment} {code_id} is gone: publish it again before anything is collected"
            ))
        })?;
        reachable.extend(written.parts);
        reachable.extend(written.manifest.entries().filter_map(|entry| match entry.kind {
            EntryKind::File { digest, .. } => Some(digest),
            _ => None,
        }));
        Ok(())
    }
}
