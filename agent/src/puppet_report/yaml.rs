//! YAML in block style, as Ruby's writer makes it: a way for `serde_json` to lay out what it serialises.

use std::io::{self, Write};
use std::mem;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CharEscape, Formatter};

/// The longest key that may stand before its colon; longer ones stand after a question mark. YAML's limit is 1024 bytes.
const MAX_PLAIN_KEY: usize = 128;

/// Writes a value below what stands on the line so far.
pub(crate) fn write(value: &impl Serialize, to: &mut impl Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *to, Block::default())).map_err(io::Error::from)?;
    to.write_all(b"\n")
}

/// A mapping or a list that is being written.
struct Frame {
    is_list: bool,
    is_empty: bool,
}

/// Lays out mappings and lists on lines of their own.
#[derive(Default)]
struct Block {
    frames: Vec<Frame>,
    /// Text that is being collected, already escaped.
    text: String,
    is_key: bool,
    /// The collection stands in a list: its first entry is on the line of the dash.
    is_after_dash: bool,
}

impl Block {
    /// Begins the line of an entry.
    fn begin_line(&mut self, to: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if let Some(frame) = self.frames.last_mut() {
            frame.is_empty = false;
        }
        if mem::take(&mut self.is_after_dash) {
            return Ok(());
        }
        to.write_all(b"\n")?;
        // Lists stand as far left as what they belong to; a list in a list, one step further.
        let depth: usize =
            self.frames.iter().skip(1).zip(&self.frames).map(|(inner, outer)| usize::from(!inner.is_list || outer.is_list)).sum();
        const SPACES: &[u8] = &[b' '; 32];
        match SPACES.get(..2 * depth) {
            Some(spaces) => to.write_all(spaces),
            None => (0..depth).try_for_each(|_| to.write_all(b"  ")),
        }
    }

    fn begin(&mut self, is_list: bool) {
        self.frames.push(Frame { is_list, is_empty: true });
    }

    fn end(&mut self, to: &mut (impl Write + ?Sized), empty: &[u8]) -> io::Result<()> {
        match self.frames.pop() {
            Some(Frame { is_empty: true, .. }) => {
                let space: &[u8] = if mem::take(&mut self.is_after_dash) { b"" } else { b" " };
                to.write_all(space)?;
                to.write_all(empty)
            }
            _ => Ok(()),
        }
    }

    /// Goes to where a value stands on its line.
    fn begin_scalar(&mut self, to: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if mem::take(&mut self.is_after_dash) { Ok(()) } else { to.write_all(b" ") }
    }

    fn scalar(&mut self, to: &mut (impl Write + ?Sized), text: &[u8]) -> io::Result<()> {
        self.begin_scalar(to)?;
        to.write_all(text)
    }
}

/// Whether text needs no quotes: a word that YAML takes for nothing else.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether YAML allows a character only escaped; JSON allows more.
fn needs_escape(letter: char) -> bool {
    matches!(letter, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

impl Formatter for Block {
    fn begin_string<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.text.clear();
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, _: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() && !fragment.contains('\u{7f}') {
            // Nearly all is.
            self.text.push_str(fragment);
            return Ok(());
        }
        for letter in fragment.chars() {
            match needs_escape(letter) {
                true => self.text.push_str(&format!("\\u{:04X}", u32::from(letter))),
                false => self.text.push(letter),
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, _: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Quote => self.text.push_str("\\\""),
            CharEscape::ReverseSolidus => self.text.push_str("\\\\"),
            CharEscape::Solidus => self.text.push('/'),
            CharEscape::Backspace => self.text.push_str("\\b"),
            CharEscape::FormFeed => self.text.push_str("\\f"),
            CharEscape::LineFeed => self.text.push_str("\\n"),
            CharEscape::CarriageReturn => self.text.push_str("\\r"),
            CharEscape::Tab => self.text.push_str("\\t"),
            CharEscape::AsciiControl(byte) => self.text.push_str(&format!("\\x{byte:02X}")),
        }
        Ok(())
    }

    fn end_string<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        if !is_plain(&self.text) {
            self.text.insert(0, '"');
            self.text.push('"');
        }
        match (self.is_key, self.text.len() > MAX_PLAIN_KEY) {
            (false, _) => {
                self.begin_scalar(to)?;
                to.write_all(self.text.as_bytes())
            }
            (true, false) => to.write_all(self.text.as_bytes()),
            (true, true) => {
                to.write_all(b"? ")?;
                to.write_all(self.text.as_bytes())?;
                self.begin_line(to)
            }
        }
    }

    fn begin_object<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.begin(false);
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"{}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, _: bool) -> io::Result<()> {
        self.is_key = true;
        self.begin_line(to)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.is_key = false;
        to.write_all(b":")
    }

    fn begin_array<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.begin(true);
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.end(to, b"[]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, _: bool) -> io::Result<()> {
        self.begin_line(to)?;
        self.is_after_dash = true;
        to.write_all(b"- ")
    }

    fn write_null<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.scalar(to, b"null")
    }

    fn write_bool<W: ?Sized + Write>(&mut self, to: &mut W, value: bool) -> io::Result<()> {
        self.scalar(to, if value { b"true" } else { b"false" })
    }

    fn write_i64<W: ?Sized + Write>(&mut self, to: &mut W, value: i64) -> io::Result<()> {
        self.begin_scalar(to)?;
        write!(to, "{value}")
    }

    fn write_u64<W: ?Sized + Write>(&mut self, to: &mut W, value: u64) -> io::Result<()> {
        self.begin_scalar(to)?;
        write!(to, "{value}")
    }

    fn write_u32<W: ?Sized + Write>(&mut self, to: &mut W, value: u32) -> io::Result<()> {
        self.begin_scalar(to)?;
        write!(to, "{value}")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        self.begin_scalar(to)?;
        let text = format!("{value:?}");
        // Ruby's reader takes for a number only what has a point, and a sign before the exponent.
        match text.split_once('e') {
            Some((number, exponent)) => {
                let point = if number.contains('.') { "" } else { ".0" };
                let exponent: i32 = exponent.parse().map_err(io::Error::other)?;
                write!(to, "{number}{point}e{exponent:+03}")
            }
            None => to.write_all(text.as_bytes()),
        }
    }
}
