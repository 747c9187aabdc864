//! Regular expressions as Ruby writes them, for the engine that is here.

use fancy_regex::{Regex, RegexBuilder};

/// Steps after which a match is given up: some expressions take for ever on some lines.
const MAX_BACKTRACKS: usize = 1_000_000;

/// Compiles a Ruby regular expression: `^` and `$` are the ends of lines, `(?m)` has the dot match line feeds, classes are
/// ASCII.
pub(super) fn compile(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(text))
        .backtrack_limit(MAX_BACKTRACKS)
        .build()
        .map_err(|error| format!("is no regular expression: {error}"))
}

/// What `\d`, `\w`, `\s` and `\h` stand for inside brackets.
fn class_of(letter: char) -> Option<&'static str> {
    match letter.to_ascii_lowercase() {
        'd' => Some("0-9"),
        'w' => Some("0-9A-Za-z_"),
        's' => Some(r" \t\r\n\f\x0B"),
        'h' => Some("0-9A-Fa-f"),
        _ => None,
    }
}

fn translate(text: &str) -> String {
    let mut translated = String::from("(?m)");
    let mut depth = 0_usize;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(letter) => translated.push_str(&escape(letter, depth)),
                None => translated.push('\\'),
            },
            '[' => {
                depth += 1;
                translated.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    translated.push('^');
                }
                if chars.next_if_eq(&']').is_some() {
                    translated.push_str(r"\]");
                }
            }
            ']' => {
                depth = depth.saturating_sub(1);
                translated.push(']');
            }
            // The empty line after a last line feed is none for Ruby.
            '^' if depth == 0 => translated.push_str(r"(?:\A|^(?!\z))"),
            '(' if depth == 0 && chars.next_if_eq(&'?').is_some() => {
                translated.push_str("(?");
                // Flags: letters and a minus up to a colon or the end; anything else is another kind of group.
                while let Some(flag) = chars.next_if(|c| matches!(c, 'm' | 'i' | 'x' | '-')) {
                    translated.push(if flag == 'm' { 's' } else { flag });
                }
            }
            c => translated.push(c),
        }
    }
    translated
}

fn escape(letter: char, depth: usize) -> String {
    match class_of(letter) {
        Some(class) if letter.is_ascii_uppercase() => format!("[^{class}]"),
        Some(class) if depth > 0 => class.to_owned(),
        Some(class) => format!("[{class}]"),
        // The end, before a last line feed too.
        None if letter == 'Z' => r"(?=\n?\z)".to_owned(),
        None => format!("\\{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_ruby_does() {
        for (regex, line, matches) in [
            ("^b=", "b=1\n", true),
            ("^b=$", "b=\n", true),
            ("^$", "abc\n", false),
            ("^$", "\n", true),
            ("^$", "", true),
            (r"^\s*#?\s*Port\s+\d+$", "#Port 22\n", true),
            (r"^[\w.]+\h", "a.f\n", true),
            (r"\d", "٣", false),
            (r"a\z", "a\n", false),
            (r"a\Z", "a\n", true),
            ("(?-mix:^a.b)", "a\nb", false),
            ("(?m-ix:^a.b)", "a\nb", true),
            ("(?i)ABC", "abc\n", true),
            ("^(?!#)x", "x\n", true),
            (r"^(\w)\1$", "aa\n", true),
            ("(?<name>a)b", "ab", true),
            ("[[:alpha:]_]+=", "a_b=\n", true),
            (r"[]x\]]", "]", true),
            (r"[^\]]", "]", false),
            (r"\$\{x\}", "${x}", true),
        ] {
            assert_eq!(compile(regex).unwrap().is_match(line).unwrap(), matches, "{regex} on {line:?}");
        }
        for regex in ["(", "[a", "a**(", "*"] {
            assert!(compile(regex).is_err(), "{regex}");
        }
    }
}
