//! Times as Puppet's reports have them.

/// Reads ISO 8601, as `2026-11-22T12:45:52.233219295+00:00`, to nanoseconds since 1970 UTC. `None` when it is none, or too far away.
pub(super) fn unix_nanos(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let at = |index: usize, wanted: &[u8]| bytes.get(index).is_some_and(|byte| wanted.contains(byte));
    if !(at(4, b"-") && at(7, b"-") && at(10, b"T ") && at(13, b":") && at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone.trim())?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Seconds that a zone is before UTC; none is UTC.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z" | "UTC") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = zone.chars().skip(1).filter(|c| *c != ':').collect();
    let is_it = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = is_it.then(|| digits.split_at(2))?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days from 1970-01-01; years are counted from 1 March, so that the day that is left out comes last.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use direct_puppet_agent::puppet_report::iso8601;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_spellings() {
        let utc = unix_nanos("2026-11-22T12:45:52.233219295+00:00").unwrap();
        assert_eq!(utc, 1_795_351_552_233_219_295);
        assert_eq!(unix_nanos("2026-11-22T13:45:52.233219295+01:00"), Some(utc));
        assert_eq!(unix_nanos("2026-11-22 07:45:52.233219295 -0500"), Some(utc));
        assert_eq!(unix_nanos("2026-11-22T12:45:52Z"), Some(utc - 233_219_295));
        for bad in [
            "",
            "now",
            "2026-11-22",
            "2026-13-22T12:45:52Z",
            "2026-11-22T12:45:52+x",
            "2026-11-22T12:45:5é",
            "2026-11-22T12:45:52.Z5",
        ] {
            assert_eq!(unix_nanos(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(nanos in 0_i64..i64::MAX) {
            prop_assert_eq!(unix_nanos(&iso8601(nanos)), Some(nanos));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _read = unix_nanos(&text);
        }
    }
}
