//! Text in URLs and forms.

/// Returns text as it stands in a query or a form: every byte but letters, digits, `-`, `.`, `_` and `~` (RFC 3986, 2.3) as `%XX`.
pub(crate) fn component(text: &str) -> String {
    encoded(text, &[])
}

/// Returns a path as it stands in a URL; slashes stay.
pub(crate) fn path(text: &str) -> String {
    encoded(text, b"/")
}

fn encoded(text: &str, kept: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', char::from(DIGITS[usize::from(byte >> 4)]), char::from(DIGITS[usize::from(byte & 0xf)])]);
        }
    }
    out
}

/// Returns a query or a form.
pub(crate) fn form<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&component(name));
        out.push('=');
        out.push_str(&component(value));
    }
    out
}

/// A `puppet:` URI taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PuppetUri<'a> {
    /// The host, with its port, where one is named.
    pub(crate) host: Option<&'a str>,
    /// What comes after it, without the slash in front; as written, nothing in it is encoded.
    pub(crate) path: &'a str,
}

impl<'a> PuppetUri<'a> {
    /// Reads `puppet://[host[:port]]/path`; `None` for anything else, and for a path that leaves its mount or names none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (host, path) = text.strip_prefix("puppet://")?.split_once('/')?;
        let path = path.trim_end_matches('/');
        let is_sound = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        is_sound.then_some(Self { host: (!host.is_empty()).then_some(host), path })
    }

    /// Returns whether it names no server, or the one at `endpoint`: by the same name, or one of the two has the other's without its domain.
    pub(crate) fn is_at(&self, endpoint: &str) -> bool {
        let Some(host) = self.host else { return true };
        let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let split = |text: &'_ str| match text.rsplit_once(':').filter(|(_, port)| is_port(port)) {
            Some((name, port)) => (name.to_ascii_lowercase(), Some(port.to_owned())),
            None => (text.to_ascii_lowercase(), None),
        };
        let ((theirs, their_port), (ours, our_port)) = (split(host), split(authority));
        let is_short_of = |short: &str, long: &str| {
            let is_name = short.bytes().any(|byte| byte.is_ascii_alphabetic()) && !short.contains(['.', ':']);
            is_name && long.strip_prefix(short).is_some_and(|domain| domain.starts_with('.'))
        };
        let is_name = theirs == ours || is_short_of(&theirs, &ours) || is_short_of(&ours, &theirs);
        is_name && (their_port.is_none() || their_port == our_port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes what forms and URLs have, as RFC 3986 says.
    fn decoded(text: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => u8::from_str_radix(&format!("{}{}", char::from(rest.next()?), char::from(rest.next()?)), 16).ok()?,
                other => other,
            });
        }
        String::from_utf8(bytes).ok()
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_out_again(text in any::<String>()) {
            prop_assert_eq!(decoded(&component(&text)), Some(text.clone()));
            prop_assert_eq!(decoded(&path(&text)), Some(text.clone()));
            prop_assert!(component(&text).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        }

        #[test]
        fn a_form_has_its_fields(fields in proptest::collection::vec((any::<String>(), any::<String>()), 0..5)) {
            let form = form(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let pairs = form.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap());
            let read: Vec<(String, String)> = pairs.map(|(a, b)| (decoded(a).unwrap(), decoded(b).unwrap())).collect();
            prop_assert_eq!(read, fields);
        }

        #[test]
        fn any_text_is_a_uri_or_none(text in "puppet://[a-z:0-9]{0,5}/[a-z./ ]{0,12}") {
            if let Some(uri) = PuppetUri::parse(&text) {
                prop_assert!(!uri.path.split('/').any(|part| part == ".."));
            }
        }
    }

    #[test]
    fn uris() {
        let uri = PuppetUri::parse("puppet:///modules/app/a b%23").unwrap();
        assert_eq!((uri.host, path(uri.path).as_str()), (None, "modules/app/a%20b%2523"));
        assert_eq!(PuppetUri::parse("puppet://other/m/x/").unwrap(), PuppetUri { host: Some("other"), path: "m/x" });
        for bad in ["", "puppet:///", "puppet:/m/x", "http://h/m/x", "puppet:///m/../x", "puppet:///m//x", "puppet://h"] {
            assert_eq!(PuppetUri::parse(bad), None, "{bad}");
        }
        let at = |host, endpoint| PuppetUri { host, path: "m" }.is_at(endpoint);
        assert!(at(None, "https://h:8140") && at(Some("h"), "https://h:8140") && at(Some("h:8140"), "https://h:8140/x"));
        assert!(!at(Some("other"), "https://h:8140") && !at(Some("h:1"), "https://h:8140"));
        assert!(at(Some("h"), "https://h.example.com:8140") && at(Some("H.example.com:8140"), "https://h:8140"));
        assert!(!at(Some("h.other"), "https://h.example.com:8140") && !at(Some("hh"), "https://h.example.com:8140"));
        assert!(!at(Some("10"), "https://10.0.0.1:8140") && at(Some("[::1]"), "https://[::1]:8140"));
    }
}
