//! Files of any web server, as `source => https://…` of a `File` names them.
//!
//! Such a server speaks no protocol of ours, and has none of our digests: it says what it does in headers. They are read as Puppet reads them
//! (`file_metadata/http.rs` and `http_metadata.rs` of Puppet 7).

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::TransportError;
use crate::transport::BodyStream;

/// What a web server says of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMetadata {
    /// SHA-256 in lower-case hexadecimal digits: `X-Checksum-Sha256`.
    pub sha256: Option<String>,
    /// SHA-1: `X-Checksum-Sha1`.
    pub sha1: Option<String>,
    /// MD5: `X-Checksum-Md5`, or `Content-MD5` of RFC 1864.
    pub md5: Option<String>,
    /// When it was modified last: `Last-Modified`.
    pub last_modified: Option<SystemTime>,
}

/// An answer of a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAnswer<T> {
    /// It has the file.
    Found(T),
    /// It does not, or does not give it: the HTTP status.
    Refused(u16),
}

/// Gets files from web servers.
#[async_trait]
pub trait HttpSource: fmt::Debug + Send + Sync + 'static {
    /// Asks what there is at a URL, without its content.
    ///
    /// # Errors
    ///
    /// When there is no answer. A status that is no success is an answer.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    async fn metadata(&self, url: &str) -> Result<HttpAnswer<HttpMetadata>, TransportError>;

    /// Asks for the content at a URL; it comes with what the server says of it. A content that breaks off ends in an error.
    ///
    /// # Errors
    ///
    /// As for [`HttpSource::metadata`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    async fn content(&self, url: &str) -> Result<HttpAnswer<(HttpMetadata, BodyStream)>, TransportError>;
}

/// Returns a URL for people: without user, password and query, which may be secret.
#[must_use]
pub fn shown_url(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    // A password with a slash makes it no URL, and is no path either.
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) && !authority.contains('@') {
        return format!("{scheme}://…");
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (url, shown) in [
            ("https://example.com/a/b.tar", "https://example.com/a/b.tar"),
            ("https://me:hunter2@example.com:8443/a?X-Amz-Signature=1#x", "https://example.com:8443/a"),
            ("http://me:p@ss@example.com", "http://example.com"),
            ("http://example.com/a@b", "http://example.com/a@b"),
            ("http://me:TOP/SECRET@host/a", "http://…"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }
}
