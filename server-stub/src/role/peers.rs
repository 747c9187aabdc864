//! The other servers that may be primary in this one's place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use direct_puppet_transport::protocol::{Certname, Deployed, ProtocolVersion, PublishedVersion, SyncEpoch, SyncEpochReply};
use direct_puppet_transport::{Client, Transport};
use tokio::time::Instant;

use super::{Role, Trust};
use crate::blocking;
use crate::code::{Environments, Version};
use crate::error::{ServerError, chain};
use crate::replica::Share;
use crate::server::Server;
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// How long a peer may take to say which epoch it knows.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a lock is looked at that cannot be waited for without end.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long peers that did not answer are left alone.
const PACE: Duration = Duration::from_secs(1);

/// Other servers, and the name under which they know this one.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The name of this server: that of its certificate.
    pub name: Certname,
    /// The ways to them.
    pub transports: Vec<Arc<dyn Transport>>,
}

/// What a primary knows of its peers.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Whether all of them have said, since this server started or was promoted, that none has taken over.
    is_cleared: AtomicBool,
    /// Held while they are asked, with what came of it last.
    asking: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Watch {
    pub(super) fn clear(&self) {
        self.is_cleared.store(true, Ordering::SeqCst);
    }
}

/// What hears of epochs.
#[derive(Debug, Clone)]
pub(crate) struct Hearing {
    pub(crate) role: Arc<Role>,
    /// Held while something is published.
    pub(crate) publishing: Arc<Mutex<()>>,
    pub(crate) environments: Arc<Environments>,
}

impl Hearing {
    /// Hears of an epoch: a primary with a lower one ends the publish that is under way, and is none any more. Durable before it
    /// returns whether it was news.
    pub(crate) async fn hear(&self, epoch: u64, trust: Trust) -> Result<bool, ServerError> {
        #[cfg(test)]
        if is_planted(Bug::EpochIgnored) {
            return Ok(true);
        }
        if epoch <= self.role.epoch() {
            return Ok(false);
        }
        let this = self.clone();
        let hear = move || {
            // Who publishes nothing is never too busy for it.
            if let Some(news) = this.role.hear_as_follower(epoch, trust)? {
                return Ok(news);
            }
            // Who asks waits no longer than PATIENCE: what happened after that would leave no primary at all.
            let Some(_turn) = lock_within(&this.publishing, PATIENCE / 2) else { return Err(ServerError::Working) };
            let (was_primary, news) = (this.role.is_primary(), this.role.hear(epoch, trust)?);
            if was_primary && !this.role.is_primary() {
                // Whoever waits here for news asks elsewhere from now on.
                this.environments.touch();
            }
            Ok(news)
        };
        blocking::run(hear).await?
    }
}

