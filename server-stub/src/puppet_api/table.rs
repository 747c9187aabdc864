//! Every path of the API, what may be done there, who may do it, and how long a body may be.
//!
//! There is no other list: a path is answered only where it stands here, and here it has a rule.

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Certname;
use direct_puppet_transport::protocol::limits::{MAX_FACTS_BYTES, MAX_REPORT_BYTES};
use hyper::Method;

use super::answer::Failure;
use crate::answer::acts_for;

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

/// One line of the table.
#[derive(Debug)]
pub(super) struct Route {
    /// With a slash at its end, what follows is an argument, and there must be one.
    pub(super) path: &'static str,
    pub(super) endpoint: Endpoint,
    pub(super) methods: &'static [Method],
    pub(super) rule: Rule,
    pub(super) max_body_bytes: u64,
}

/// Longest body where none is expected.
const NO_BODY: u64 = 64 * 1024;

/// Longest catalog request: the longest facts, each byte of which may be five when URL-encoded twice, is far more than facts are; this
/// is room for facts of the longest size with one character in five encoded.
const CATALOG_BODY: u64 = 2 * MAX_FACTS_BYTES;

/// Longest file that a bucket takes, in bytes.
pub(super) const MAX_BUCKET_FILE_BYTES: u64 = 64 << 20;

/// The table.
pub(super) const ROUTES: &[Route] = &[
    Route {
        path: "/puppet/v3/node/",
        endpoint: Endpoint::Node,
        methods: &[Method::GET],
        rule: Rule::Own,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/puppet/v3/catalog/",
        endpoint: Endpoint::Catalog,
        methods: &[Method::GET, Method::POST],
        rule: Rule::Own,
        max_body_bytes: CATALOG_BODY,
    },
    Route {
        path: "/puppet/v3/facts/",
        endpoint: Endpoint::Facts,
        methods: &[Method::PUT],
        rule: Rule::Own,
        max_body_bytes: MAX_FACTS_BYTES,
    },
    Route {
        path: "/puppet/v3/report/",
        endpoint: Endpoint::Report,
        methods: &[Method::PUT],
        rule: Rule::Own,
        max_body_bytes: MAX_REPORT_BYTES,
    },
    Route {
        path: "/puppet/v3/file_metadata/",
        endpoint: Endpoint::FileMetadata,
        methods: &[Method::GET],
        rule: Rule::Authenticated,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/puppet/v3/file_metadatas/",
        endpoint: Endpoint::FileMetadatas,
        methods: &[Method::GET],
        rule: Rule::Authenticated,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/puppet/v3/file_content/",
        endpoint: Endpoint::FileContent,
        methods: &[Method::GET],
        rule: Rule::Authenticated,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/puppet/v3/static_file_content/",
        endpoint: Endpoint::StaticFileContent,
        methods: &[Method::GET],
        rule: Rule::Authenticated,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/puppet/v3/file_bucket_file/",
        endpoint: Endpoint::FileBucketFile,
        methods: &[Method::GET, Method::HEAD, Method::PUT],
        rule: Rule::Authenticated,
        max_body_bytes: MAX_BUCKET_FILE_BYTES,
    },
    Route {
        path: "/puppet/v3/environments",
        endpoint: Endpoint::Environments,
        methods: &[Method::GET],
        rule: Rule::Authenticated,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/status/v1/simple/",
        endpoint: Endpoint::Running,
        methods: &[Method::GET],
        rule: Rule::Anybody,
        max_body_bytes: NO_BODY,
    },
    Route {
        path: "/status/v1/services",
        endpoint: Endpoint::Services,
        methods: &[Method::GET],
        rule: Rule::Anybody,
        max_body_bytes: NO_BODY,
    },
];

/// Finds the line of a path, and what follows it there, as it stands in the URL.
pub(super) fn find(path: &str) -> Option<(&'static Route, &str)> {
    ROUTES.iter().find_map(|route| {
        let rest = path.strip_prefix(route.path)?;
        let is_it = if route.path.ends_with('/') { !rest.is_empty() } else { rest.is_empty() };
        is_it.then_some((route, rest))
    })
}

/// Who asks, as far as the rule of a path needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The node that the path names; it is the one that asks, or the peer may speak for any.
    Node(Certname),
    /// A node; `None` for a peer that may speak for any and has no name.
    Somebody(Option<Certname>),
}

impl Route {
    /// Checks that `peer` may use this path for `argument`, which is decoded.
    pub(super) fn authorize(&self, peer: &Peer, argument: &str) -> Result<Caller, Failure> {
        let own = match peer {
            Peer::Certificate { name, .. } => Some(name.clone()),
            _ => None,
        };
        match self.rule {
            Rule::Own => {
                let name: Certname = argument.parse().map_err(|error| Failure::bad_request(format!("{error}")))?;
                match acts_for(peer, &name) {
                    Ok(()) => Ok(Caller::Node(name)),
                    Err(_) => Err(Failure::forbidden(format!("{} of {name} is for {name} alone", self.path))),
                }
            }
            Rule::Authenticated => match (&own, peer) {
                (Some(_), _) | (None, Peer::Plain | Peer::InProcess) => Ok(Caller::Somebody(own)),
                _ => Err(Failure::forbidden(format!("{} is for nodes: ask with a node's certificate", self.path))),
            },
            Rule::Anybody => Ok(Caller::Somebody(own)),
        }
    }
}

/// Returns the lines of the table.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn lines() -> impl Iterator<Item = crate::every_route::RouteLine> {
    use crate::every_route::{Audience, RouteLine};
    ROUTES.iter().flat_map(|route| {
        let audience = match route.rule {
            Rule::Own => Audience::Own,
            Rule::Authenticated => Audience::Node,
            Rule::Anybody => Audience::Anybody,
        };
        route.methods.iter().map(move |method| RouteLine { path: route.path, method: method.clone(), audience })
    })
}
