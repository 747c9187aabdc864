//! Puppet's extensions in the certificate of a client.
//!
//! A value is a string in DER, as Puppet's agents and authorities write it. What is none is left out, and the log says so: code then
//! finds it missing, instead of bytes that somebody has to guess at.

use std::collections::{BTreeMap, BTreeSet};

use direct_puppet_transport::Extensions;
use direct_puppet_transport::extensions::name_of;
use direct_puppet_transport::protocol::Certname;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::extensions::X509Extension;

/// What all of them are below.
const PUPPET: &str = "1.3.6.1.4.1.34380.1.";

/// How a string begins in DER: UTF8String, PrintableString, IA5String.
const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16];

/// Longest value, in bytes; a handshake has room for four of them.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// Most of them in a certificate; an authority of ours signs no more.
const MAX_EXTENSIONS: usize = 128;

/// Returns those that are text; of the others the log says why they count for nothing.
pub(super) fn of(name: &Certname, all: &[X509Extension<'_>]) -> Extensions {
    let (mut found, mut doubtful) = (BTreeMap::new(), BTreeSet::new());
    for extension in all {
        let oid = extension.oid.to_id_string();
        if !is_puppets(&oid) {
            continue;
        }
        if found.len() + doubtful.len() >= MAX_EXTENSIONS {
            tracing::warn!(%name, "a certificate has more than {MAX_EXTENSIONS} of Puppet's extensions: the others are left out");
            break;
        }
        if doubtful.contains(&oid) {
            continue;
        }
        let value = match found.remove(&oid) {
            // With two, one check might read the first and another the last.
            Some(_) => Err("it is there twice"),
            None => text(extension.value),
        };
        match value {
            Ok(value) => drop(found.insert(oid, value)),
            Err(reason) => {
                let shown = name_of(&oid).unwrap_or(&oid);
                tracing::warn!(%name, extension = shown, "an extension of a certificate is left out of what code sees: {reason}");
                doubtful.insert(oid);
            }
        }
    }
    found.into_iter().map(|(oid, value)| (name_of(&oid).map_or(oid, str::to_owned), value)).collect()
}

/// Whether it is below one of the three that Puppet has: registered, private, for authorization.
fn is_puppets(oid: &str) -> bool {
    let below = oid.strip_prefix(PUPPET).and_then(|below| below.split_once('.'));
    matches!(below, Some(("1" | "2" | "3", _)))
}

/// Returns the text of a value.
fn text(value: &[u8]) -> Result<String, &'static str> {
    if value.len() > MAX_VALUE_BYTES {
        return Err("it is longer than 16 KiB");
    }
    let Ok((rest, string)) = Any::from_der(value) else { return Err("it is no DER") };
    if !rest.is_empty() {
        return Err("something follows its value");
    }
    if !value.first().is_some_and(|kind| STRINGS.contains(kind)) {
        return Err("it is no UTF8String");
    }
    std::str::from_utf8(string.data).map(str::to_owned).map_err(|_| "it is not UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};

    use super::MAX_EXTENSIONS;
    use crate::listen::live::ClientCertificate;

    const PUPPET: [u64; 8] = [1, 3, 6, 1, 4, 1, 34380, 1];

    /// Returns what is found in a certificate with these extensions, below 1.3.6.1.4.1.34380.1.
    fn read(all: &[(&[u64], &[u8])]) -> Vec<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "n1");
        let extension = |(below, value): &(&[u64], &[u8])| {
            let oid = [&PUPPET[..], below].concat();
            CustomExtension::from_oid_content(&oid, value.to_vec())
        };
        params.custom_extensions = all.iter().map(extension).collect();
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = ClientCertificate::of(made.der()).unwrap().extensions;
        read.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn strings_are_found_by_name_or_identifier() {
        let all = read(&[
            (&[1, 13], b"\x0c\x03web"),
            (&[1, 99], b"\x13\x01a"),
            (&[2, 1, 7], b"\x16\x01b"),
            (&[3, 13], b"\x0c\x00"),
            (&[4, 1], b"\x0c\x01x"),
            (&[1], b"\x0c\x01x"),
        ]);
        let expected =
            [("1.3.6.1.4.1.34380.1.1.99", "a"), ("1.3.6.1.4.1.34380.1.2.1.7", "b"), ("pp_auth_role", ""), ("pp_role", "web")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_no_text_is_left_out_and_the_others_stay() {
        let long = [&[0x0c, 0x82, 0x40, 0x01][..], &[b'a'; 0x4001]].concat();
        for bad in [
            &b"web"[..],
            b"",
            b"\x0c\x04web",
            b"\x0c\x03webs",
            b"\x0c\x02\xff\xfe",
            b"\x02\x01\x07",
            b"\x04\x03web",
            b"\x2c\x05\x0c\x03web",
            b"\x8c\x03web",
            b"\x0c\x80web\x00\x00",
            &long,
        ] {
            assert_eq!(read(&[(&[1, 13], bad), (&[1, 1], b"\x0c\x01a")]), [("pp_uuid".to_owned(), "a".to_owned())], "{bad:?}");
        }
        let three = [(&[1, 13][..], &b"\x0c\x01a"[..]), (&[1, 13], b"\x0c\x01b"), (&[1, 13], b"\x0c\x01c")];
        assert_eq!(read(&three), [], "which of them counts nobody knows");
    }

    #[test]
    fn no_more_are_taken_than_may_be() {
        let oids: Vec<Vec<u64>> = (0..200).map(|number| vec![2, number]).collect();
        let all: Vec<(&[u64], &[u8])> = oids.iter().map(|oid| (oid.as_slice(), &b"\x0c\x01a"[..])).collect();
        assert_eq!(read(&all).len(), MAX_EXTENSIONS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_a_string_in_der_or_left_out(bytes in proptest::collection::vec(any::<u8>(), 0..64), tag in any::<u8>()) {
            for value in [bytes.clone(), [&[tag, u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()] {
                for (_, found) in read(&[(&[1, 13], &value)]) {
                    prop_assert!([0x0c, 0x13, 0x16].contains(&value[0]), "{value:?}");
                    prop_assert!(value.ends_with(found.as_bytes()), "{value:?}");
                }
            }
        }

        #[test]
        fn any_text_comes_through(value in ".{0,40}") {
            let der = [&[0x0c, u8::try_from(value.len().min(0x7f)).unwrap()], &value.as_bytes()[..value.len().min(0x7f)]].concat();
            let expected = std::str::from_utf8(&der[2..]).ok().map(str::to_owned);
            prop_assert_eq!(read(&[(&[1, 13], &der)]).into_iter().map(|(_, value)| value).next(), expected);
        }
    }
}
