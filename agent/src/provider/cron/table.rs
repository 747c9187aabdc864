//! A crontab: its jobs, each with its name and settings, among lines of others that stay as they are.

use std::collections::HashMap;
use std::sync::Arc;

use direct_puppet_transport::protocol::{Resource, Value};

use super::crontab::{self, LineKind, Time};
use super::parameters::Parameters;
use crate::provider::instances::texts;

/// The fields of a time, in their order.
const FIELDS: [&str; 5] = ["minute", "hour", "monthday", "month", "weekday"];

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// `None` for one that nobody has named.
    pub(super) name: Option<String>,
    pub(super) environment: Vec<String>,
    pub(super) time: Time,
    pub(super) command: String,
    /// Its line.
    at: usize,
    /// The lines of its name and settings.
    before: Vec<usize>,
}

impl Job {
    /// Returns a job that is in no crontab yet.
    pub(super) const fn new(name: String, environment: Vec<String>, time: Time, command: String) -> Self {
        Self { name: Some(name), environment, time, command, at: usize::MAX, before: Vec::new() }
    }
}

impl Job {
    /// Returns the name of a job, that of one without a name made of its command and its number among those without.
    pub(super) fn title(&self, number: usize) -> String {
        let command = || self.command.split_whitespace().collect::<Vec<_>>().join("_");
        self.name.clone().unwrap_or_else(|| format!("unmanaged:{}-{number}", command()))
    }

    /// Returns the job of a crontab as a resource, named as [`Job::absent`] names it.
    pub(super) fn describe(&self, owner: &str, number: usize) -> Resource {
        let mut resource = Resource::new("Cron", &self.title(number))
            .with("ensure", "present")
            .with("command", self.command.as_str())
            .with("environment", texts(&self.environment))
            .with("provider", "crontab")
            .with("target", owner)
            .with("user", owner);
        match &self.time {
            Time::Special(word) => resource = resource.with("special", word.as_str()),
            Time::Fields(fields) => {
                for (name, field) in FIELDS.into_iter().zip(fields) {
                    resource = resource.with(name, texts(field.as_deref().unwrap_or_default()));
                }
            }
        }
        resource
    }

    /// Returns a resource that takes the job away. One without a name gets one, of its command and its number among those
    /// without, and is found by its command and times.
    pub(super) fn absent(&self, owner: &str, number: usize) -> Resource {
        if let Some(name) = &self.name {
            return Resource::new("Cron", name.as_str()).with("user", owner).with("ensure", "absent");
        }
        let resource = Resource::new("Cron", &self.title(number));
        let mut resource = resource.with("user", owner).with("ensure", "absent").with("command", self.command.as_str());
        match &self.time {
            Time::Special(word) => resource = resource.with("special", word.as_str()),
            Time::Fields(fields) => {
                for (name, field) in FIELDS.into_iter().zip(fields) {
                    let values = field.clone().unwrap_or_else(|| vec!["absent".to_owned()]);
                    resource = resource.with(name, values.into_iter().map(Value::from).collect::<Vec<_>>());
                }
            }
        }
        resource
    }
}

/// The jobs without a name that resources have, by the name of the resource.
pub(super) type Assigned = HashMap<String, Option<Job>>;

/// A crontab.
#[derive(Debug)]
pub(super) struct Table {
    /// Each with its line feed, if it has one.
    lines: Vec<Vec<u8>>,
    jobs: Vec<Job>,
}

/// What has been read of the next job.
#[derive(Debug, Default)]
struct Next {
    name: Option<String>,
    before: Vec<usize>,
    environment: Vec<String>,
}

