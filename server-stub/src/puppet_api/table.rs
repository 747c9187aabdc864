//! Every path of the API, what may be done there, who may do it, and how long a body may be.
//!
//! There is no other list: a path is answered only where it stands here, and here it has a rule.

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Certname;
use direct_puppet_transport::protocol::limits::{MAX_FACTS_BYTES, MAX_REPORT_BYTES};
use hyper::Method;

use super::answer::Failure;
use crate::answer::acts_for;
use crate::route_table::{self, route};

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Node,
    Catalog,
    Facts,
    Report,
    FileMetadata,
    FileMetadatas,
    FileContent,
    StaticFileContent,
    FileBucketFile,
    Environments,
    Running,
    Services,
}

/// Who may use a path. These are the rules of Puppet's own `auth.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The node that the rest of the path names, and nobody else.
    Own,
    /// Every node: what is there concerns no single one, or only its own can be named.
    Authenticated,
    /// Whoever is let in to the listener.
    Anybody,
}

/// Longest body where none is expected.
const NO_BODY: u64 = 64 * 1024;

/// Longest catalog request: the longest facts, each byte of which may be five when URL-encoded twice, is far more than facts are; this
/// is room for facts of the longest size with one character in five encoded.
const CATALOG_BODY: u64 = 2 * MAX_FACTS_BYTES;

/// Longest file that a bucket takes, in bytes.
pub(super) const MAX_BUCKET_FILE_BYTES: u64 = 64 << 20;

/// One line of the table.
type Route = route_table::Route<Endpoint, Rule>;

/// The table.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    route("/puppet/v3/node/", Method::GET, Endpoint::Node, Rule::Own, NO_BODY),
    route("/puppet/v3/catalog/", Method::GET, Endpoint::Catalog, Rule::Own, CATALOG_BODY),
    route("/puppet/v3/catalog/", Method::POST, Endpoint::Catalog, Rule::Own, CATALOG_BODY),
    route("/puppet/v3/facts/", Method::PUT, Endpoint::Facts, Rule::Own, MAX_FACTS_BYTES),
    route("/puppet/v3/report/", Method::PUT, Endpoint::Report, Rule::Own, MAX_REPORT_BYTES),
    route("/puppet/v3/file_metadata/", Method::GET, Endpoint::FileMetadata, Rule::Authenticated, NO_BODY),
    route("/puppet/v3/file_metadatas/", Method::GET, Endpoint::FileMetadatas, Rule::Authenticated, NO_BODY),
    route("/puppet/v3/file_content/", Method::GET, Endpoint::FileContent, Rule::Authenticated, NO_BODY),
    route("/puppet/v3/static_file_content/", Method::GET, Endpoint::StaticFileContent, Rule::Authenticated, NO_BODY),
    route("/puppet/v3/file_bucket_file/", Method::GET, Endpoint::FileBucketFile, Rule::Authenticated, MAX_BUCKET_FILE_BYTES),
    route("/puppet/v3/file_bucket_file/", Method::HEAD, Endpoint::FileBucketFile, Rule::Authenticated, MAX_BUCKET_FILE_BYTES),
    route("/puppet/v3/file_bucket_file/", Method::PUT, Endpoint::FileBucketFile, Rule::Authenticated, MAX_BUCKET_FILE_BYTES),
    route("/puppet/v3/environments", Method::GET, Endpoint::Environments, Rule::Authenticated, NO_BODY),
    route("/status/v1/simple/", Method::GET, Endpoint::Running, Rule::Anybody, NO_BODY),
    route("/status/v1/services", Method::GET, Endpoint::Services, Rule::Anybody, NO_BODY),
];

/// Who asks, as far as the rule of a path needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The node that the path names; it is the one that asks, or the peer may speak for any.
    Node(Certname),
    /// A node; `None` for a peer that may speak for any and has no name.
    Somebody(Option<Certname>),
}

impl Rule {
    /// Checks that `peer` may use `path` for `argument`, which is decoded.
    pub(super) fn authorize(self, path: &str, peer: &Peer, argument: &str) -> Result<Caller, Failure> {
        let own = match peer {
            Peer::Certificate { name, .. } => Some(name.clone()),
            _ => None,
        };
        match self {
            Self::Own => {
                let name: Certname = argument.parse().map_err(|error| Failure::bad_request(format!("{error}")))?;
                match acts_for(peer, &name) {
                    Ok(()) => Ok(Caller::Node(name)),
                    Err(_) => Err(Failure::forbidden(format!("{path} of {name} is for {name} alone"))),
                }
            }
            Self::Authenticated => match (&own, peer) {
                (Some(_), _) | (None, Peer::Plain | Peer::InProcess) => Ok(Caller::Somebody(own)),
                _ => Err(Failure::forbidden(format!("{path} is for nodes: ask with a node's certificate"))),
            },
            Self::Anybody => Ok(Caller::Somebody(own)),
        }
    }
}

/// Returns the lines of the table.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn lines() -> impl Iterator<Item = crate::every_route::RouteLine> {
    use crate::every_route::Audience;
    route_table::lines(ROUTES, |rule| match rule {
        Rule::Own => Audience::Own,
        Rule::Authenticated => Audience::Node,
        Rule::Anybody => Audience::Anybody,
    })
}
