//! Every path that the server answers beside the protocol's operations, for tests that try each as each kind of client.

use hyper::Method;

/// Who may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reaches the server, also without a certificate.
    Anybody,
    /// Every client with a certificate.
    Node,
    /// The node that the path names, alone.
    Own,
    /// Administrators of the server.
    Administrator,
    /// Administrators of the server, and certificates with `pp_cli_auth`.
    Authority,
}

/// A path, what may be done there, and who may do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLine {
    /// The path; with a slash at its end, an argument follows.
    pub path: &'static str,
    /// The method.
    pub method: Method,
    /// Who may.
    pub audience: Audience,
}

/// Returns a line for each path and method in the tables from which requests are answered.
#[must_use]
pub fn every_route() -> Vec<RouteLine> {
    let blobs = std::iter::once(crate::blobs::line());
    blobs.chain(crate::routes::lines()).chain(crate::puppet_api::lines()).chain(crate::ca::lines()).collect()
}