impl Table {
    pub(super) fn parse(text: &[u8]) -> Self {
        let lines: Vec<Vec<u8>> = text.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        let mut jobs = Vec::new();
        let mut next = Next::default();
        for (at, line) in lines.iter().enumerate() {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let Ok(line) = std::str::from_utf8(line) else { continue };
            match crontab::classify(line) {
                // A name without a job before this one: the comment of somebody else.
                LineKind::Name(name) => next = Next { name: Some(name), before: vec![at], environment: Vec::new() },
                LineKind::Setting if next.name.is_some() => {
                    next.before.push(at);
                    next.environment.push(line.to_owned());
                }
                LineKind::Job(time, command) => {
                    let Next { name, before, environment } = std::mem::take(&mut next);
                    jobs.push(Job { name, environment, time, command, at, before });
                }
                LineKind::Setting | LineKind::Other => {}
            }
        }
        Self { lines, jobs }
    }

    /// Returns which resource each job without a name goes to, by the resource's name: the first of the catalog that fits and has none yet, as in
    /// Puppet's `match_providers_with_resources`. `all` want something of this crontab, in the order of the catalog.
    pub(super) fn assign(&self, all: &[Parameters]) -> Assigned {
        let mut free: Vec<&Parameters> = all.iter().collect();
        let mut assigned: Assigned = all.iter().map(|parameters| (parameters.name.clone(), None)).collect();
        for job in self.jobs.iter().filter(|job| job.name.is_none()) {
            if let Some(at) = free.iter().position(|parameters| parameters.is_like(job)) {
                assigned.insert(free.remove(at).name.clone(), Some(job.clone()));
            }
        }
        assigned
    }

    /// Returns the job of a resource: the last that has its name, else the one without a name that it was assigned; what is no resource of the
    /// catalog, as what is purged, has the first without a name that fits.
    pub(super) fn find(&self, parameters: &Parameters, assigned: impl FnOnce() -> Arc<Assigned>) -> Option<&Job> {
        let is_named = |job: &&Job| job.name.as_deref() == Some(&parameters.name);
        if let Some(named) = self.jobs.iter().rfind(is_named) {
            return Some(named);
        }
        let mut unnamed = self.jobs.iter().filter(|job| job.name.is_none());
        match assigned().get(&parameters.name) {
            // It is another line, after others have gone.
            Some(Some(own)) => unnamed.find(|job| (&job.time, &job.command) == (&own.time, &own.command)),
            Some(None) => None,
            None => unnamed.find(|job| parameters.is_like(job)),
        }
    }

    /// Returns all jobs, in order.
    pub(super) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// Adds a job at the end.
    pub(super) fn add(&mut self, job: &Job) {
        if let Some(last) = self.lines.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        let name = job.name.as_deref().map(crontab::print_name);
        let lines = name.into_iter().chain(job.environment.iter().cloned()).chain([crontab::print(&job.time, &job.command)]);
        self.lines.extend(lines.map(|line| format!("{line}\n").into_bytes()));
    }

    /// Removes a job with its name and settings.
    pub(super) fn remove(&mut self, job: &Job) {
        let mut gone: Vec<usize> = job.before.iter().copied().chain([job.at]).collect();
        gone.sort_unstable();
        gone.into_iter().rev().for_each(|at| drop(self.lines.remove(at)));
    }

    /// Puts a changed job in the place of what it was.
    pub(super) fn change(&mut self, job: &Job, changed: &Job) {
        let ending: &[u8] = if self.lines[job.at].ends_with(b"\n") { b"\n" } else { b"" };
        if (&job.time, &job.command) != (&changed.time, &changed.command) {
            self.lines[job.at] = [crontab::print(&changed.time, &changed.command).as_bytes(), ending].concat();
        }
        if job.environment != changed.environment {
            // Settings belong to a job by its name.
            let name = changed.name.as_deref().filter(|_| job.name.is_none()).map(crontab::print_name);
            let settings = name.into_iter().chain(changed.environment.iter().cloned());
            let settings = settings.map(|line| format!("{line}\n").into_bytes());
            self.lines.splice(job.at..job.at, settings.collect::<Vec<_>>());
            // The name stays; a job without one has no settings of its own.
            job.before.iter().skip(1).rev().for_each(|&at| drop(self.lines.remove(at)));
        }
    }

    pub(super) fn print(&self) -> Vec<u8> {
        self.lines.concat()
    }
}
