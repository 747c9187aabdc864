//! Every path of the authority, what may be done there, and who may do it.
//!
//! There is no other list: a path is answered only where it stands here, and here it has a rule.

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Certname;
use hyper::Method;

use crate::answer::is_administrator;
use crate::ca::request::MAX_REQUEST_BYTES;
use crate::listen::ClientCertificate;
use crate::route_table::{Route, route};

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Certificate,
    GetList,
    PutLists,
    GetRequest,
    PutRequest,
    DeleteRequest,
    GetStatus,
    PutStatus,
    DeleteStatus,
    Statuses,
    Renewal,
    Expirations,
    Sign,
    SignAll,
    Clean,
}

/// Who may use a path. These are the rules of Puppet's own `auth.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Whoever reaches the server: nodes have no certificate yet.
    Anybody,
    /// Whoever has shown a certificate.
    Node,
    /// Whose certificate has `pp_cli_auth`, and administrators of the server.
    Administrator,
}

/// Longest body where none is expected, or a small one.
const SMALL_BODY: u64 = 64 * 1024;

/// Longest list of names, or of revocation lists.
const LARGE_BODY: u64 = 8 << 20;

/// The table.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route<Endpoint, Rule>] = &[
    route("/puppet-ca/v1/certificate/", Method::GET, Endpoint::Certificate, Rule::Anybody, SMALL_BODY),
    route("/puppet-ca/v1/certificate_revocation_list/", Method::GET, Endpoint::GetList, Rule::Anybody, SMALL_BODY),
    route("/puppet-ca/v1/certificate_revocation_list", Method::PUT, Endpoint::PutLists, Rule::Administrator, LARGE_BODY),
    route("/puppet-ca/v1/certificate_request/", Method::GET, Endpoint::GetRequest, Rule::Anybody, SMALL_BODY),
    route("/puppet-ca/v1/certificate_request/", Method::PUT, Endpoint::PutRequest, Rule::Anybody, MAX_REQUEST_BYTES),
    route("/puppet-ca/v1/certificate_request/", Method::DELETE, Endpoint::DeleteRequest, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/certificate_status/", Method::GET, Endpoint::GetStatus, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/certificate_status/", Method::PUT, Endpoint::PutStatus, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/certificate_status/", Method::DELETE, Endpoint::DeleteStatus, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/certificate_statuses/", Method::GET, Endpoint::Statuses, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/certificate_renewal", Method::POST, Endpoint::Renewal, Rule::Node, SMALL_BODY),
    route("/puppet-ca/v1/expirations", Method::GET, Endpoint::Expirations, Rule::Node, SMALL_BODY),
    route("/puppet-ca/v1/sign", Method::POST, Endpoint::Sign, Rule::Administrator, LARGE_BODY),
    route("/puppet-ca/v1/sign/all", Method::POST, Endpoint::SignAll, Rule::Administrator, SMALL_BODY),
    route("/puppet-ca/v1/clean", Method::PUT, Endpoint::Clean, Rule::Administrator, LARGE_BODY),
];

impl Rule {
    /// Whether `peer`, which has shown `certificate`, is let in; `admins` are certificates of administrators of the server.
    pub(super) fn lets_in(self, peer: &Peer, certificate: Option<&ClientCertificate>, admins: &[Certname]) -> bool {
        match self {
            Self::Anybody => true,
            Self::Node => matches!(peer, Peer::Certificate { .. }) || is_administrator(peer, admins),
            Self::Administrator => {
                let has_extension =
                    matches!(peer, Peer::Certificate { .. }) && certificate.is_some_and(ClientCertificate::may_administrate);
                has_extension || is_administrator(peer, admins)
            }
        }
    }
}

/// Returns the lines of the table.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn lines() -> impl Iterator<Item = crate::every_route::RouteLine> {
    use crate::every_route::Audience;
    crate::route_table::lines(ROUTES, |rule| match rule {
        Rule::Anybody => Audience::Anybody,
        Rule::Node => Audience::Node,
        Rule::Administrator => Audience::Authority,
    })
}
