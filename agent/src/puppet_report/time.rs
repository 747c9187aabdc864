//! Times as reports have them.

/// Returns a time, in nanoseconds since 1970 UTC, in ISO 8601 with nine digits: `2026-11-22T12:45:52.233219295+00:00`.
#[must_use]
pub fn iso8601(unix_nanos: i64) -> String {
    const NANOS: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;
    let (seconds, nanos) = (unix_nanos.div_euclid(NANOS), unix_nanos.rem_euclid(NANOS));
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}+00:00")
}

/// Returns year, month and day of a day since 1970: years are counted from 1 March, so that the day that is left out comes last.
fn date(days: i64) -> (i64, i64, i64) {
    /// Days from 0000-03-01 to 1970-01-01.
    const EPOCH: i64 = 719_468;
    const FOUR_CENTURIES: i64 = 146_097;
    let days = days + EPOCH;
    let (era, day) = (days.div_euclid(FOUR_CENTURIES), days.rem_euclid(FOUR_CENTURIES));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + i64::from(month < 3), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000+00:00"),
            (-1, "1969-12-31T23:59:59.999999999+00:00"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000+00:00"),
            (1_795_351_552_233_219_295, "2026-11-22T12:45:52.233219295+00:00"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000+00:00"),
        ] {
            assert_eq!(iso8601(nanos), text);
        }
    }
}
