//! From a server's URL to a transport.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{TransportError, TransportErrorKind};
use crate::handler::Handler;
use crate::memory::MemoryTransport;
use crate::transport::Transport;

/// What [`connect`] needs beside the URL.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Certificate, key and authorities, for `https`.
    #[cfg(feature = "http")]
    pub tls: Option<crate::http::TlsFiles>,
    /// Which version of HTTP to speak.
    #[cfg(feature = "http")]
    pub version: crate::http::HttpVersion,
    /// As [`HttpOptions::compress_requests`](crate::http::HttpOptions::compress_requests).
    #[cfg(feature = "http")]
    pub compress_requests: Option<bool>,
    /// Who answers `memory:`.
    pub handler: Option<Arc<dyn Handler>>,
    /// How long it may take to reach the server; see [`ConnectOptions::default`].
    pub connect_timeout: Duration,
}

impl Default for ConnectOptions {
    /// Ten seconds to connect, no certificates, no handler, the newest version of HTTP that both speak.
    fn default() -> Self {
        Self {
            #[cfg(feature = "http")]
            tls: None,
            #[cfg(feature = "http")]
            version: crate::http::HttpVersion::Negotiated,
            #[cfg(feature = "http")]
            compress_requests: None,
            handler: None,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// Returns a transport to the server at `url`; nothing is sent yet.
///
/// | URL | Transport |
/// |---|---|
/// | `https://host[:8140]` | HTTP over TLS with the certificates in the options |
/// | `http://host[:8140]` | plain HTTP; servers accept it on loopback only, unless told otherwise |
/// | `unix:/path/to/socket` | a Unix socket |
/// | `memory:` | the handler in the options |
///
/// # Errors
///
/// [`TransportErrorKind::Config`] when the URL, or what it needs, is unusable or left out of this program.
pub fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn Transport>, TransportError> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "https" | "http" => http(url, options),
        "unix" if !rest.starts_with('/') || rest.starts_with("//") => {
            Err(config("unix:", "write the socket as an absolute path: unix:/run/direct-puppet.sock"))
        }
        "unix" => unix(rest),
        "memory" => match &options.handler {
            Some(handler) => Ok(Arc::new(MemoryTransport::new(Arc::clone(handler)))),
            None => Err(config("memory:", "there is no handler in this process")),
        },
        // The text itself is left out: it may hold a password.
        _ => Err(config("the server's URL", "it must begin with https:, http:, unix: or memory:")),
    }
}

#[cfg(feature = "http")]
fn http(url: &str, options: &ConnectOptions) -> Result<Arc<dyn Transport>, TransportError> {
    let options = crate::http::HttpOptions {
        tls: options.tls.clone(),
        connect_timeout: options.connect_timeout,
        version: options.version,
        compress_requests: options.compress_requests,
    };
    Ok(Arc::new(crate::http::HttpTransport::new(url, &options)?))
}

#[cfg(not(feature = "http"))]
fn http(_: &str, _: &ConnectOptions) -> Result<Arc<dyn Transport>, TransportError> {
    Err(config("http:", "this program was built without HTTP"))
}

#[cfg(feature = "unix")]
#[expect(clippy::unnecessary_wraps, reason = "the other form, without the feature, fails")]
fn unix(path: &str) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(Arc::new(crate::unix::UnixTransport::new(path.as_ref())))
}

#[cfg(not(feature = "unix"))]
fn unix(_: &str) -> Result<Arc<dyn Transport>, TransportError> {
    Err(config("unix:", "this program was built without Unix sockets"))
}

fn config(endpoint: &str, detail: &str) -> TransportError {
    TransportError::new(TransportErrorKind::Config, endpoint).with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_server_is_a_config_error_that_repeats_no_secret() {
        for url in ["", "puppet", "ftp://u:secret@host", "memory:", "unix:", "unix:relative", "unix://host/path", "secret"] {
            let error = connect(url, &ConnectOptions::default()).unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Config, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn plain_http_needs_nothing_and_says_where_it_goes() {
        let transport = connect("http://127.0.0.1:8141/", &ConnectOptions::default()).unwrap();
        assert_eq!(transport.endpoint(), "http://127.0.0.1:8141");
    }

    #[cfg(feature = "http")]
    #[test]
    fn only_loopback_is_local() {
        for (url, is_local) in [
            ("http://127.0.0.1:8141", true),
            ("http://127.8.9.10", true),
            ("http://[::1]:8141", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://[2001:db8::1]", false),
            ("http://localhost.example.com", false),
        ] {
            let wrapped = crate::retry::Retry::new(connect(url, &ConnectOptions::default()).unwrap(), Default::default());
            assert_eq!(wrapped.is_local(), is_local, "{url}");
        }
    }
}
