//! Reading everything in the store again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use direct_puppet_transport::protocol::{Digest, EntryKind};
use direct_puppet_transport::{Content, FetchItem};
use futures::{StreamExt as _, TryStreamExt as _};

use super::history::Written;
use super::{Shared, VersionRecord, names};
use crate::error::ServerError;
use crate::history::{Problem, Verified};

impl Shared {
    /// Reads what is live in the store, and every version that was not collected, and adds what is damaged or missing to `verified`; each
    /// such content is wanted from the servers that have it.
    pub(crate) async fn verify(self: &Arc<Self>, verified: &mut Verified) -> Result<(), ServerError> {
        // Each content once: whether it is good.
        let mut known: HashMap<Digest, bool> = HashMap::new();
        for (name, pointer) in self.store.pointers.list(names::ENVIRONMENTS).await? {
            let live = self.decode_version(&name, &pointer.value)?;
            let mut records: Vec<VersionRecord> = vec![live.clone()];
            for (name, pointer) in self.store.pointers.list(&names::versions(&live.version.environment)).await? {
                records.push(self.decode_version(&name, &pointer.value)?);
            }
            let mut seen = HashSet::new();
            records.retain(|record| seen.insert(record.version.code_id));
            for record in records {
                let is_live = record.version.code_id == live.version.code_id;
                self.verify_version(&record, is_live, &mut known, verified).await?;
            }
        }
        Ok(())
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
