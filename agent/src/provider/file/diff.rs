//! What a change of content looks like.

use std::time::Duration;

use similar::{Algorithm, TextDiff};

/// How long is looked for the smallest difference before a larger one will do.
const TIME_LIMIT: Duration = Duration::from_millis(500);

/// Lines around each difference: what `diff -u` shows.
const CONTEXT_LINES: usize = 3;

/// Bytes within which a NUL makes a content binary: what git looks at.
const BINARY_PROBE_BYTES: usize = 8000;

/// Returns a unified diff of two contents, or a line that says why there is none.
pub(super) fn unified(path: &str, old: &[u8], new: &[u8]) -> String {
    let is_binary = |content: &[u8]| content[..content.len().min(BINARY_PROBE_BYTES)].contains(&0);
    let (Ok(old), Ok(new)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else { return binary(path) };
    if is_binary(old.as_bytes()) || is_binary(new.as_bytes()) {
        return binary(path);
    }
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(TIME_LIMIT).diff_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT_LINES).header(path, path).to_string()
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
        let nine = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        for (old, new, diff) in [
            ("", "a\n", "@@ -0,0 +1 @@\n+a\n"),
            ("a\n", "", "@@ -1 +0,0 @@\n-a\n"),
            ("a\nb", "a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"),
            ("a\nb", "c\nb", "@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n"),
            (nine, "1\n2\n3\n4\nX\n6\n7\n8\n9\n", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+X\n 6\n 7\n 8\n"),
            (nine, &format!("{nine}10\n"), "@@ -7,3 +7,4 @@\n 7\n 8\n 9\n+10\n"),
        ] {
            assert_eq!(unified("/x", old.as_bytes(), new.as_bytes()), format!("--- /x\n+++ /x\n{diff}"));
        }
    }

    /// Makes of the old text what a diff of it says, and looks at all numbers in it.
    fn patched(old: &str, diff: &str) -> String {
        let (mut old, mut new) = (old.split_inclusive('\n'), String::new());
        let (mut taken, mut lines) = (0, diff.split_inclusive('\n').skip(2).peekable());
        let mut wanted = (0, 0);
        while let Some(line) = lines.next() {
            let unended = lines.next_if(|next| next.starts_with('\\')).is_some();
            let text = if unended { line[1..].trim_end_matches('\n') } else { &line[1..] };
            if line.starts_with("@@") {
                assert_eq!(wanted, (0, 0), "too few lines before {line}");
                let range = |at: usize| {
                    let range = line.split(' ').nth(at).unwrap().trim_start_matches(['-', '+']);
                    let (start, count) = range.split_once(',').unwrap_or((range, "1"));
                    let (start, count): (usize, usize) = (start.parse().unwrap(), count.parse().unwrap());
                    (start - usize::from(count != 0), count)
                };
                let ((before, removed), (after, added)) = (range(1), range(2));
                new.extend(old.by_ref().take(before - taken));
                assert_eq!(new.lines().count(), after, "{line}");
                (taken, wanted) = (before, (removed, added));
                continue;
            }
            if !line.starts_with('+') {
                assert_eq!(old.next(), Some(text));
                (taken, wanted.0) = (taken + 1, wanted.0 - 1);
            }
            if !line.starts_with('-') {
                new.push_str(text);
                wanted.1 -= 1;
            }
        }
        assert_eq!(wanted, (0, 0), "too few lines at the end");
        new.extend(old);
        new
    }

    proptest! {
        #[test]
        fn it_makes_the_new_of_the_old(
            old in prop::collection::vec(0..20_u8, 0..60),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8), 0..5),
            ends in any::<[bool; 2]>(),
        ) {
            let mut new = old.clone();
            for (at, edit) in edits {
                let at = at.index(new.len() + 1);
                match edit {
                    0 => new.insert(at, 99),
                    1 if at < new.len() => drop(new.remove(at)),
                    2 if at < new.len() => new[at] = 98,
                    _ => new.truncate(at.max(new.len() / 2)),
                }
            }
            let text = |lines: &[u8], is_ended: bool| {
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                if is_ended { text } else { text.trim_end().to_owned() }
            };
            let (old, new) = (text(&old, ends[0]), text(&new, ends[1]));
            let diff = unified("/x", old.as_bytes(), new.as_bytes());
            prop_assert_eq!(patched(&old, &diff), new, "{}", diff);
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
