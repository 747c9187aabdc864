//! Long requests, compressed where the server takes that.

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap};

use super::{HttpTransport, wire};
use crate::protocol::Operation;
use crate::protocol::compress::compress;
use crate::transport::Request;

impl HttpTransport {
    /// Returns the body of a request compressed: a long one, of text, to a server that takes it so, and if that makes it shorter.
    pub(super) async fn pack(&self, request: &Request) -> Option<Bytes> {
        // What else is long consists of digests, which nothing compresses.
        let is_text = matches!(request.operation, Operation::SubmitFacts | Operation::Report);
        let is_worth_it = is_text && request.body.len() >= wire::MIN_PACKED_REQUEST_BYTES;
        if !(is_worth_it && self.compresses_requests && self.takes_packed.load(std::sync::atomic::Ordering::Relaxed)) {
            return None;
        }
        let body = request.body.clone();
        // If that thread is lost the request goes as it is.
        tokio::task::spawn_blocking(move || compress(&body, &[])).await.ok().flatten().map(Bytes::from)
    }
}

/// Returns whether an answer says that the server takes compressed requests.
pub(super) fn is_taken(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| coding.trim() == wire::REQUEST_CODING)
}

/// Returns whether a compressed request may have been refused only because it was: as by an older server in the place of the one that had
/// said that it takes them.
pub(super) fn is_misunderstood(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE)
}
