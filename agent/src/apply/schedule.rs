//! When resources may be applied: the `Schedule` type of Puppet 7 (`range`, `period`, `repeat`, `periodmatch`, `weekday`).

use std::collections::HashMap;

use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, Value};

use crate::apply::parameter_error;
use crate::provider::ProviderError;

/// What a `Schedule` may have, besides metaparameters.
#[cfg(feature = "providers")]
pub(crate) const SCHEDULE_PARAMETERS: &[&str] = &["name", "range", "period", "repeat", "periodmatch", "weekday"];

const DAY_SECONDS: i64 = 86_400;

/// Names of days, with what each may be cut to, from Sunday.
const DAYS: [&[&str]; 7] = [
    &["sun", "sunday"],
    &["mon", "monday"],
    &["tue", "tues", "tueday", "tuesday"],
    &["wed", "wednes", "wedday", "wednesday"],
    &["thu", "thurs", "thuday", "thursday"],
    &["fri", "friday"],
    &["sat", "satur", "satday", "saturday"],
];

/// How often a schedule lets a resource be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Never,
}

impl Period {
    const ALL: [(&str, Self); 5] = [
        ("hourly", Self::Hourly),
        ("daily", Self::Daily),
        ("weekly", Self::Weekly),
        ("monthly", Self::Monthly),
        ("never", Self::Never),
    ];

    /// Puppet's length of each, in seconds: a month has 30 days.
    const fn seconds(self) -> i64 {
        match self {
            Self::Hourly => 3600,
            Self::Daily => DAY_SECONDS,
            Self::Weekly => 7 * DAY_SECONDS,
            Self::Monthly => 30 * DAY_SECONDS,
            Self::Never => i64::MAX,
        }
    }
}

/// Seconds since 1970 of a clock on the wall: UTC plus the offset that was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Seconds since 1970 UTC.
    pub(crate) unix: i64,
    /// Seconds east of UTC.
    pub(crate) offset: i32,
}

impl Moment {
    const fn local(self) -> i64 {
        self.unix.saturating_add(self.offset as i64)
    }

    const fn second_of_day(self) -> i64 {
        self.local().rem_euclid(DAY_SECONDS)
    }

    const fn day(self) -> i64 {
        self.local().div_euclid(DAY_SECONDS)
    }

    /// Day of the week, 0 for Sunday; 1970 began with a Thursday.
    fn weekday(self) -> usize {
        usize::try_from((self.day() + 4).rem_euclid(7)).unwrap_or_default()
    }

    /// Number of the month since the year 0: proleptic Gregorian, years from March.
    const fn month(self) -> i64 {
        let days = self.day() + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        (era * 400 + year) * 12 + (5 * of_year + 2) / 153
    }
}

/// One schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Seconds of the day, from and to.
    ranges: Vec<(i64, i64)>,
    period: Option<Period>,
    repeat: i64,
    /// Whether calendar units are compared, not distances.
    by_number: bool,
    weekdays: Option<[bool; 7]>,
}

impl Schedule {
    const fn every(period: Period, repeat: i64) -> Self {
        Self { ranges: Vec::new(), period: Some(period), repeat, by_number: false, weekdays: None }
    }

