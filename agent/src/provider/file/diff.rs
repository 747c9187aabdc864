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
    use super::*;

    #[test]
    fn text() {
        let diff = unified("/etc/motd", b"a\nb\nc\n", b"a\nB\nc\n");
        assert_eq!(diff, "--- /etc/motd\n+++ /etc/motd\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
    }

    #[test]
    fn binary_is_only_named() {
        for (old, new) in [(&b"a\0"[..], &b"b"[..]), (b"a", b"\xff\xfe"), (b"", b"\0")] {
            assert_eq!(unified("/x", old, new), "binary contents of /x differ\n");
        }
        assert!(too_long("/x", 10).contains("10 bytes"));
    }
}
