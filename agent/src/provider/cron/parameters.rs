//! The parameters of a `Cron` resource.

use direct_puppet_transport::protocol::Resource;

use super::crontab::Time;
use super::table::Job;
use crate::provider::ProviderError;
use crate::provider::difference::{Differences, Shown};
use crate::provider::file::read;
use crate::provider::record::Ensure;

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "command",
    "special",
    "minute",
    "hour",
    "weekday",
    "month",
    "monthday",
    "environment",
    "user",
    "target",
    "provider",
];

const SPECIALS: &[&str] = &["reboot", "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];

const WEEKDAYS: &[&str] = &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
/// With something in front: months are counted from 1.
const MONTHS: &[&str] = &[
    "",
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// A field of the time.
struct Field {
    name: &'static str,
    /// Where it is in a line.
    place: usize,
    lowest: u32,
    highest: u32,
    names: &'static [&'static str],
}

/// The fields, in the order in which Puppet compares them.
const FIELDS: [Field; 5] = [
    Field { name: "minute", place: 0, lowest: 0, highest: 59, names: &[] },
    Field { name: "hour", place: 1, lowest: 0, highest: 23, names: &[] },
    Field { name: "weekday", place: 4, lowest: 0, highest: 7, names: WEEKDAYS },
    Field { name: "month", place: 3, lowest: 1, highest: 12, names: MONTHS },
    Field { name: "monthday", place: 2, lowest: 1, highest: 31, names: &[] },
];

/// A property that may be taken away.
type Managed<T> = Option<Option<T>>;

/// All parameters of one resource.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    pub(super) ensure: Ensure,
    pub(super) name: String,
    command: Option<String>,
    special: Managed<String>,
    /// By place in the line.
    fields: [Managed<Vec<String>>; 5],
    environment: Option<Vec<String>>,
    /// Whose crontab it is; the user that the process runs as if `None`.
    pub(super) owner: Option<String>,
}

impl Field {
    fn read(&self, resource: &Resource) -> Result<Managed<Vec<String>>, ProviderError> {
        let Some(values) = read::texts(resource, self.name)? else { return Ok(None) };
        let values = values.iter().map(|value| self.value(resource, value)).collect::<Result<Vec<_>, _>>()?;
        // As in Puppet, the first value says whether there shall be any.
        Ok(match values.first() {
            None | Some(None) => Some(None),
            Some(Some(_)) => Some(Some(values.into_iter().flatten().collect())),
        })
    }

    /// Reads one value; `None` for any.
    fn value(&self, resource: &Resource, text: &str) -> Result<Option<String>, ProviderError> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_range = |text: &str| text.split_once('-').is_some_and(|(from, to)| is_number(from) && is_number(to));
        let is_stepped =
            |text: &str| text.split_once('/').is_some_and(|(range, step)| is_number(step) && (range == "*" || is_range(range)));
        if matches!(text, "absent" | "*") {
            return Ok(None);
        }
        if is_range(text) || is_stepped(text) {
            return Ok(Some(text.to_owned()));
        }
        let fail = || read::fail(resource, self.name, format!("{text} is not a valid {}", self.name));
        if is_number(text) {
            let is_inside = text.parse().is_ok_and(|number: u32| (self.lowest..=self.highest).contains(&number));
            return if is_inside { Ok(Some(text.to_owned())) } else { Err(fail()) };
        }
        let text = text.to_lowercase();
        let is_named = |name: &str| !name.is_empty() && (name == text || (text.len() == 3 && name.starts_with(&text)));
        self.names.iter().position(|name| is_named(name)).map(|number| Some(number.to_string())).ok_or_else(fail)
    }
}

fn special(resource: &Resource) -> Result<Managed<String>, ProviderError> {
    match read::string(resource, "special")? {
        None => Ok(None),
        Some("absent") => Ok(Some(None)),
        Some(word) if SPECIALS.contains(&word) => Ok(Some(Some(word.to_owned()))),
        Some(_) => Err(read::fail(resource, "special", format!("must be one of {}, absent", SPECIALS.join(", ")))),
    }
}

