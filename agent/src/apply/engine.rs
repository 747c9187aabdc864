//! Going through the order: check, decide, apply, refresh.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::Resource;
use direct_puppet_transport::protocol::report::{Event, EventStatus, Log, ResourceStatus};
use serde::{Deserialize, Serialize};

use super::ahead::Ahead;
use super::audit::Audit;
use super::events::refresh_event;
use super::graph::{Graph, Node};
use super::limit::limited;
use super::metaparameters::Metaparameters;
use super::places::Places;
use super::prior::{Left, LeftValues, Prior};
use super::reasons::Reasons;
use super::schedule::{Moment, Schedules};
use super::statuses::{Statuses, status_of};
use crate::event::EventSink;
use crate::line_listener::LineListener;
use crate::outcome::ResourceCounters;
use crate::provider::{Applied, Change, Checked, Context, Provider, ProviderError, Providers};
use crate::puppet_report::FAILED_REFRESH;
use crate::system::{System, unix_nanos};
use crate::tree::Witnesses;

/// Why resources after one that failed are passed over, and Puppet's words for it.
const DEPENDENCY_FAILED: (&str, &str) = ("a dependency failed", "Skipping because of failed dependencies");

/// Why resources are passed over at the end of a run that was cancelled, and the words for it.
const CANCELLED: (&str, &str) = ("the run was cancelled", "skipped because the run was cancelled");

/// What runs remember of resources, by reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// When those with a schedule were last checked, in seconds since 1970 UTC.
    pub(crate) checked: BTreeMap<String, i64>,
    /// What audited properties held.
    #[serde(default)]
    pub(crate) audited: BTreeMap<String, BTreeMap<String, String>>,
}

/// What to apply, and how.
#[derive(Debug, Default)]
pub(crate) struct EngineOptions {
    /// Change nothing.
    pub(crate) noop: bool,
    /// Only resources with one of these tags; all if empty.
    pub(crate) tags: Vec<String>,
    /// No resource with one of these tags.
    pub(crate) skip_tags: Vec<String>,
    /// How long each step of a resource may take.
    pub(crate) resource_time_limit: Option<Duration>,
}

/// One pass over a catalog.
pub(crate) struct Engine<'a> {
    pub(crate) graph: &'a Graph,
    /// By index, resources that cannot be managed, and why.
    pub(crate) refused: &'a HashMap<usize, String, FastState>,
    /// By index, what resources and their containers say.
    pub(crate) metaparameters: &'a [Metaparameters],
    pub(crate) schedules: &'a Schedules,
    /// What earlier runs checked and saw.
    pub(crate) remembered: &'a Remembered,
    pub(crate) resources: &'a [Arc<Resource>],
    pub(crate) places: Places<'a>,
    pub(crate) providers: &'a Providers,
    pub(crate) context: &'a Context,
    pub(crate) options: &'a EngineOptions,
    pub(crate) prior: &'a Prior,
    pub(crate) system: &'a dyn System,
    pub(crate) sink: &'a EventSink,
    /// Hears what is told.
    pub(crate) lines: &'a LineListener,
    pub(crate) result: EngineResult,
    /// What was found out before its turn.
    pub(crate) ahead: Ahead,
}

/// What became of the resources.
#[derive(Debug, Default)]
pub(crate) struct EngineResult {
    pub(crate) counters: ResourceCounters,
    pub(crate) statuses: Vec<ResourceStatus>,
    pub(crate) diffs: Vec<(String, String)>,
    /// How long these are together.
    pub(crate) diff_bytes: usize,
    pub(crate) messages: Vec<String>,
    /// What is told of resources beside their events, by the paths of these: what commands said, diffs, what was passed over and why.
    pub(crate) logs: Vec<Log>,
    /// What all answers follow from; `None` once a resource was not in sync, or follows from something else too.
    pub(crate) witnesses: Option<Witnesses>,
    /// What this run leaves otherwise than the catalog wants.
    pub(crate) left: Left,
    /// Resources that this run did not look at, as far as they are what they were.
    pub(crate) passed_over: HashSet<String, FastState>,
    /// What later runs are to know.
    pub(crate) remembered: Remembered,
    /// How long the resources of each type took, by name.
    pub(crate) times: BTreeMap<String, Duration>,
    /// The run was cancelled before the end.
    pub(crate) cancelled: bool,
}