/// Takes a lock if that is possible within a time. Blocking.
fn lock_within(lock: &Mutex<()>, time: Duration) -> Option<MutexGuard<'_, ()>> {
    let begun = std::time::Instant::now();
    loop {
        match lock.try_lock() {
            Ok(turn) => return Some(turn),
            Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > time => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

impl Server {
    /// On a primary: returns when each peer has said, since it started, that none has taken over; asks them if need be.
    pub(crate) async fn cleared(&self) -> Result<(), ServerError> {
        let Some(peers) = self.peers.as_ref().filter(|_| self.shared.is_none()) else { return Ok(()) };
        #[cfg(test)]
        if is_planted(Bug::EpochIgnored) {
            return Ok(());
        }
        if self.watch.is_cleared.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut last = self.watch.asking.lock().await;
        if self.watch.is_cleared.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some((at, reason)) = &*last
            && at.elapsed() < PACE
        {
            return Err(ServerError::Unconfirmed { reason: reason.clone() });
        }
        // Boxed, so that those who then wait for minutes do not hold room for it.
        match Box::pin(self.tell_peers(peers)).await {
            Ok(()) => {
                self.watch.clear();
                Ok(())
            }
            Err(error) => {
                let cause = match error {
                    ServerError::Unconfirmed { reason } => reason,
                    other => chain(&other),
                };
                let reason = format!("this server cannot tell whether another has taken over while it was away: {cause}");
                *last = Some((Instant::now(), reason.clone()));
                Err(ServerError::Unconfirmed { reason })
            }
        }
    }

    /// Tells each peer which epoch is known here, and hears which is known there.
    pub(crate) async fn tell_peers(&self, peers: &Peers) -> Result<(), ServerError> {
        let (mut result, mut told, mut is_heard) = (Ok(()), Vec::new(), true);
        for transport in &peers.transports {
            match self.ask(transport, &peers.name, self.role.epoch()).await {
                // One list of all servers may be given to each of them.
                Ok(reply) if reply.instance == self.instance => {}
                Ok(reply) if reply.is_primary && reply.epoch == self.role.epoch() && self.role.is_primary() => {
                    let reason = format!(
                        "{} is a primary too: have one follow the other, or promote the one that is right",
                        transport.endpoint()
                    );
                    result = Err(ServerError::Unconfirmed { reason });
                }
                Ok(reply) => {
                    if let Err(error) = self.hear(reply.epoch).await {
                        let reason = format!("{}: {}", transport.endpoint(), chain(&error));
                        (result, is_heard) = (Err(ServerError::Unconfirmed { reason }), false);
                    }
                    told.push((transport, reply.live));
                }
                Err(reason) => result = Err(ServerError::Unconfirmed { reason }),
            }
        }
        // When all that answered were heard: what was lost is taken over in no epoch that has ended.
        for (transport, live) in told {
            if is_heard {
                self.bring_lost(transport, &live).await;
            }
            let mut told = live.iter();
            let is_mine = told.try_for_each(|PublishedVersion { environment, version, code_id, .. }| {
                self.refuse_later(transport.endpoint(), environment, Deployed { version: *version, code_id: *code_id })
            });
            if is_mine.is_err() {
                result = is_mine;
            }
        }
        result
    }

    /// Brings the code of environments that were damaged here, where a peer has the very version.
    async fn bring_lost(&self, transport: &Arc<dyn Transport>, live: &[PublishedVersion]) {
        let Some(upstream) = &self.upstream else { return };
        for published in live {
            let is_it = |lost: &&Version| lost.version == published.version && lost.code_id == published.code_id;
            if self.environments.lost(&published.environment).filter(is_it).is_none() {
                continue;
            }
            let environment = &published.environment;
            match upstream.take(transport, published.clone()).await {
                Ok(()) => {
                    tracing::warn!(%environment, from = transport.endpoint(), "what was damaged is served again");
                    // It came with the counter of the epoch in which it was published.
                    self.end_promotion_as_is_due().await;
                }
                Err(reason) => tracing::warn!(%environment, reason, "what is damaged was not brought"),
            }
        }
    }

    /// Hears of an epoch: a primary with a lower one ends the publish that is under way, and is none any more.
    /// Returns whether it was news.
    pub(crate) async fn hear(&self, epoch: u64) -> Result<bool, ServerError> {
        self.hearing().hear(epoch, Trust::Near).await
    }

    pub(crate) fn hearing(&self) -> Hearing {
        let (role, publishing) = (Arc::clone(&self.role), Arc::clone(&self.publishing));
        Hearing { role, publishing, environments: Arc::clone(&self.environments) }
    }

    /// Answers a peer that has told which epoch it knows, and may have that share of the code.
    pub(crate) fn answer_epoch(&self, is_raised: bool, share: &Share) -> SyncEpochReply {
        let (epoch, is_primary) = (self.role.epoch(), self.role.is_primary());
        let mut live: Vec<PublishedVersion> = self.environments.all_live().iter().map(|code| code.version.published()).collect();
        live.retain(|published| share.has(&published.environment));
        let mut answered = self.environments.answers.beyond(&BTreeMap::new());
        answered.retain(|environment, _| share.has(environment));
        let rollout = Some(self.gate.rollout());
        SyncEpochReply { epoch, is_raised, is_primary, live, answered, instance: self.instance, rollout }
    }

    /// Tells one peer.
    pub(super) async fn ask(
        &self,
        transport: &Arc<dyn Transport>,
        name: &Certname,
        epoch: u64,
    ) -> Result<SyncEpochReply, String> {
        let client = Client::new(Arc::clone(transport));
        let request = SyncEpoch { protocol: ProtocolVersion::CURRENT, replica: name.clone(), epoch, instance: self.instance };
        match tokio::time::timeout(PATIENCE, client.sync_epoch(&request)).await {
            Ok(reply) => reply.map_err(|error| chain(&error)),
            Err(_) => Err(format!("{} did not answer within {} s", transport.endpoint(), PATIENCE.as_secs())),
        }
    }
}
