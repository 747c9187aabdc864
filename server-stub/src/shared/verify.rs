//! Reading everything in the store again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use direct_puppet_transport::protocol::{Digest, EntryKind, Environment};
use direct_puppet_transport::{Content, FetchItem};
use futures::{StreamExt as _, TryStreamExt as _};

use super::history::Written;
use super::{Shared, VersionRecord, names};
use crate::error::{ServerError, chain};
use crate::history::{Problem, Verified};
use crate::store::Pointer;

impl Shared {
    /// Reads what is live in the store, and every version that was not collected, and adds what is damaged or missing to `verified`; each
    /// such content is wanted from the servers that have it.
    pub(crate) async fn verify(self: &Arc<Self>, verified: &mut Verified) -> Result<(), ServerError> {
        // Each content once: whether it is good.
        let mut known: HashMap<Digest, bool> = HashMap::new();
        for (name, pointer) in self.store.pointers.list(names::ENVIRONMENTS).await? {
            let mut records: Vec<VersionRecord> = Vec::new();
            let live = self.verify_record(&name, &pointer, verified);
            let environment = names::segment(&name, names::ENVIRONMENTS).and_then(|name| name.parse::<Environment>().ok());
            let Some(environment) = environment else { continue };
            for (name, pointer) in self.store.pointers.list(&names::versions(&environment)).await? {
                records.extend(self.verify_record(&name, &pointer, verified));
            }
            if let Some(live) = &live {
                let is_other = |record: &VersionRecord| {
                    record.version.version == live.version.version && record.version.code_id != live.version.code_id
                };
                if records.iter().any(is_other) {
                    verified.damaged.push(format!("{name}: version {} is told of with another code", live.version.version));
                }
                records.insert(0, live.clone());
            }
            let mut seen = HashSet::new();
            records.retain(|record| seen.insert(record.version.code_id));
            for record in records {
                let is_live = live.as_ref().is_some_and(|live| record.version.code_id == live.version.code_id);
                self.verify_version(&record, is_live, &mut known, verified).await?;
            }
        }
        Ok(())
    }

    /// Decodes a record, or notes that it is damaged.
    fn verify_record(self: &Arc<Self>, name: &str, pointer: &Pointer, verified: &mut Verified) -> Option<VersionRecord> {
        let decoded = self.decode_or_mend(name, pointer);
        decoded.inspect_err(|error| verified.damaged.push(format!("{}: a server that has it writes it again", chain(error)))).ok()
    }

    async fn verify_version(
        self: &Arc<Self>,
        record: &VersionRecord,
        is_live: bool,
        known: &mut HashMap<Digest, bool>,
        verified: &mut Verified,
    ) -> Result<(), ServerError> {
        let endpoint = self.store.pointers.endpoint();
        let problem = |path: Option<String>, reason: String| Problem {
            environment: record.version.environment.clone(),
            code_id: record.version.code_id,
            path,
            reason,
        };
        if !is_live {
            let found = self.store.blobs.get(vec![record.manifest]).try_next().await;
            if let Some(FetchItem::Missing(_)) = found.map_err(|error| self.unusable(error.to_string()))? {
                // It was collected.
                return Ok(());
            }
        }
        let Some(Written { manifest, .. }) = self.read_manifest(record).await? else {
            verified.problems.push(problem(None, format!("its manifest is missing in {endpoint}, or was damaged")));
            return Ok(());
        };
        let mut paths: HashMap<Digest, String> = HashMap::new();
        for entry in manifest.entries() {
            if let EntryKind::File { digest, .. } = entry.kind {
                paths.entry(digest).or_insert_with(|| entry.path.to_string());
            }
        }
        verified.versions += 1;
        let unread: Vec<Digest> = paths.keys().copied().filter(|digest| !known.contains_key(digest)).collect();
        verified.contents += unread.len() as u64;
        let mut items = self.proved(unread);
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.unusable(error.to_string()))?;
            let (digest, is_good) = match item {
                FetchItem::Missing(digest) => (digest, false),
                FetchItem::Pack(..) => continue,
                FetchItem::Content(Content { digest, body, .. }) => {
                    (digest, body.try_for_each(|_| std::future::ready(Ok(()))).await.is_ok())
                }
            };
            known.insert(digest, is_good);
        }
        let bad = paths.iter().filter(|(digest, _)| known.get(digest) == Some(&false));
        verified.problems.extend(bad.map(|(digest, path)| {
            problem(Some(path.clone()), format!("content {digest} is missing in {endpoint}, or was damaged"))
        }));
        Ok(())
    }
}
