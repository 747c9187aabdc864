//! Patterns on the base names of files, as `ignore` takes them.

/// A pattern with the meaning of Ruby's `File.fnmatch?` without flags: `*`, `?`, `[a-z]`, `[!a-z]`, `[^a-z]`, backslash
/// for the next character as it is; a leading dot is matched only by a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: one character, which in UTF-8 may be up to four bytes.
    One,
    /// `*`.
    Any,
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Parses a pattern; a bracket that is not closed stands for itself.
    pub fn parse(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '*' => {
                    // Adjacent stars mean one; more would only cost time.
                    if tokens.last() != Some(&Token::Any) {
                        tokens.push(Token::Any);
                    }
                }
                '?' => tokens.push(Token::One),
                '[' => match parse_set(rest) {
                    Some((set, after)) => {
                        tokens.push(set);
                        rest = after;
                    }
                    None => tokens.push(Token::Byte(b'[')),
                },
                '\\' => {
                    let next = rest.chars().next().unwrap_or('\\');
                    rest = rest.get(next.len_utf8()..).unwrap_or_default();
                    push_bytes(&mut tokens, next);
                }
                other => push_bytes(&mut tokens, other),
            }
        }
        Self { tokens }
    }

    /// Returns whether `name`, one path component, matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && self.tokens.first() != Some(&Token::Byte(b'.')) {
            return false;
        }
        self.matches_from_start(name)
    }

    /// Returns whether `name` matches, a leading dot being a character as any other. Greedy, with one point to go back to: time is at most the product of both lengths.
    pub fn matches_from_start(&self, name: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            if token < self.tokens.len() && self.tokens[token] == Token::Any {
                retry = Some((token + 1, at));
                token += 1;
                continue;
            }
            let step = match self.tokens.get(token) {
                None if at == name.len() => return true,
                None => None,
                Some(current) => consumes(current, &name[at..]),
            };
            match (step, retry) {
                (Some(length), _) => {
                    token += 1;
                    at += length;
                }
                (None, Some((after, from))) if from < name.len() => {
                    retry = Some((after, from + 1));
                    token = after;
                    at = from + 1;
                }
                (None, _) => return false,
            }
        }
    }
}

/// Returns how many bytes at the start of `rest` the token takes; `None` when it does not match.
fn consumes(token: &Token, rest: &[u8]) -> Option<usize> {
    match token {
        Token::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
        Token::One => first_char(rest).map(|(_, length)| length),
        Token::Set { negated, ranges } => {
            let (found, length) = first_char(rest)?;
            let inside = found.is_some_and(|c| ranges.iter().any(|&(low, high)| (low..=high).contains(&c)));
            (inside != *negated).then_some(length)
        }
        Token::Any => Some(0),
    }
}

/// Returns the first character and its length; a byte that is no UTF-8 is one by itself.
fn first_char(rest: &[u8]) -> Option<(Option<char>, usize)> {
    let chunk = rest[..rest.len().min(4)].utf8_chunks().next()?;
    match chunk.valid().chars().next() {
        Some(c) => Some((Some(c), c.len_utf8())),
        None => Some((None, 1)),
    }
}

fn push_bytes(tokens: &mut Vec<Token>, c: char) {
    let mut buffer = [0; 4];
    tokens.extend(c.encode_utf8(&mut buffer).bytes().map(Token::Byte));
}

/// Parses what follows a `[`, up to its `]`.
fn parse_set(text: &str) -> Option<(Token, &str)> {
    let (negated, mut rest) = match text.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        let low = next_in_set(&mut rest)?;
        if low == (']', false) {
            return Some((Token::Set { negated, ranges }, rest));
        }
        let low = low.0;
        let mut ahead = rest;
        let high = match next_in_set(&mut ahead)? {
            ('-', false) => match next_in_set(&mut ahead)? {
                (']', false) => low,
                (high, _) => {
                    rest = ahead;
                    high
                }
            },
            _ => low,
        };
        ranges.push((low, high));
    }
}

/// Returns the next character of a set and whether a backslash made it plain.
fn next_in_set(rest: &mut &str) -> Option<(char, bool)> {
    let mut chars = rest.chars();
    let found = match chars.next()? {
        '\\' => (chars.next()?, true),
        c => (c, false),
    };
    *rest = chars.as_str();
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        for (pattern, name, matches) in [
            ("*", "a", true),
            ("*", "", true),
            ("*", ".a", false),
            (".*", ".a", true),
            ("?", ".", false),
            (".git", ".git", true),
            (".git", ".gitignore", false),
            ("*.swp", "a.swp", true),
            ("*.swp", "a.swpx", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[a-z]*", "x1", true),
            ("[a-z]*", "X1", false),
            ("[!a-z]*", "X1", true),
            ("[^a-z]", "b", false),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[]", "]", false),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"[\]]", "]", true),
            ("?", "é", true),
            ("[à-ü]", "é", true),
            ("caf?", "café", true),
            ("", "", true),
            ("", "a", false),
            ("a/b", "b", false),
        ] {
            assert_eq!(Glob::parse(pattern).matches(name.as_bytes()), matches, "{pattern} on {name}");
        }
        assert!(Glob::parse("a?b").matches(b"a\xffb"));
    }

    proptest! {
        #[test]
        fn never_panics(pattern in any::<String>(), name in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = Glob::parse(&pattern).matches(&name);
        }

        #[test]
        fn a_name_matches_itself_escaped(name in "[a-z.*?é\\[\\]]{1,12}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(Glob::parse(&escaped).matches(name.as_bytes()));
        }
    }
}