    /// Reads a `Schedule`.
    ///
    /// # Errors
    ///
    /// Names the parameter and what it may be.
    pub(crate) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        let fail = |name: &str, reason: &str| parameter_error(resource, name, reason);
        let text = |name: &str| match resource.parameter(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| fail(name, "must be a word")),
        };
        let period = match text("period")? {
            None => None,
            Some(word) => match Period::ALL.iter().find(|(name, _)| *name == word) {
                Some((_, period)) => Some(*period),
                None => return Err(fail("period", "must be one of hourly, daily, weekly, monthly, never")),
            },
        };
        let by_number = match text("periodmatch")? {
            None | Some("distance") => false,
            Some("number") => true,
            Some(_) => return Err(fail("periodmatch", "must be number or distance")),
        };
        let repeat = match resource.parameter("repeat") {
            None => 1,
            Some(Value::Integer(number)) => *number,
            Some(value) => value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default(),
        };
        if repeat < 1 {
            return Err(fail("repeat", "must be a whole number, 1 or more"));
        }
        if by_number && repeat != 1 {
            return Err(fail("repeat", "must be 1 unless periodmatch is distance"));
        }
        let list = |name: &str| resource.parameter(name).map(Value::as_list).unwrap_or_default();
        let range = |value: &Value| value.as_str().and_then(parse_range);
        let ranges: Option<Vec<_>> = list("range").iter().map(range).collect();
        let ranges =
            ranges.ok_or_else(|| fail("range", "must be two times from 0 to 23:59:59, as \"2 - 4\" or \"22:30 - 4:00\""))?;
        let weekdays = match list("weekday") {
            [] => None,
            days => {
                let mut weekdays = [false; 7];
                for day in days {
                    let day = weekday(day).ok_or_else(|| fail("weekday", "must be days, as Tuesday, Tue, or 2 (0 is Sunday)"))?;
                    weekdays[day] = true;
                }
                Some(weekdays)
            }
        };
        Ok(Self { ranges, period, repeat, by_number, weekdays })
    }

    /// Returns whether a resource that was last applied at `previous` may be applied now.
    pub(crate) fn allows(&self, previous: Option<Moment>, now: Moment) -> bool {
        let in_time = match self.ranges.as_slice() {
            [] => self.has_weekday(now.weekday()),
            ranges => ranges.iter().any(|range| self.is_within(*range, now)),
        };
        in_time && self.period.is_none_or(|period| self.is_due(period, previous, now))
    }

    fn has_weekday(&self, day: usize) -> bool {
        self.weekdays.is_none_or(|weekdays| weekdays[day])
    }

    /// The day of the week is that on which the range began.
    fn is_within(&self, (from, to): (i64, i64), now: Moment) -> bool {
        let second = now.second_of_day();
        if from < to {
            return from <= second && second <= to && self.has_weekday(now.weekday());
        }
        if second >= from { self.has_weekday(now.weekday()) } else { second <= to && self.has_weekday((now.weekday() + 6) % 7) }
    }

    fn is_due(&self, period: Period, previous: Option<Moment>, now: Moment) -> bool {
        if period == Period::Never {
            return false;
        }
        // A clock that was set back does not hold anything up.
        let Some(previous) = previous.filter(|previous| previous.unix <= now.unix) else { return true };
        if !self.by_number {
            return now.unix - previous.unix >= period.seconds() / self.repeat;
        }
        match period {
            Period::Hourly => now.local().div_euclid(3600) != previous.local().div_euclid(3600),
            Period::Daily => now.day() != previous.day(),
            Period::Monthly => now.month() != previous.month(),
            Period::Weekly | Period::Never => {
                previous.weekday() > now.weekday() || now.unix - previous.unix > Period::Weekly.seconds()
            }
        }
    }
}

/// Reads `2 - 4` or `1:30:00 - 4:30`.
fn parse_range(text: &str) -> Option<(i64, i64)> {
    let time = |text: &str| {
        let mut seconds = 0;
        let mut parts = text.trim().split(':');
        for (limit, scale) in [(24, 3600), (60, 60), (60, 1)] {
            let number: i64 = match parts.next() {
                Some(part) if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse().ok()?,
                Some(_) => return None,
                None => 0,
            };
            seconds += scale * Some(number).filter(|number| *number < limit)?;
        }
        parts.next().is_none().then_some(seconds)
    };
    let (from, to) = text.split_once('-')?;
    Some((time(from)?, time(to)?))
}

fn weekday(value: &Value) -> Option<usize> {
    match value {
        Value::Integer(day) => usize::try_from(*day).ok().filter(|day| *day < 7),
        value => {
            let text = value.as_str()?.to_ascii_lowercase();
            let named = DAYS.iter().position(|names| names.contains(&text.as_str()));
            named.or_else(|| text.parse().ok().filter(|day| *day < 7 && text.len() == 1))
        }
    }
}

/// The schedules of a catalog, and those that Puppet has of itself.
#[derive(Debug)]
pub(crate) struct Schedules {
    by_name: HashMap<String, Result<Schedule, String>>,
}

impl Schedules {
    /// Collects them. One that makes no sense fails the resources that use it.
    pub(crate) fn of(catalog: &Catalog) -> Self {
        let default = |(name, period): (&str, Period)| (name.to_owned(), Ok(Schedule::every(period, 1)));
        let mut by_name: HashMap<_, _> = Period::ALL.into_iter().map(default).collect();
        by_name.insert("puppet".to_owned(), Ok(Schedule::every(Period::Hourly, 2)));
        for resource in catalog.resources.iter().filter(|resource| resource.resource_type == "Schedule") {
            let parsed = Schedule::parse(resource).map_err(|error| error.to_string());
            let name = resource.parameter("name").and_then(Value::as_str);
            for name in name.into_iter().chain([resource.title.as_str()]) {
                by_name.insert(name.to_owned(), parsed.clone());
            }
        }
        Self { by_name }
    }

    /// Returns a schedule by name; the error says why there is none.
    pub(crate) fn find(&self, name: &str) -> Result<&Schedule, String> {
        match self.by_name.get(name) {
            Some(Ok(schedule)) => Ok(schedule),
            Some(Err(reason)) => Err(format!("its schedule cannot be used: {reason}")),
            None => Err(format!("its schedule {name:?} is not in the catalog: declare {}", schedule_ref(name))),
        }
    }
}

