//! Which version of HTTP a connection speaks.
//!
//! Nothing is read off the connection to find out: hyper then gets a request in one piece, and its buffer need not grow for a
//! second one.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.1, or 1.0.
    One,
    /// HTTP/2.
    Two,
}

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The name of HTTP/2 in a TLS handshake (RFC 9113 §3.2).
pub(super) const ALPN_TWO: &[u8] = b"h2";

/// The name of HTTP/1.1 in a TLS handshake (RFC 7301 §6).
pub(super) const ALPN_ONE: &[u8] = b"http/1.1";

/// How long to wait for the rest of a beginning that came in pieces.
const PIECE: Duration = Duration::from_millis(5);

impl Version {
    /// Returns what was agreed on in a TLS handshake; a client that named nothing speaks HTTP/1.1.
    pub(super) fn agreed(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(ALPN_TWO) { Self::Two } else { Self::One }
    }

    /// Waits for the first bytes of a plain connection and leaves them there. Cancel safe.
    pub(super) async fn spoken(stream: &TcpStream) -> io::Result<Self> {
        let mut begin = [0; PREFACE.len()];
        loop {
            let count = stream.peek(&mut begin).await?;
            match Self::of(begin.get(..count).unwrap_or_default()) {
                Some(version) => return Ok(version),
                // The bytes that are there keep the socket readable, so it cannot tell when more are.
                None => tokio::time::sleep(PIECE).await,
            }
        }
    }

    /// Returns the version that begins so; `None` while it may be either. A connection that ends at once gets HTTP/1.1, which sees
    /// the end.
    fn of(begin: &[u8]) -> Option<Self> {
        match begin.len() {
            0 => Some(Self::One),
            _ if begin == PREFACE => Some(Self::Two),
            _ if PREFACE.starts_with(begin) => None,
            _ => Some(Self::One),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http_2() {
        assert_eq!(Version::of(PREFACE), Some(Version::Two));
        for length in 1..PREFACE.len() {
            assert_eq!(Version::of(&PREFACE[..length]), None);
            let mut other = PREFACE[..length].to_vec();
            other[length - 1] ^= 1;
            assert_eq!(Version::of(&other), Some(Version::One));
        }
        assert_eq!(Version::of(b""), Some(Version::One));
        assert_eq!(Version::of(b"POST / HTTP/1.1\r\nhost: a"), Some(Version::One));
    }

    #[test]
    fn what_was_agreed_in_the_handshake_counts() {
        assert_eq!(Version::agreed(Some(b"h2")), Version::Two);
        assert_eq!(Version::agreed(Some(b"http/1.1")), Version::One);
        assert_eq!(Version::agreed(None), Version::One);
    }
}