/// What one place of the order passes on.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    failed: bool,
    /// What those hear that it notifies.
    heard: Heard,
}

/// How many changes one place hears of, a refresh being one.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// Those that would have been made, too.
    total: u64,
    /// Those that were made, or seen by an audit.
    made: u64,
}

impl Heard {
    fn of(statuses: &Statuses) -> Self {
        let mut heard = Self::default();
        for event in statuses.list.iter().flat_map(|status| &status.events) {
            heard.total += u64::from(event.status != EventStatus::Failure);
            // In Puppet an audited change notifies as one that was made.
            heard.made += u64::from(matches!(event.status, EventStatus::Success | EventStatus::Audit));
        }
        heard
    }

    /// Puppet's borders refresh themselves, and pass on that alone.
    fn through_border(self) -> Self {
        Self { total: self.total.min(1), made: self.made.min(1) }
    }

    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.made += other.made;
    }
}

impl Engine<'_> {
    /// Goes through the whole order.
    pub(crate) async fn run(mut self) -> EngineResult {
        let mut blocked = vec![false; self.graph.len()];
        let mut notified = vec![Heard::default(); self.graph.len()];
        let order: Vec<(usize, Node)> = self.graph.order().collect();
        let mut together = 0;
        for (place, &(id, node)) in order.iter().enumerate() {
            let passed = match node {
                // As in Puppet: one that was not asked for passes no news on.
                Node::Border(at) if !self.has_wanted_tags(&self.resources[at]) => {
                    Passed { failed: blocked[id], heard: Heard::default() }
                }
                Node::Border(_) => Passed { failed: blocked[id], heard: notified[id].through_border() },
                Node::Resource(at) => {
                    self.look_ahead(&order, place, &blocked).await;
                    // One call for many has no limit that is fair to each.
                    if place >= together
                        && self.options.resource_time_limit.is_none()
                        && let Some(provider) = self.providers.get(&self.resources[at].resource_type)
                        && provider.joins()
                    {
                        let (neighbours, end) = self.neighbours(&order[place..], &blocked);
                        together = place + end;
                        provider.together(&neighbours);
                    }
                    self.take_turn(at, blocked[id], notified[id]).await
                }
            };
            if passed.failed {
                self.graph.successors(id).for_each(|next| blocked[next] = true);
            }
            if passed.heard.total > 0 {
                self.graph.notified_by(id).for_each(|next| notified[next].add(passed.heard));
            }
        }
        let below = self.prior.kept_below(&self.result.passed_over);
        let below: Vec<_> = below.filter(|(resource, _)| !self.result.left.contains_key(*resource)).collect();
        self.result.left.extend(below.into_iter().map(|(resource, left)| (resource.clone(), left.clone())));
        self.result
    }

    /// Gives a resource its turn, and takes down where it stands and how long it took.
    async fn take_turn(&mut self, at: usize, blocked: bool, notified: Heard) -> Passed {
        let told = self.result.statuses.len();
        let began = self.system.now();
        let passed = self.visit(at, blocked, notified).await;
        let evaluation = self.system.now().duration_since(began).unwrap_or_default();
        let resource_type = &self.resources[at].resource_type;
        match self.result.times.get_mut(resource_type) {
            Some(time) => *time += evaluation,
            None => drop(self.result.times.insert(resource_type.clone(), evaluation)),
        }
        if told < self.result.statuses.len() {
            let place = self.places.of(at);
            for status in &mut self.result.statuses[told..] {
                status.place = Some(Arc::clone(&place));
                (status.began_unix_nanos, status.evaluation) = (unix_nanos(began), evaluation);
            }
        }
        passed
    }

    async fn visit(&mut self, at: usize, blocked: bool, notified: Heard) -> Passed {
        let resource = Arc::clone(&self.resources[at]);
        if self.context.cancel().is_cancelled() {
            self.result.cancelled = true;
            return self.skip((at, &resource), CANCELLED, Passed::default());
        }
        if !self.has_wanted_tags(&resource) {
            self.result.witnesses = None;
            return self.pass_over(&resource, blocked);
        }
        match self.is_scheduled(at, &resource) {
            Ok(true) => {}
            Ok(false) => return self.pass_over(&resource, blocked),
            Err(reason) => return self.fail((at, &resource), &reason),
        }
        if blocked {
            return self.skip((at, &resource), DEPENDENCY_FAILED, Passed { failed: true, heard: Heard::default() });
        }
        if let Some(reason) = self.refused.get(&at) {
            let reason = Reasons::of(None, &resource).of_refusal(reason);
            return self.fail((at, &resource), &reason);
        }
        let Some(provider) = self.providers.get(&resource.resource_type).map(Arc::clone) else {
            let reason = format!("no provider for type {}", resource.resource_type);
            return self.fail((at, &resource), &reason);
        };
        let audits = match self.audit(&*provider, (at, &resource)).await {
            Ok(audits) => audits,
            Err(error) => return self.fail((at, &resource), &Reasons::of(Some(&*provider), &resource).of_error(&error)),
        };
        let checked = match self.ahead.take(at) {
            Some(checked) => checked,
            None => {
                let checked = self.limited(&resource, provider.check(self.context, &resource)).await;
                if provider.checks_by_commands(&resource) {
                    self.ahead.clear();
                }
                checked
            }
        };
        match checked {
            Ok(checked) => self.settle(&*provider, (at, &resource), (checked, audits), notified).await,
            Err(ProviderError::Cancelled { .. }) => {
                self.result.cancelled = true;
                self.skip((at, &resource), CANCELLED, Passed::default())
            }
            Err(error) => self.fail((at, &resource), &Reasons::of(Some(&*provider), &resource).of_error(&error)),
        }
    }

    /// Returns whether the schedule of a resource lets it be applied now, and takes down that it is; the error says why that cannot be known.
    fn is_scheduled(&mut self, at: usize, resource: &Resource) -> Result<bool, String> {
        let Some(name) = &self.metaparameters[at].schedule else { return Ok(true) };
        // What follows from the time of day does not settle.
        self.result.witnesses = None;
        let schedule = self.schedules.find(name)?;
        let moment = |unix: i64| Moment { unix, offset: self.system.utc_offset(unix) };
        let reference = resource.reference().to_string();
        let now = unix_nanos(self.system.now()) / 1_000_000_000;
        let allowed = schedule.allows(self.remembered.checked.get(&reference).copied().map(moment), moment(now));
        if allowed {
            self.result.remembered.checked.insert(reference, now);
        }
        Ok(allowed)
    }

    /// Passes over a resource that its schedule or its tags do not let be applied now: the report says so, and what waits for it goes on.
    fn pass_over(&mut self, resource: &Resource, blocked: bool) -> Passed {
        self.result.counters.total += 1;
        self.result.counters.skipped += 1;
        self.keep_left(resource);
        self.result.statuses.push(ResourceStatus { skipped: true, ..status_of(&resource.reference(), resource) });
        Passed { failed: blocked, heard: Heard::default() }
    }

    async fn settle(
        &mut self,
        provider: &dyn Provider,
        (at, resource): (usize, &Arc<Resource>),
        (mut checked, audits): (Checked, Vec<Audit>),
        notified: Heard,
    ) -> Passed {
        self.gather(&mut checked, notified);
        let metaparameters = &self.metaparameters[at];
        let (noop, loglevel) = (self.options.noop || metaparameters.noop == Some(true), metaparameters.loglevel);
        self.result.counters.total += checked.resources;
        let mut statuses = Statuses::default();
        let mut broken = HashSet::new();
        for (reference, reason) in std::mem::take(&mut checked.failures) {
            let reason = Reasons::of(Some(provider), resource).of_reason(reason);
            self.warn(format!("{reference}: {reason}"));
            let event = Event { resource: reference.to_string(), ..self.failure_event(resource, reason) };
            self.tell_event(at, &event);
            let status = statuses.of(&reference, resource);
            (status.failed, status.out_of_sync) = (true, true);
            status.events.push(event);
            broken.insert(status.resource.clone());
        }
        for (reference, reason) in std::mem::take(&mut checked.skipped) {
            let reason = Reasons::of(Some(provider), resource).hide(reason);
            self.say((at, &reference.to_string()), &reason, reason.clone());
        }
        let applied = self.apply(provider, resource, &checked.changes, noop).await;
        if applied.is_some() {
            self.tell(provider, (at, resource));
        }
        if applied.is_some() || notified.made > 0 {
            self.ahead.clear();
        }
        statuses.list.reserve_exact(checked.changes.len());
        let changed: Vec<Cow<'static, str>> = match audits.as_slice() {
            [] => Vec::new(),
            _ => checked.changes.iter().map(|change| change.property.clone()).collect(),
        };
        self.record((at, resource, loglevel), checked.changes, applied, &mut statuses);
        for audit in audits.into_iter().filter(|audit| !changed.contains(&audit.property)) {
            let event = Event { loglevel, ..audit.event(resource, unix_nanos(self.system.now())) };
            self.tell_event(at, &event);
            statuses.of(&resource.reference(), resource).events.push(event);
        }
        let any = |what: fn(&ResourceStatus) -> bool| statuses.list.iter().any(what);
        let mut passed = Passed { failed: any(|status| status.failed), heard: Heard::of(&statuses) };
        if notified.made > 0 && !noop {
            // Also after a failure, as in Puppet; and at notice, whatever level the resource has.
            let event = refresh_event(resource, notified.total, unix_nanos(self.system.now()));
            passed = self.refresh(provider, (at, resource), event, passed, &mut statuses).await;
        } else if notified.total > 0 && provider.refreshes() {
            self.would_refresh((at, resource), notified.total, &mut statuses);
            passed.heard.add(Heard { total: 1, made: 0 });
        }
        if passed.heard.made > 0 && provider.disturbs_files() {
            self.context.mark_scan_stale();
        }
        let statuses = statuses.complete();
        self.count(&statuses);
        // Of those that could not be looked at, nothing else is known.
        for status in statuses.iter().filter(|status| status.events.len() == 1 && broken.contains(&status.resource)) {
            self.result.left.insert(status.resource.clone(), LeftValues::unknown(&status.resource, resource));
        }
        self.result.statuses.extend(statuses);
        passed
    }

    /// Keeps what the answer follows from, as long as all resources are in sync.
    fn gather(&mut self, checked: &mut Checked, notified: Heard) {
        let Some(witnesses) = &mut self.result.witnesses else { return };
        let is_quiet =
            checked.changes.is_empty() && checked.failures.is_empty() && checked.skipped.is_empty() && notified.total == 0;
        let seen = checked.witnesses.take().filter(|_| is_quiet);
        if !seen.is_some_and(|seen| seen.into_iter().all(|witness| witnesses.add(witness))) {
            self.result.witnesses = None;
        }
    }

    /// Applies the changes; `None` in noop, where nothing may be touched.
    async fn apply(&self, provider: &dyn Provider, resource: &Arc<Resource>, changes: &[Change], noop: bool) -> Option<Applied> {
        if noop || changes.is_empty() {
            return None;
        }
        let all_failed = |reason: String| {
            let failures = (0..changes.len()).map(|at| (at, reason.clone())).collect();
            Applied { failures, ..Applied::default() }
        };
        Some(match self.limited(resource, provider.apply(self.context, resource, changes)).await {
            Ok(applied) if applied.failures.is_empty() && applied.messages.is_empty() => applied,
            Ok(mut applied) => {
                Reasons::of(Some(provider), resource).clean(&mut applied);
                applied
            }
            Err(error) => all_failed(Reasons::of(Some(provider), resource).of_error(&error)),
        })
    }

    async fn refresh(
        &mut self,
        provider: &dyn Provider,
        (at, resource): (usize, &Arc<Resource>),
        event: Event,
        mut passed: Passed,
        statuses: &mut Statuses,
    ) -> Passed {
        let refreshed = self.limited(resource, provider.refresh(self.context, resource)).await;
        self.tell(provider, (at, resource));
        // It comes after what was said.
        let event = Event { time_unix_nanos: unix_nanos(self.system.now()), ..event };
        match refreshed {
            Ok(false) => {}
            Ok(true) => {
                self.result.counters.restarted += 1;
                passed.heard.add(Heard { total: 1, made: 1 });
                self.tell_event(at, &event);
                let status = statuses.of(&resource.reference(), resource);
                (status.changed, status.out_of_sync) = (true, true);
                status.events.push(event);
            }
            Err(error) => {
                self.result.counters.failed_to_restart += 1;
                let reason = Reasons::of(Some(provider), resource).of_error(&error);
                self.warn(format!("{}: refresh failed: {reason}", resource.reference()));
                let message = format!("{FAILED_REFRESH}{reason}").into();
                let event = Event { message, status: EventStatus::Failure, loglevel: None, ..event };
                self.tell_event(at, &event);
                let status = statuses.of(&resource.reference(), resource);
                (status.failed, status.failed_to_restart, status.out_of_sync) = (true, true, true);
                status.events.push(event);
                passed.failed = true;
            }
        }
        passed
    }

    fn skip(&mut self, (at, resource): (usize, &Resource), (reason, words): (&str, &str), passed: Passed) -> Passed {
        self.result.counters.total += 1;
        self.result.counters.skipped += 1;
        self.result.witnesses = None;
        self.keep_left(resource);
        self.say((at, &resource.reference().to_string()), &format!("skipped because {reason}"), words.to_owned());
        self.result.statuses.push(ResourceStatus { skipped: true, ..status_of(&resource.reference(), resource) });
        passed
    }

    fn fail(&mut self, (at, resource): (usize, &Resource), reason: &str) -> Passed {
        self.result.counters.total += 1;
        self.result.counters.failed += 1;
        self.result.counters.out_of_sync += 1;
        self.result.witnesses = None;
        let reference = resource.reference();
        self.result.left.insert(reference.to_string(), LeftValues::default());
        let reason = reason.strip_prefix(&format!("{reference}: ")).unwrap_or(reason);
        let is_named = reason.strip_prefix(&reference.to_string()).is_some_and(|rest| rest.starts_with(' '));
        self.warn(if is_named { reason.to_owned() } else { format!("{reference}: {reason}") });
        let event = self.failure_event(resource, reason.to_owned());
        self.tell_event(at, &event);
        let status = ResourceStatus { failed: true, out_of_sync: true, ..status_of(&reference, resource) };
        self.result.statuses.push(ResourceStatus { events: vec![event], ..status });
        Passed { failed: true, heard: Heard::default() }
    }

    /// Waits for one step of a resource as long as it may take.
    pub(super) async fn limited<R>(
        &self,
        resource: &Resource,
        work: impl Future<Output = Result<R, ProviderError>> + Send,
    ) -> Result<R, ProviderError> {
        limited(resource, self.options.resource_time_limit, self.context.cancel(), work).await
    }

    /// Keeps what is known of a resource that is passed over. What it generated follows at the end, all at once.
    fn keep_left(&mut self, resource: &Resource) {
        let reference = resource.reference().to_string();
        if let Some(left) = self.prior.kept(resource) {
            self.result.left.insert(reference.clone(), left);
        }
        self.result.passed_over.insert(reference);
    }

    /// Puppet's rule: a resource has its own tags, its type and its title's words, and the names of its classes.
    pub(super) fn has_wanted_tags(&self, resource: &Resource) -> bool {
        let has = |tag: &String| {
            resource.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
                || resource.resource_type.eq_ignore_ascii_case(tag)
                || resource.title.eq_ignore_ascii_case(tag)
        };
        (self.options.tags.is_empty() || self.options.tags.iter().any(has)) && !self.options.skip_tags.iter().any(has)
    }
}

/// Returns an error with all its causes, as one line.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
