//! Getting a certificate from a Puppet CA: a key, a request, and the calls of `puppet-ca/v1`.
//!
//! No file is read or written here but those that [`EnrolTrust::Files`] and [`Identity::Files`] name. Nothing that a server sends is trusted
//! unless the caller has an authority's certificate, knows its fingerprint, or asks with [`EnrolTrust::OnFirstUse`] to take whatever comes.

mod authority;
mod client;
mod key;
mod trust;

pub use authority::Authorities;
pub use client::{CaClient, EnrolError, Identity};
pub use key::{Attribute, KeyError, RequestOptions, certificate_ends, fingerprint, is_of_key, make_key, public_key_pem, request};
pub use trust::EnrolTrust;
