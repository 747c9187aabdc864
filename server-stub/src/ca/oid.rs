//! Object identifiers of Puppet's certificate extensions, and how their values are written.

use direct_puppet_transport::extensions::name_of;

/// What a node says of itself, registered by Puppet: `pp_uuid`, `pp_role` and others.
pub(super) const REGISTERED: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 1];
/// What a node says of itself, of the site's own making.
pub(super) const PRIVATE: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 2];
/// What a certificate may do: `pp_authorization`, `pp_auth_role` and others.
pub(super) const AUTHORIZATION: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 3];
/// `pp_cli_auth`: the certificate of whoever may administrate the authority; no request may ask for it.
pub(super) const CLI_AUTH: &[u64] = &[1, 3, 6, 1, 4, 1, 34380, 1, 3, 39];
/// `subjectAltName` (RFC 5280, 4.2.1.6).
pub(super) const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

/// Returns whether an identifier is below another.
pub(super) fn is_below(oid: &[u64], parent: &[u64]) -> bool {
    oid.len() > parent.len() && oid.starts_with(parent)
}

/// Returns the name that Puppet has given an identifier, else the identifier as text.
pub(super) fn name(oid: &[u64]) -> String {
    let dotted = oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
    name_of(&dotted).map_or(dotted, str::to_owned)
}

/// Returns a text as a DER `UTF8String`, if it has fewer than 128 bytes.
pub(super) fn utf8_string(text: &str) -> Option<Vec<u8>> {
    let length = u8::try_from(text.len()).ok().filter(|&length| length < 0x80)?;
    Some([&[0x0c, length], text.as_bytes()].concat())
}

/// Returns the text in a DER string; the bytes as they are where it is none, as Puppet's older extensions.
pub(super) fn string_of(value: &[u8]) -> String {
    use x509_parser::der_parser::asn1_rs::{Any, FromDer as _};
    match Any::from_der(value) {
        Ok(([], any)) => String::from_utf8_lossy(any.data).into_owned(),
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}
