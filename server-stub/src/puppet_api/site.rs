//! What agents ask about a node and the server as a whole.

use std::collections::BTreeMap;

use direct_puppet_transport::Peer;
use hyper::Response;
use serde_json::json;

use super::answer::{self, Failure, JSON};
use super::{Api, Asked};
use crate::listen::RouteBody;

impl Api {
    /// A node. Agents take its environment, which is the one that they ask for: a catalog tells them of another one.
    pub(super) async fn node(&self, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        asked.accepted(&[JSON])?;
        let (name, environment) = (asked.node()?, asked.parameters.environment()?);
        let (_, age) = self.live(asked, &environment).await?;
        Ok(age.told(answer::json(&json!({ "name": name, "environment": environment, "parameters": {} }))))
    }

    /// What is live.
    pub(super) async fn environments(&self, peer: &Peer, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        asked.accepted(&[JSON])?;
        // Nothing unconfirmed: agents do not ask this.
        self.server.confirm().await?;
        let orphans = self.server.orphans();
        let all = self.server.live_versions();
        let live = all.iter().map(|version| &version.environment).filter(|environment| !orphans.contains(environment));
        // To be asked what is live is no attempt at what one may not have.
        let share = self.server.share_of(peer);
        let live = live.filter(|environment| share.has(environment));
        let described = |environment: &direct_puppet_transport::protocol::Environment| {
            let settings = json!({
                "modulepath": [format!("/environments/{environment}/modules")],
                "manifest": format!("/environments/{environment}/manifests"),
                "environment_timeout": "unlimited",
                "config_version": "",
            });
            (environment.to_string(), json!({ "settings": settings }))
        };
        let environments: BTreeMap<String, serde_json::Value> = live.map(described).collect();
        Ok(answer::json(&json!({ "search_paths": ["file:///environments"], "environments": environments })))
    }

    /// How the services of this server are, of which clients look for `server` or, if they are old, `master`.
    pub(super) fn services() -> Response<RouteBody> {
        let status = json!({
            "service_version": env!("CARGO_PKG_VERSION"),
            "service_status_version": 1,
            "detail_level": "info",
            "state": "running",
            "status": {},
            "active_alerts": [],
        });
        answer::json(&json!({ "server": status, "master": status }))
    }
}
