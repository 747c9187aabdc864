//! Contents that are damaged or missing in the store are put again by whichever server has them whole.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use super::{Shared, names};
use crate::blocking;
use crate::code::parts;
use crate::error::{ServerError, chain};
use crate::server::now;
use crate::store::{SMALL_BYTES, StoreError};

/// Most contents that this server wants at once; the others are found again when they are next read.
const MAX_WANTED: usize = 1000;

/// How often what the others want is looked for here.
const HEAL_EVERY: Duration = Duration::from_secs(2);

impl Shared {
    /// Reads contents and passes them on as far as they are what they are called; the others are wanted from the other servers.
    pub(super) fn proved(self: &Arc<Self>, digests: Vec<Digest>) -> FetchItems {
        let items = self.passed_on(self.store.blobs.get(digests.clone()));
        let (this, is_bad) = (Arc::clone(self), AtomicBool::new(false));
        items
            .inspect(move |item| {
                // Whoever reads gives up at the first: all that is wrong is to be found at once.
                if matches!(item, Ok(FetchItem::Missing(_))) && !is_bad.swap(true, Ordering::Relaxed) {
                    tokio::spawn(Arc::clone(&this).inspect(digests.clone()));
                }
            })
            .boxed()
    }

    /// Reads contents for nobody, so that what is wrong with them is found.
    async fn inspect(self: Arc<Self>, digests: Vec<Digest>) {
        let mut items = self.passed_on(self.store.blobs.get(digests));
        while let Some(item) = items.next().await {
            if let Ok(FetchItem::Content(content)) = item
                && let Err(error) = content.body.try_for_each(|_| std::future::ready(Ok(()))).await
            {
                tracing::debug!(%error, "a content could not be read to its end");
            }
        }
    }

    fn passed_on(self: &Arc<Self>, items: FetchItems) -> FetchItems {
        let this = Arc::clone(self);
        let prove = move |item: io::Result<FetchItem>| {
            let this = Arc::clone(&this);
            async move {
                match item? {
                    FetchItem::Missing(digest) => {
                        this.want(digest, false);
                        Ok(FetchItem::Missing(digest))
                    }
                    // A store keeps contents as they are.
                    FetchItem::Pack(..) => Err(io::Error::other("the store answers with a pack")),
                    FetchItem::Content(content) if content.size <= SMALL_BYTES => this.prove_small(content).await,
                    FetchItem::Content(content) => {
                        let body = this.prove_large(content.digest, content.body);
                        Ok(FetchItem::Content(Content { body, ..content }))
                    }
                }
            }
        };
        items.then(prove).boxed()
    }

    async fn prove_small(self: &Arc<Self>, content: Content) -> io::Result<FetchItem> {
        let Content { digest, size, offset, mut body } = content;
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.try_next().await? {
            whole.extend_from_slice(&chunk);
            if whole.len() as u64 > size {
                break;
            }
        }
        if !digest.verifies(&whole) {
            self.want(digest, true);
            return Ok(FetchItem::Missing(digest));
        }
        let body = futures::stream::iter([Ok(whole.freeze())]).boxed();
        Ok(FetchItem::Content(Content { digest, size, offset, body }))
    }

    fn prove_large(
        self: &Arc<Self>,
        digest: Digest,
        body: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let state = Some((body, digest.verifier(), Arc::clone(self)));
        futures::stream::try_unfold(state, move |state| async move {
            let Some((mut body, mut hasher, this)) = state else { return Ok(None) };
            match body.try_next().await {
                Ok(Some(chunk)) => {
                    hasher.update(&chunk);
                    Ok(Some((chunk, Some((body, hasher, this)))))
                }
                Ok(None) if hasher.finish() == digest => Ok(None),
                Ok(None) => {
                    this.want(digest, true);
                    Err(io::Error::other(format!("content {digest} is damaged in the store")))
                }
                Err(error) => Err(error),
            }
        })
        .boxed()
    }

    /// Has another server put a content again; what is damaged is removed first.
    pub(super) fn want(self: &Arc<Self>, digest: Digest, is_damaged: bool) {
        let is_new = {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.len() < MAX_WANTED && wanted.insert(digest)
        };
        if !is_new {
            return;
        }
        let what = if is_damaged { "damaged" } else { "missing" };
        tracing::error!(%digest, what, endpoint = self.store.pointers.endpoint(), "a content in the store: another server is to put it again");
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = this.ask_for(digest, is_damaged).await {
                tracing::warn!("{}", chain(&error));
            }
            this.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        });
    }

    async fn ask_for(&self, digest: Digest, is_damaged: bool) -> Result<(), StoreError> {
        if is_damaged {
            // It may have been damaged on its way here, and nobody else may have it: nothing is removed that is whole in the store.
            if self.is_whole(digest).await? {
                return Ok(());
            }
            self.store.blobs.remove(&[digest], Duration::ZERO).await?;
        }
        self.store.pointers.swap(&names::wanted(&digest), None, Some(self.encode(&now())?)).await.map(drop)
    }

    /// Reads a content again.
    async fn is_whole(&self, digest: Digest) -> Result<bool, StoreError> {
        let fail = |error| self.unread(error);
        let mut items = self.store.blobs.get(vec![digest]);
        let Some(FetchItem::Content(mut content)) = items.try_next().await.map_err(fail)? else { return Ok(false) };
        let mut hasher = digest.verifier();
        while let Some(chunk) = content.body.try_next().await.map_err(fail)? {
            hasher.update(&chunk);
        }
        Ok(hasher.finish() == digest)
    }

    /// In the background: puts what others want and this server has.
    pub(super) fn heal(self: &Arc<Self>, wanted: HashSet<Digest>) {
        if wanted.is_empty() {
            return;
        }
        {
            let mut healed = self.healed.lock().unwrap_or_else(PoisonError::into_inner);
            if healed.is_some_and(|healed| healed.elapsed() < HEAL_EVERY) {
                return;
            }
            *healed = Some(Instant::now());
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = this.put_again(wanted).await {
                tracing::warn!("contents that others want could not be put again: {}", chain(&error));
            }
        });
    }

    async fn put_again(&self, wanted: HashSet<Digest>) -> Result<(), ServerError> {
        let (local, environments) = (self.local.clone(), Arc::clone(&self.environments));
        let find = move || -> Result<(HashMap<Digest, u64>, Vec<Bytes>), ServerError> {
            let (mut found, mut is_left) = (HashMap::new(), false);
            for digest in &wanted {
                match local.has_verified(digest)?.then(|| local.content(digest)).transpose()?.flatten() {
                    Some(content) => drop(found.insert(*digest, content.size())),
                    None => is_left = true,
                }
            }
            // What names the parts of a manifest is in no store here.
            let live = if is_left { environments.all_live() } else { Vec::new() };
            let manifests = live.iter().map(|code| Ok(Bytes::from(parts::encode(&code.manifest, &mut |_, _| Ok(()))?)));
            let manifests: Vec<Bytes> = manifests.collect::<Result<_, ServerError>>()?;
            Ok((found, manifests.into_iter().filter(|manifest| wanted.contains(&Digest::of(manifest))).collect()))
        };
        let (found, manifests) = blocking::run(find).await??;
        self.upload(found.clone()).await?;
        let mut put: Vec<Digest> = found.into_keys().collect();
        for manifest in manifests {
            put.push(self.put_bytes(manifest).await?);
        }
        for digest in put {
            self.unset(&names::wanted(&digest)).await?;
            tracing::info!(%digest, "a content was put into the store again");
        }
        Ok(())
    }
}
