//! What a change of content looks like.

use std::fmt::{self, Write};

use imara_diff::{Algorithm, Diff, InternedInput, Interner, Token, UnifiedDiffConfig, UnifiedDiffPrinter};

/// Lines around each difference: what `diff -u` shows.
const CONTEXT_LINES: u32 = 3;

/// Bytes within which a NUL makes a content binary: what git looks at.
const BINARY_PROBE_BYTES: usize = 8000;

/// Returns a unified diff of two contents, or a line that says why there is none.
pub(super) fn unified(path: &str, old: &[u8], new: &[u8]) -> String {
    let is_binary = |content: &[u8]| content[..content.len().min(BINARY_PROBE_BYTES)].contains(&0);
    let (Ok(old), Ok(new)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else { return binary(path) };
    if is_binary(old.as_bytes()) || is_binary(new.as_bytes()) {
        return binary(path);
    }
    let lines = InternedInput::new(old, new);
    let mut diff = Diff::compute(Algorithm::Myers, &lines);
    diff.postprocess_no_heuristic(&lines);
    let mut config = UnifiedDiffConfig::default();
    config.context_len(CONTEXT_LINES);
    format!("--- {path}\n+++ {path}\n{}", diff.unified_diff(&Lines(&lines.interner), config, &lines))
}

/// Writes what differs as `diff -u` does.
struct Lines<'a>(&'a Interner<&'a str>);

impl Lines<'_> {
    fn line(&self, out: &mut impl Write, sign: char, line: Token) -> fmt::Result {
        let line = self.0[line];
        let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
        write!(out, "{sign}{line}{end}")
    }
}

impl UnifiedDiffPrinter for Lines<'_> {
    fn display_header(&self, mut out: impl Write, old: u32, new: u32, old_lines: u32, new_lines: u32) -> fmt::Result {
        // Lines are counted from 1; a range without lines is named by the line before it.
        let range = |start: u32, lines: u32| match lines {
            0 => format!("{start},0"),
            1 => (start + 1).to_string(),
            _ => format!("{},{lines}", start + 1),
        };
        writeln!(out, "@@ -{} +{} @@", range(old, old_lines), range(new, new_lines))
    }

    fn display_context_token(&self, mut out: impl Write, line: Token) -> fmt::Result {
        self.line(&mut out, ' ', line)
    }

    fn display_hunk(&self, mut out: impl Write, old: &[Token], new: &[Token]) -> fmt::Result {
        old.iter().try_for_each(|line| self.line(&mut out, '-', *line))?;
        new.iter().try_for_each(|line| self.line(&mut out, '+', *line))
    }
}

fn binary(path: &str) -> String {
    format!("binary contents of {path} differ\n")
}

/// Returns the line that stands for a diff of contents that are too long.
pub(super) fn too_long(path: &str, limit_bytes: u64) -> String {
    format!("contents of {path} differ and are not shown: longer than {limit_bytes} bytes\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text() {
        let diff = unified("/etc/motd", b"a\nb\nc\n", b"a\nB\nc\n");
        assert_eq!(diff, "--- /etc/motd\n+++ /etc/motd\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
    }

    #[test]
    fn the_end_of_a_file_and_ranges_are_written_as_by_diff() {
        for (old, new, diff) in [
            ("", "a\n", "@@ -0,0 +1 @@\n+a\n"),
            ("a\n", "", "@@ -1 +0,0 @@\n-a\n"),
            ("a\nb", "a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"),
            ("a\nb", "c\nb", "@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n"),
            ("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "@@ -7,3 +7,4 @@\n 7\n 8\n 9\n+10\n"),
        ] {
            assert_eq!(unified("/x", old.as_bytes(), new.as_bytes()), format!("--- /x\n+++ /x\n{diff}"));
        }
    }

    /// Makes of the old text what a diff of it says.
    fn patched(old: &str, diff: &str) -> String {
        let (mut old, mut new) = (old.split_inclusive('\n'), String::new());
        let (mut taken, mut lines) = (0, diff.split_inclusive('\n').skip(2).peekable());
        while let Some(line) = lines.next() {
            let unended = lines.next_if(|next| next.starts_with('\\')).is_some();
            let text = if unended { line[1..].trim_end_matches('\n') } else { &line[1..] };
            if line.starts_with("@@") {
                let range = line.split(' ').nth(1).unwrap().trim_start_matches('-');
                let (start, count) = range.split_once(',').unwrap_or((range, "1"));
                let before = start.parse::<usize>().unwrap() - usize::from(count != "0");
                new.extend(old.by_ref().take(before - taken));
                taken = before;
                continue;
            }
            if !line.starts_with('+') {
                assert_eq!(old.next(), Some(text));
                taken += 1;
            }
            if !line.starts_with('-') {
                new.push_str(text);
            }
        }
        new.extend(old);
        new
    }

    proptest! {
        #[test]
        fn it_makes_the_new_of_the_old(
            old in prop::collection::vec(0..6_u8, 0..60), new in prop::collection::vec(0..6_u8, 0..60), ends in any::<[bool; 2]>(),
        ) {
            let text = |lines: &[u8], is_ended: bool| {
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                if is_ended { text } else { text.trim_end().to_owned() }
            };
            let (old, new) = (text(&old, ends[0]), text(&new, ends[1]));
            prop_assert_eq!(patched(&old, &unified("/x", old.as_bytes(), new.as_bytes())), new);
        }
    }

    #[test]
    fn binary_is_only_named() {
        for (old, new) in [(&b"a\0"[..], &b"b"[..]), (b"a", b"\xff\xfe"), (b"", b"\0")] {
            assert_eq!(unified("/x", old, new), "binary contents of /x differ\n");
        }
        assert!(too_long("/x", 10).contains("10 bytes"));
    }
}