fn environment(resource: &Resource) -> Result<Option<Vec<String>>, ProviderError> {
    let Some(settings) = read::texts(resource, "environment")? else { return Ok(None) };
    let settings: Vec<String> = settings.into_iter().filter(|setting| setting != "absent").collect();
    let is_valid = |setting: &String| {
        let name = setting.split_once('=').map(|(name, _)| name.trim());
        let is_word = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        !setting.contains('\n') && name.is_some_and(is_word)
    };
    match settings.iter().find(|setting| !is_valid(setting)) {
        None => Ok(Some(settings)),
        Some(_) => Err(read::fail(resource, "environment", "must be a list of NAME=value, or absent")),
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let command = read::text(resource, "command")?.map(|command| command.trim().to_owned());
        let command = command.filter(|command| command != "absent");
        if command.as_deref().is_some_and(|command| command.is_empty() || command.contains('\n')) {
            return Err(read::fail(resource, "command", "must be a single line that is not empty"));
        }
        let special = special(resource)?;
        let mut fields: [Managed<Vec<String>>; 5] = Default::default();
        for field in FIELDS {
            let value = field.read(resource)?;
            if matches!((&special, &value), (Some(Some(_)), Some(Some(_)))) {
                let reason = "cannot be given together with a special schedule";
                return Err(read::fail(resource, field.name, reason));
            }
            fields[field.place] = value;
        }
        let name = read::name(resource)?;
        if name.contains('\n') || name.is_empty() {
            return Err(read::fail(resource, "name", "must be a single line that is not empty"));
        }
        let (user, target) = (read::string(resource, "user")?, read::string(resource, "target")?);
        if user.is_some() && target.is_some() && user != target {
            return Err(read::fail(resource, "target", "must be the same as user: it says whose crontab it is"));
        }
        let owner = target.or(user).map(str::to_owned);
        if owner.as_deref().is_some_and(|owner| owner.is_empty() || owner.starts_with('-') || owner.contains(['\n', '\0', '/'])) {
            return Err(read::fail(resource, "user", "must be the name of a user"));
        }
        let (ensure, environment) = (Ensure::read(resource)?, environment(resource)?);
        Ok(Self { ensure, name, command, special, fields, environment, owner })
    }

    /// Returns whether a job without a name is the one that is meant: the same command, and the same times as far as they are
    /// given.
    pub(super) fn is_like(&self, job: &Job) -> bool {
        let (special, fields) = split(&job.time);
        self.command.as_ref() == Some(&job.command)
            && self.special.as_ref().is_none_or(|wanted| *wanted == special)
            && self.fields.iter().zip(&fields).all(|(wanted, field)| wanted.as_ref().is_none_or(|wanted| wanted == field))
    }

    /// Returns the job of a resource that has none yet.
    pub(super) fn create(&self) -> Result<Job, String> {
        let command = self.command.clone().ok_or("no command specified, cannot create")?;
        let environment = self.environment.clone().unwrap_or_default();
        let time = self.time((None, Default::default()));
        Ok(Job::new(self.name.clone(), environment, time, command))
    }

    /// Returns the time of a job that had another. Who names a minute means no word like `daily`, whatever the job had.
    fn time(&self, (special, mut fields): (Option<String>, [Option<Vec<String>>; 5])) -> Time {
        let special = special.filter(|_| !self.fields.iter().any(|wanted| matches!(wanted, Some(Some(_)))));
        if let Some(word) = self.special.clone().unwrap_or(special) {
            return Time::Special(word);
        }
        for (field, wanted) in fields.iter_mut().zip(&self.fields) {
            if let Some(wanted) = wanted {
                field.clone_from(wanted);
            }
        }
        Time::Fields(fields)
    }

    /// Gives a job the properties of the resource. A job that nobody has named gets no name, as in Puppet, but for settings:
    /// they belong to a job by its name.
    pub(super) fn update(&self, job: &mut Job) {
        if let Some(command) = &self.command {
            job.command.clone_from(command);
        }
        job.time = self.time(split(&job.time));
        if let Some(environment) = self.environment.as_ref().filter(|wanted| !is_same(wanted, &job.environment)) {
            job.environment.clone_from(environment);
            job.name.get_or_insert_with(|| self.name.clone());
        }
    }

    /// Adds the properties of a job that differ.
    pub(super) fn compare(&self, job: &Job, found: &mut Differences<'_>) {
        let (special, fields) = split(&job.time);
        found.compare("command", &Shown::Text(job.command.clone()), self.command.clone().map(Shown::Text).as_ref());
        found.compare("special", &Shown::text(special), self.special.clone().map(Shown::text).as_ref());
        for Field { name, place, .. } in FIELDS {
            let shown = |values: Option<Vec<String>>| values.map_or(Shown::Absent, Shown::List);
            found.compare(name, &shown(fields[place].clone()), self.fields[place].clone().map(shown).as_ref());
        }
        if let Some(wanted) = self.environment.as_ref().filter(|wanted| !is_same(wanted, &job.environment)) {
            let desired = if wanted.is_empty() { Shown::Bare("absent".to_owned()) } else { Shown::Bare(wanted.join(",")) };
            let current = if job.environment.is_empty() { Shown::Absent } else { Shown::List(job.environment.clone()) };
            found.add("environment", &current, &desired);
        }
    }
}

/// Returns the word, or the fields, that make a time.
fn split(time: &Time) -> (Option<String>, [Option<Vec<String>>; 5]) {
    match time {
        Time::Special(word) => (Some(word.clone()), Default::default()),
        Time::Fields(fields) => (None, fields.clone()),
    }
}

/// Returns whether two lists of settings have the same members.
fn is_same(a: &[String], b: &[String]) -> bool {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    sorted(a) == sorted(b)
}
