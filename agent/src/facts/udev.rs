//! What udev wrote down of block devices: `/run/udev/data`.

use std::collections::BTreeMap;

use super::tree::Tree;

/// Returns the properties of the block device whose directory in `/sys` is given.
pub(super) fn properties(tree: &Tree, sys: &str) -> BTreeMap<String, String> {
    let number = tree.line(&format!("{sys}/dev"));
    let text = number.and_then(|number| tree.read(&format!("/run/udev/data/b{number}")));
    parse(&text.unwrap_or_default())
}

/// Reads the lines `E:NAME=value`.
fn parse(text: &str) -> BTreeMap<String, String> {
    let property = |line: &str| {
        let (name, value) = line.strip_prefix("E:")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(property).collect()
}

/// Undoes the hexadecimal escapes of properties whose names end with `_ENC`, and of names of partitions.
pub(super) fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend(before.bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.extend(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend(rest.bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_escapes() {
        let properties = parse("S:disk/by-id/x\nE:ID_FS_LABEL_ENC=my\\x20disk\\xc3\\xa9\nE:EMPTY=\nE:broken\n");
        assert_eq!(unescape(&properties["ID_FS_LABEL_ENC"]), "my disk\u{e9}");
        assert_eq!((properties["EMPTY"].as_str(), properties.len()), ("", 2));
        for (value, text) in [("\\x", "\\x"), ("\\x2", "\\x2"), ("\\xzz", "\\xzz"), ("a\\x5cb", "a\\b")] {
            assert_eq!(unescape(value), text, "{value}");
        }
    }
}
