//! From the HTTP client's errors to kinds that say whether to try again.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::error::{TransportError, TransportErrorKind};

/// Returns the error of a call that got no answer.
pub(crate) fn of_call(error: reqwest::Error, endpoint: &str, connect_timeout: Duration) -> TransportError {
    let (kind, detail) = match of_chain(&error) {
        Some((kind, detail)) => (kind, detail),
        None if error.is_connect() && error.is_timeout() => {
            (TransportErrorKind::Connect, Some(format!("no connection within {connect_timeout:?}")))
        }
        None if error.is_connect() => (TransportErrorKind::Connect, None),
        None if error.is_timeout() => (TransportErrorKind::Timeout, None),
        None if error.is_builder() => (TransportErrorKind::Config, None),
        None => (TransportErrorKind::Closed, None),
    };
    build(kind, detail, endpoint, error)
}

/// Returns the error of a body that broke off.
pub(crate) fn of_body(error: reqwest::Error, endpoint: &str) -> TransportError {
    let (kind, detail) = match of_chain(&error) {
        Some((kind, detail)) => (kind, detail),
        None if error.is_timeout() => (TransportErrorKind::Timeout, None),
        None => (TransportErrorKind::Closed, None),
    };
    build(kind, detail, endpoint, error)
}

fn build(kind: TransportErrorKind, detail: Option<String>, endpoint: &str, error: reqwest::Error) -> TransportError {
    let built = TransportError::new(kind, endpoint).with_source(error.without_url());
    match detail {
        Some(detail) => built.with_detail(detail),
        None => built,
    }
}

type Finding = (TransportErrorKind, Option<String>);

/// Looks through the causes for one that says more than "it failed".
fn of_chain(error: &(dyn StdError + 'static)) -> Option<Finding> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = tls_error(cause) {
            return Some(of_tls(tls));
        }
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>()
            && (hyper.is_parse() || hyper.is_parse_too_large())
        {
            return Some((TransportErrorKind::Protocol, Some("the answer is not HTTP".to_owned())));
        }
        next = cause.source();
    }
    of_last_text(error)
}

/// Returns the TLS error that `error` is, or that an I/O error wraps (whose `source` would skip it).
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a TlsError> {
    let mut error = error;
    loop {
        if let Some(tls) = error.downcast_ref::<TlsError>() {
            return Some(tls);
        }
        error = error.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

/// HTTP/2 keeps only the text of an I/O error, and over TLS 1.3 a server's no to a client certificate comes as one.
fn of_last_text(error: &(dyn StdError + 'static)) -> Option<Finding> {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let text = last.to_string();
    let identity = [
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::DecryptError,
        AlertDescription::HandshakeFailure,
    ];
    identity.into_iter().find(|alert| text.contains(&TlsError::AlertReceived(*alert).to_string())).map(of_alert)
}

fn of_tls(error: &TlsError) -> Finding {
    match error {
        TlsError::InvalidCertificate(reason) => (TransportErrorKind::Identity, Some(of_certificate(reason))),
        TlsError::AlertReceived(alert) => of_alert(*alert),
        TlsError::NoCertificatesPresented | TlsError::UnsupportedNameType => (TransportErrorKind::Identity, None),
        TlsError::InvalidMessage(_) => {
            (TransportErrorKind::Protocol, Some("the answer is not TLS: does the port speak plain HTTP?".to_owned()))
        }
        _ => (TransportErrorKind::Protocol, None),
    }
}

fn of_certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: check the clock of this node, then renew the certificate"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: check the clock of this node and of the server"
        }
        CertificateError::Revoked => "the server's certificate has been revoked",
        // A wrong signature is how an authority shows that was made anew under its old name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate was issued by nobody that this node trusts"
        }
        CertificateError::UnknownRevocationStatus => "no revocation list covers the server's certificate: update crl.pem",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name than the URL's"
        }
        _ => "the server's certificate cannot be trusted",
    }
    .to_owned()
}

fn of_alert(alert: AlertDescription) -> Finding {
    let detail = match alert {
        AlertDescription::CertificateRequired => "the server wants a client certificate",
        AlertDescription::CertificateRevoked => "the server says that this node's certificate has been revoked",
        AlertDescription::CertificateExpired => {
            "the server says that this node's certificate has expired or is not valid yet: check the clock, then renew it"
        }
        AlertDescription::UnknownCA => "the server does not trust the issuer of this node's certificate",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "the server does not accept this node's certificate",
        AlertDescription::HandshakeFailure => "the two ends have no way to trust each other in common",
        _ => return (TransportErrorKind::Protocol, None),
    };
    (TransportErrorKind::Identity, Some(detail.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: &(dyn StdError + 'static)) -> Option<TransportErrorKind> {
        of_chain(error).map(|(kind, _)| kind)
    }

    #[test]
    fn certificate_errors_are_found_however_deep_they_are_wrapped() {
        let deep = io::Error::other(io::Error::other(TlsError::InvalidCertificate(CertificateError::Expired)));
        let (kind, detail) = of_chain(&deep).unwrap();
        assert_eq!(kind, TransportErrorKind::Identity);
        assert!(detail.unwrap().contains("check the clock"));
    }

    #[test]
    fn an_alert_is_found_when_only_its_text_is_left() {
        let text = TlsError::AlertReceived(AlertDescription::CertificateRequired).to_string();
        assert_eq!(kind(&io::Error::new(io::ErrorKind::InvalidData, text)), Some(TransportErrorKind::Identity));
        assert_eq!(kind(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
        assert_eq!(kind(&TlsError::AlertReceived(AlertDescription::InternalError)), Some(TransportErrorKind::Protocol));
    }
}
