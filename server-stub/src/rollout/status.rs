//! Which nodes have which code.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Certname, CodeId, Environment, NodesByCode, Rollout};
use serde::{Deserialize, Serialize};

use crate::code::Version;
use crate::error::ServerError;
use crate::replica::ToldNodes;
use crate::server::{Server, now};

/// Which nodes have which code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The rules.
    pub rollout: Rollout,
    /// Nodes that wait for their turn at this server.
    pub waiting: u64,
    /// The environments that nodes of this server are in.
    pub environments: Vec<EnvironmentRollout>,
    /// The same of the replicas of this server, as far as they have said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replicas: BTreeMap<Certname, ReplicaRollout>,
}

/// Which nodes of a replica have which code: how many, by environment and code. Their names it tells itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRollout {
    /// How long ago it said so, in seconds.
    pub seconds_ago: u64,
    /// How many nodes have which code.
    pub nodes: NodesByCode,
}

/// Which nodes of an environment have which code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRollout {
    /// The environment.
    pub environment: Environment,
    /// What is live.
    pub live: Option<Version>,
    /// Nodes by the code that they said they have; the empty text stands for none.
    pub nodes: BTreeMap<String, Vec<Certname>>,
}

impl Server {
    /// Says which nodes have which code. Blocking.
    ///
    /// # Errors
    ///
    /// When the store that servers share cannot be asked.
    pub fn rollout(&self) -> Result<RolloutStatus, ServerError> {
        let mut environments: BTreeMap<Environment, EnvironmentRollout> = BTreeMap::new();
        for node in self.nodes()? {
            let Some(environment) = node.environment else { continue };
            let live = self.environments.live(&environment).map(|code| code.version.clone());
            let of_it = environments.entry(environment.clone()).or_insert_with(|| EnvironmentRollout {
                environment,
                live,
                nodes: BTreeMap::new(),
            });
            let code = node.code_id.as_ref().map(CodeId::to_string).unwrap_or_default();
            of_it.nodes.entry(code).or_default().push(node.certname);
        }
        Ok(RolloutStatus {
            rollout: self.gate.rollout(),
            waiting: *self.gate.waiting.borrow(),
            environments: environments.into_values().collect(),
            replicas: self.followers.nodes(&self.options.replicas).into_iter().map(replica).collect(),
        })
    }
}

/// Returns what a replica has said of its nodes.
fn replica((name, told): (Certname, ToldNodes)) -> (Certname, ReplicaRollout) {
    let ToldNodes { time, mut by_code } = told;
    by_code.values_mut().for_each(|codes| codes.retain(|_, nodes| *nodes > 0));
    by_code.retain(|_, codes| !codes.is_empty());
    (name, ReplicaRollout { seconds_ago: now().saturating_sub(time), nodes: by_code })
}
