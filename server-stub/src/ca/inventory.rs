//! `inventory.txt`: one line for each certificate that was ever issued.

use direct_puppet_transport::protocol::Certname;
use time::OffsetDateTime;

use super::date;

/// A line: `0x002f 2026-01-01T00:00:00UTC 2031-01-01T00:00:00UTC /CN=name`, as Puppet writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) serial: u64,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) name: String,
}

impl Line {
    /// Reads a line; `None` for one that is none, as a torn one.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(4, ' ');
        let serial = u64::from_str_radix(parts.next()?.strip_prefix("0x")?, 16).ok()?;
        let (not_before, not_after) = (date::parse(parts.next()?)?, date::parse(parts.next()?)?);
        let name = parts.next()?.trim_end().strip_prefix("/CN=")?.to_owned();
        Some(Self { serial, not_before, not_after, name })
    }

    /// Returns the line, with its end.
    pub(super) fn text(&self) -> String {
        format!("0x{:04x} {} {} /CN={}\n", self.serial, date::text(self.not_before), date::text(self.not_after), self.name)
    }
}

/// Returns the serial numbers of a name whose certificates are still valid at `now`.
pub(super) fn valid_serials(inventory: &str, name: &Certname, now: OffsetDateTime) -> Vec<u64> {
    let lines = inventory.lines().filter_map(Line::parse);
    lines.filter(|line| line.name == name.as_str() && line.not_after > now).map(|line| line.serial).collect()
}

/// Returns the greatest serial number in the inventory.
pub(super) fn last_serial(inventory: &str) -> Option<u64> {
    inventory.lines().filter_map(Line::parse).map(|line| line.serial).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn puppets_lines_are_read_and_written_alike() {
        let text = "0x002f 2026-01-01T00:00:00UTC 2031-01-01T23:59:59UTC /CN=n1.example.com\n";
        let line = Line::parse(text).unwrap();
        assert_eq!((line.serial, line.name.as_str(), line.not_after), (47, "n1.example.com", datetime!(2031-01-01 23:59:59 UTC)));
        assert_eq!(line.text(), text);
        // Of Puppet Server before 6, in capitals.
        assert_eq!(Line::parse("0x00AF 2026-01-01T00:00:00UTC 2031-01-01T23:59:59UTC /CN=n").unwrap().serial, 0xaf);
        for torn in ["", "0x", "0x1 2026", "1 2026-01-01T00:00:00UTC 2031-01-01T00:00:00UTC /CN=n", "# comment"] {
            assert_eq!(Line::parse(torn), None, "{torn}");
        }
    }

    #[test]
    fn serials_of_a_name_are_those_of_exactly_it_that_are_still_valid() {
        let line = |serial, name: &str, year: i32| Line {
            serial,
            not_before: datetime!(2020-01-01 0:00 UTC),
            not_after: datetime!(2020-01-01 0:00 UTC).replace_year(year).unwrap(),
            name: name.to_owned(),
        };
        let lines = [line(2, "a", 2021), line(3, "a", 2031), line(4, "aa", 2031), line(5, "a", 2032)];
        let text: String = lines.iter().map(Line::text).collect();
        assert_eq!(valid_serials(&text, &"a".parse().unwrap(), datetime!(2025-01-01 0:00 UTC)), [3, 5]);
        assert_eq!((last_serial(&text), last_serial("")), (Some(5), None));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_passed_over(text in ".*") {
            let _read = Line::parse(&text);
        }

        #[test]
        fn what_was_written_is_read(serial: u64, from in 0_i64..4_000_000_000, to in 0_i64..4_000_000_000, name in "[a-z0-9._-]{1,40}") {
            let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let line = Line { serial, not_before: at(from), not_after: at(to), name };
            prop_assert_eq!(Line::parse(&line.text()), Some(line.clone()));
        }
    }
}
