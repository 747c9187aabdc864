//! Who follows this server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::{Certname, Deployed, Environment, SyncConfirm};
use serde::{Deserialize, Serialize};

use crate::server::now;

/// One replica, as it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// When it last asked what is live, in seconds since 1970 UTC.
    pub last_check_in_time: u64,
    /// What it had then.
    pub deployed: BTreeMap<Environment, Deployed>,
    /// How often it has asked since this server started.
    pub confirmations: u64,
}

/// All replicas that were heard of since this server started.
#[derive(Debug, Default)]
pub(crate) struct Followers(Mutex<BTreeMap<Certname, Follower>>);

impl Followers {
    pub(crate) fn heard(&self, request: &SyncConfirm) {
        let mut followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let confirmations = followers.get(&request.replica).map_or(0, |follower| follower.confirmations) + 1;
        let follower = Follower { last_check_in_time: now(), deployed: request.deployed.clone(), confirmations };
        followers.insert(request.replica.clone(), follower);
    }

    pub(crate) fn all(&self) -> BTreeMap<Certname, Follower> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
