//! Lines of `authorized_keys` files.

/// Types of keys that Puppet knows.
pub(super) const TYPES: &[&str] = &[
    "ssh-dss",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-ed25519",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ssh-ed25519@openssh.com",
    "ssh-rsa-cert-v01@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-dss-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
];

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) struct Key {
    pub(super) options: Vec<String>,
    pub(super) key_type: String,
    pub(super) key: String,
    /// Its comment, by which resources name it; empty if it has none.
    pub(in crate::provider) name: String,
}

/// Reads a line; `None` when it is no key of a known type.
pub(in crate::provider) fn parse(line: &str) -> Option<Key> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let (first, after) = word(line)?;
    let (options, key_type, rest) = if TYPES.contains(&first) {
        (Vec::new(), first, after)
    } else {
        let (options, rest) = line.split_at(end_of_options(line)?);
        let (key_type, rest) = word(rest)?;
        (split_options(options), key_type, rest)
    };
    let (key, name) = word(rest)?;
    TYPES.contains(&key_type).then(|| Key {
        options,
        key_type: key_type.to_owned(),
        key: key.to_owned(),
        name: name.trim_start().to_owned(),
    })
}

/// Writes a key as a line.
pub(super) fn print(key: &Key) -> String {
    let mut line = key.options.join(",");
    if !line.is_empty() {
        line.push(' ');
    }
    format!("{line}{} {} {}", key.key_type, key.key, key.name)
}

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Returns where options end: at the first blank outside of quotes. A backslash keeps a quote from counting.
fn end_of_options(line: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            c if c.is_whitespace() && !quoted => return Some(at),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// Splits options at commas outside of quotes.
fn split_options(text: &str) -> Vec<String> {
    let (mut quoted, mut escaped) = (false, false);
    let mut options = vec![String::new()];
    for c in text.chars() {
        match (c, options.last_mut()) {
            (',', _) if !quoted => options.push(String::new()),
            (_, Some(option)) => option.push(c),
            (_, None) => {}
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
    }
    options.retain(|option| !option.is_empty());
    options
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        let key = parse(r#"no-pty,command="a b,\"c\" ssh-rsa x",from="x" ssh-rsa AAAA me@x here"#).unwrap();
        assert_eq!(key.options, ["no-pty", r#"command="a b,\"c\" ssh-rsa x""#, r#"from="x""#]);
        assert_eq!((key.key_type.as_str(), key.key.as_str(), key.name.as_str()), ("ssh-rsa", "AAAA", "me@x here"));
        assert_eq!(parse("ssh-ed25519 AAAA").unwrap().name, "");
        for line in ["", "# ssh-rsa AAAA", "ssh-rsa", "bad line", "1024 35 12345 old", "command=\"open ssh-rsa AAAA"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_read_as_they_are_written(
            options in prop::collection::vec("[a-zA-Z-]{1,8}(=\"[a-z ,=]{0,8}\")?", 0..3),
            at in 0..TYPES.len(),
            key in "[A-Za-z0-9+/=]{1,20}",
            name in "([a-z@][a-z @]{0,8})?",
        ) {
            let key = Key { options, key_type: TYPES[at].to_owned(), key, name };
            // Options that look like a type of key would be one.
            prop_assume!(!key.options.iter().any(|option| TYPES.contains(&option.as_str())));
            prop_assert_eq!(parse(&print(&key)), Some(key));
        }

        #[test]
        fn any_line_is_read(line in "\\PC{0,60}") {
            let _key = parse(&line);
        }
    }
}
