//! What both ends of the HTTP binding agree on: paths, headers and status codes.

use crate::protocol::{Operation, RefusalCode};

/// The path before an operation's name.
pub const PATH_PREFIX: &str = "/direct/v1/";

/// The content type of every request and response body.
pub const CONTENT_TYPE: &str = "application/vnd.direct-puppet+msgpack";

/// The response header that tells a server's answer from the answer of something in between.
pub const STATUS_HEADER: &str = "x-direct-puppet-status";

/// Value of [`STATUS_HEADER`]: the body is the operation's response.
pub const ACCEPTED: &str = "accepted";

/// Value of [`STATUS_HEADER`]: the body is an encoded [`Refusal`](crate::protocol::Refusal).
pub const REFUSED: &str = "refused";

/// The one content coding of request bodies. A server that takes it says so by `accept-encoding` in its answers (RFC 9110, section 12.5.3); a
/// client sends nothing so before it has heard that, and not again after the server, or another one in its place, has refused it.
pub const REQUEST_CODING: &str = "zstd";

/// A request body shorter than this, in bytes, goes as it is: a packet or a few are no matter.
pub const MIN_PACKED_REQUEST_BYTES: usize = 8 * 1024;

/// The port that servers listen on and clients call when a URL names none; Puppet's own.
pub const DEFAULT_PORT: u16 = 8140;

/// Returns the path of `operation`.
#[must_use]
pub fn path_of(operation: Operation) -> String {
    format!("{PATH_PREFIX}{operation}")
}

/// Returns the operation at `path`.
#[must_use]
pub fn operation_at(path: &str) -> Option<Operation> {
    Operation::from_name(path.strip_prefix(PATH_PREFIX)?)
}

/// Returns the HTTP status that goes with a refusal, for logs and proxies; clients look only at [`STATUS_HEADER`].
#[must_use]
pub const fn http_status(code: RefusalCode) -> u16 {
    match code {
        RefusalCode::BadRequest | RefusalCode::UnsupportedVersion => 400,
        RefusalCode::Forbidden => 403,
        RefusalCode::NotFound | RefusalCode::NotPublished => 404,
        RefusalCode::CompileFailed => 422,
        RefusalCode::Busy => 429,
        RefusalCode::Stale | RefusalCode::ShuttingDown => 503,
        RefusalCode::Internal | RefusalCode::Unknown => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_path_back_and_forth() {
        for operation in Operation::ALL {
            assert_eq!(operation_at(&path_of(operation)), Some(operation));
        }
        assert_eq!(operation_at("/direct/v1/fetch/"), None);
        assert_eq!(operation_at("/direct/v2/fetch"), None);
        assert_eq!(operation_at("fetch"), None);
    }
}
