//! A text as lines, some of which are records: what is not changed stays as it is, byte for byte.

/// One line, with its line feed if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<R> {
    bytes: Vec<u8>,
    record: Option<R>,
}

/// All lines of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines<R> {
    lines: Vec<Line<R>>,
}

impl<R> Lines<R> {
    /// Splits a text into lines; `parse` gets each without its line feed, and says what record it is, if it is one. Lines that
    /// are no UTF-8 are none.
    pub(super) fn parse(text: &[u8], parse: impl Fn(&str) -> Option<R>) -> Self {
        let line = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes.strip_suffix(b"\n").unwrap_or(bytes)).ok();
            Line { bytes: bytes.to_vec(), record: text.and_then(&parse) }
        };
        Self { lines: text.split_inclusive(|&byte| byte == b'\n').map(line).collect() }
    }

    /// Returns the records with their places, first to last.
    pub(super) fn records(&self) -> impl DoubleEndedIterator<Item = (usize, &R)> {
        self.lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.record.as_ref()?)))
    }

    /// Puts a line in place of another.
    pub(super) fn replace(&mut self, at: usize, text: &str) {
        if let Some(line) = self.lines.get_mut(at) {
            let ending: &[u8] = if line.bytes.ends_with(b"\n") { b"\n" } else { b"" };
            line.bytes = [text.as_bytes(), ending].concat();
            line.record = None;
        }
    }

    /// Adds a line at the end.
    pub(super) fn push(&mut self, text: &str) {
        if let Some(last) = self.lines.last_mut().filter(|last| !last.bytes.ends_with(b"\n")) {
            last.bytes.push(b'\n');
        }
        self.lines.push(Line { bytes: format!("{text}\n").into_bytes(), record: None });
    }

    /// Removes a line.
    pub(super) fn remove(&mut self, at: usize) {
        if at < self.lines.len() {
            self.lines.remove(at);
        }
    }

    /// Returns the text.
    pub(super) fn print(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.bytes.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(text: &[u8]) -> Lines<u32> {
        Lines::parse(text, |line| line.parse().ok())
    }

    #[test]
    fn lines_are_changed_one_by_one() {
        let mut lines = numbers(b"# c\r\n1\nx\n2");
        assert_eq!(lines.records().map(|(at, number)| (at, *number)).collect::<Vec<_>>(), [(1, 1), (3, 2)]);
        lines.replace(1, "one");
        lines.replace(3, "two");
        assert_eq!(lines.print(), b"# c\r\none\nx\ntwo");
        lines.push("3");
        lines.remove(1);
        assert_eq!(lines.print(), b"# c\r\nx\ntwo\n3\n");
    }

    proptest! {
        #[test]
        fn what_is_not_touched_stays(text in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'1'), any::<u8>()], 0..200)) {
            prop_assert_eq!(numbers(&text).print(), text);
        }

        #[test]
        fn a_change_touches_one_line(text in "([0-9a-z\r]{0,3}\n){1,10}", at in 0usize..10) {
            let mut lines = numbers(text.as_bytes());
            lines.replace(at, "new");
            let after = String::from_utf8(lines.print()).unwrap();
            for (number, (old, new)) in text.split('\n').zip(after.split('\n')).enumerate() {
                let is_changed = number == at && number < text.split_inclusive('\n').count();
                prop_assert_eq!(new, if is_changed { "new" } else { old });
            }
        }
    }
}
