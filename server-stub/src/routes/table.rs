//! Every path for administrators, what may be done there, and who may do it.
//!
//! There is no other list: a path is answered only where it stands here, and here it has a rule.

use hyper::Method;

use crate::route_table;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Running,
    Versions,
    Nodes,
    StorageStatus,
    ClientStatus,
    Publish,
    Commit,
    LatestCommits,
    Rollback,
    ForceSync,
    Promote,
    Rollout,
    Recompile,
}

/// Who may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Whoever reaches the server.
    Anybody,
    /// Administrators of the server.
    Administrator,
}

/// One line of the table.
type Route = route_table::Route<Endpoint, Rule>;

/// Longest request: a message and a list of environments.
pub(super) const MAX_BODY_BYTES: u64 = 1 << 20;

const fn route(path: &'static str, method: Method, endpoint: Endpoint, rule: Rule) -> Route {
    route_table::route(path, method, endpoint, rule, MAX_BODY_BYTES)
}

/// The table. The two statuses of file sync have the paths that Puppet Enterprise has for them.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    route("/status/v1/simple", Method::GET, Endpoint::Running, Rule::Anybody),
    route("/status/v1/services/file-sync-storage-service", Method::GET, Endpoint::StorageStatus, Rule::Administrator),
    route("/status/v1/services/file-sync-client-service", Method::GET, Endpoint::ClientStatus, Rule::Administrator),
    route("/file-sync/v1/versions", Method::GET, Endpoint::Versions, Rule::Administrator),
    route("/admin/v1/nodes", Method::GET, Endpoint::Nodes, Rule::Administrator),
    route("/file-sync/v1/publish", Method::POST, Endpoint::Publish, Rule::Administrator),
    route("/file-sync/v1/commit", Method::POST, Endpoint::Commit, Rule::Administrator),
    route("/file-sync/v1/latest-commits", Method::POST, Endpoint::LatestCommits, Rule::Administrator),
    route("/file-sync/v1/rollback", Method::POST, Endpoint::Rollback, Rule::Administrator),
    route("/file-sync/v1/force-sync", Method::POST, Endpoint::ForceSync, Rule::Administrator),
    route("/file-sync/v1/promote", Method::POST, Endpoint::Promote, Rule::Administrator),
    route("/file-sync/v1/rollout", Method::POST, Endpoint::Rollout, Rule::Administrator),
    route("/admin/v1/recompile", Method::POST, Endpoint::Recompile, Rule::Administrator),
];

/// Returns the lines of the table.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn lines() -> impl Iterator<Item = crate::every_route::RouteLine> {
    use crate::every_route::Audience;
    route_table::lines(ROUTES, |rule| match rule {
        Rule::Anybody => Audience::Anybody,
        Rule::Administrator => Audience::Administrator,
    })
}
