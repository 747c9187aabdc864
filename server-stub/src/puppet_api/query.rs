//! What stands in URLs and forms.

use direct_puppet_transport::protocol::Environment;

use super::answer::Failure;

/// Most parameters of one request; agents send a dozen.
const MAX_PARAMETERS: usize = 1024;

/// Parameters in the order in which they were given; a name may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query or a form.
    ///
    /// # Errors
    ///
    /// When a percent sign is not followed by two hexadecimal digits, a text is no UTF-8, or there are too many.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut parameters = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == MAX_PARAMETERS {
                return Err(Failure::bad_request(format!("more than {MAX_PARAMETERS} parameters were given")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = form_text(name).and_then(|name| Some((name, form_text(value)?)));
            let Some(decoded) = decoded else {
                let name: String = name.chars().take(80).collect();
                return Err(Failure::bad_request(format!("parameter {name:?} is not URL-encoded UTF-8")));
            };
            parameters.push(decoded);
        }
        Ok(Self(parameters))
    }

    /// Adds the parameters of a form to those of a query; the query's come first.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns a parameter; the first of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| is_named(given, name)).map(|(_, value)| value.as_str())
    }

    /// Returns every value of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| is_named(given, name)).map(|(_, value)| value.as_str())
    }

    /// Returns a parameter that is `true` or `false`; `default` where it is not given.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.get(name) {
            None | Some("") => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(Failure::bad_request(format!("{name} must be true or false, not {}", short(other)))),
        }
    }

    /// Returns the environment that is asked for, which every path of the API but few needs.
    pub(super) fn environment(&self) -> Result<Environment, Failure> {
        let name =
            self.get("environment").ok_or_else(|| Failure::bad_request("say which environment is meant: environment=…"))?;
        name.parse().map_err(|error| Failure::bad_request(format!("{error}")))
    }
}

/// Lists may be written `name[]`.
fn is_named(given: &str, name: &str) -> bool {
    given.strip_suffix("[]").unwrap_or(given) == name
}

/// Returns a text for a message, cut where it is long.
pub(super) fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Decodes a part of a form or query: a plus is a space.
pub(super) fn form_text(text: &str) -> Option<String> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Some(text.to_owned());
    }
    decode(text, true)
}

/// Decodes a part of a path.
pub(super) fn path_text(text: &str) -> Option<String> {
    decode(text, false)
}

fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_decoded() {
        let parameters = Parameters::parse("environment=production&ignore=.git&ignore=a%20b+c&x&ignore%5B%5D=d").unwrap();
        assert_eq!(parameters.environment().unwrap().as_str(), "production");
        assert_eq!(parameters.all("ignore").collect::<Vec<_>>(), [".git", "a b c", "d"]);
        assert_eq!((parameters.get("x"), parameters.get("y")), (Some(""), None));
        assert_eq!(path_text("a+b%2Bc").as_deref(), Some("a+b+c"));
        for bad in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=%C3"] {
            assert!(Parameters::parse(bad).is_err(), "{bad}");
        }
        assert!(Parameters::parse(&"a&".repeat(MAX_PARAMETERS)).is_ok());
        assert!(Parameters::parse(&"a&".repeat(MAX_PARAMETERS + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _read = Parameters::parse(&text);
            let _read = path_text(&text);
        }

        #[test]
        fn what_was_encoded_is_decoded(text in ".*") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(form_text(&encoded), Some(text));
        }
    }
}