fn schedule_ref(name: &str) -> ResourceRef {
    ResourceRef { resource_type: "Schedule".to_owned(), title: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Resource {
        Resource::new("Schedule", "s")
    }

    fn parse(resource: &Resource) -> Schedule {
        Schedule::parse(resource).unwrap()
    }

    /// A moment of 2026: 26 November is a Thursday.
    fn at(day: i64, hour: i64, minute: i64) -> Moment {
        Moment { unix: 1_795_651_200 + ((day - 26) * 24 + hour) * 3600 + minute * 60 - 3600, offset: 3600 }
    }

    #[test]
    fn moments() {
        assert_eq!((at(26, 0, 0).weekday(), at(26, 5, 1).second_of_day()), (4, 5 * 3600 + 60));
        assert_eq!(at(26, 0, 0).month() + 1, at(31, 0, 0).month());
        let month = |unix| Moment { unix, offset: 0 }.month();
        // The last second of February 2000 and the next; the last of 1969 and the next.
        assert_eq!(month(951_868_799) + 1, month(951_868_800));
        assert_eq!(month(-1) + 1, month(0));
    }

    #[test]
    fn ranges() {
        let night = parse(&schedule().with("range", "22:30 - 4"));
        for (moment, allowed) in [(at(26, 22, 30), true), (at(26, 22, 29), false), (at(26, 4, 0), true), (at(26, 4, 1), false)] {
            assert_eq!(night.allows(None, moment), allowed, "{moment:?}");
        }
        let two = parse(&schedule().with("range", Value::Array(vec!["2 - 4".into(), "6:00:00-7:30".into()])));
        assert!(two.allows(None, at(26, 7, 30)) && two.allows(None, at(26, 2, 0)) && !two.allows(None, at(26, 5, 0)));
        // The day is that on which the range began.
        let saturday = parse(&schedule().with("range", "22:00 - 04:00").with("weekday", "Saturday"));
        assert!(saturday.allows(None, at(28, 23, 0)) && saturday.allows(None, at(29, 2, 0)));
        assert!(!saturday.allows(None, at(28, 2, 0)) && !saturday.allows(None, at(29, 23, 0)));
        let days = parse(&schedule().with("weekday", Value::Array(vec![Value::Integer(4), "Tues".into(), "0".into()])));
        assert!(days.allows(None, at(26, 1, 0)) && days.allows(None, at(24, 1, 0)) && days.allows(None, at(29, 1, 0)));
        assert!(!days.allows(None, at(25, 1, 0)));
    }

    #[test]
    fn periods() {
        let twice = parse(&schedule().with("period", "hourly").with("repeat", "2"));
        let before = Some(at(26, 10, 0));
        assert!(twice.allows(None, at(26, 10, 1)) && twice.allows(before, at(26, 10, 30)));
        assert!(!twice.allows(before, at(26, 10, 29)));
        // The clock was set back.
        assert!(twice.allows(before, at(26, 9, 50)));
        let number = |period: &str| parse(&schedule().with("period", period).with("periodmatch", "number"));
        assert!(number("hourly").allows(before, at(26, 11, 0)) && !number("hourly").allows(before, at(26, 10, 59)));
        assert!(number("hourly").allows(before, at(27, 10, 0)));
        assert!(number("daily").allows(before, at(27, 0, 0)) && !number("daily").allows(before, at(26, 23, 59)));
        assert!(number("monthly").allows(before, at(31, 0, 0)) && !number("monthly").allows(before, at(30, 23, 59)));
        assert!(number("weekly").allows(before, at(29, 0, 0)) && !number("weekly").allows(before, at(28, 0, 0)));
        assert!(!parse(&schedule().with("period", "never")).allows(None, at(26, 0, 0)));
        assert!(parse(&schedule().with("period", "monthly")).allows(before, at(56, 10, 0)));
        assert!(!parse(&schedule().with("period", "monthly")).allows(before, at(56, 9, 59)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (name, value) in [
            ("range", Value::from("2")),
            ("range", "24 - 2".into()),
            ("range", "2:60 - 3".into()),
            ("range", "2:00:00:00 - 3".into()),
            ("range", "a - b".into()),
            ("range", "2 - 3 - 4".into()),
            ("range", Value::Integer(2)),
            ("period", "yearly".into()),
            ("periodmatch", "about".into()),
            ("repeat", Value::Integer(0)),
            ("repeat", "x".into()),
            ("weekday", "Mo".into()),
            ("weekday", Value::Integer(7)),
        ] {
            let error = Schedule::parse(&schedule().with(name, value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Schedule[s]: parameter {name}: must")), "{error}");
        }
        let repeated = schedule().with("periodmatch", "number").with("repeat", 2);
        assert!(Schedule::parse(&repeated).is_err());
    }
}
