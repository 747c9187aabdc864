//! How the kernel writes paths into its tables of mounts.

/// Takes back what is done to blanks, ends of lines, backslashes and the like in fields of fstab(5), `/proc/self/mounts` and
/// `/proc/self/mountinfo`: a backslash and three octal digits stand for one byte. Anything else stays as it is.
pub(crate) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after.get(..3).filter(|_| byte == b'\\').and_then(byte_of) {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// Returns the byte of octal digits; `None` when there are others, or they say more than a byte holds.
fn byte_of(digits: &[u8]) -> Option<u8> {
    let add = |sum: u32, &digit: &u8| matches!(digit, b'0'..=b'7').then(|| sum * 8 + u32::from(digit - b'0'));
    u8::try_from(digits.iter().try_fold(0, add)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_digits_are_bytes_and_nothing_else_is() {
        for (field, plain) in [
            (&b"a\\040b"[..], &b"a b"[..]),
            (b"\\134\\011", b"\\\t"),
            (b"\\303\\251", "\u{e9}".as_bytes()),
            (b"a\\", b"a\\"),
            (b"\\04", b"\\04"),
            (b"\\9x0", b"\\9x0"),
            (b"\\777", b"\\777"),
            (b"\\+12", b"\\+12"),
            ("\\\u{e9}0".as_bytes(), "\\\u{e9}0".as_bytes()),
            (b"\\\\040", b"\\ "),
            (b"", b""),
        ] {
            assert_eq!(unescaped(field), plain, "{}", field.escape_ascii());
        }
    }
}
