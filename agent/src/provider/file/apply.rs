//! Makes changes, in an order in which each finds what it needs: directories, files, links, attributes, removals.

use std::collections::VecDeque;

use direct_puppet_transport::protocol::path::escape;
use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath};

use super::backup::{Keeper, MAX_ENTRIES};
use super::desired::{self, Desired, Exclusions, Expansion, SourceAttributes, Want};
use super::http::RemoteSources;
use super::identity::Identities;
use super::owner::AccountCache;
use super::parameters::Parameters;
use super::place;
use super::source::Content;
use super::witnesses::Gathered;
use crate::fs::{Attributes, FileKind, FsError, Stat};
use crate::provider::{Applied, Change, Context, Ownership, ProviderError};
use crate::undo::Left;

/// Permissions that an unprivileged process needs on a directory in which it creates something.
const OWN_WRITE_AND_SEARCH: u32 = 0o300;

/// What is to be done at one path.
#[derive(Debug)]
pub(super) enum Action {
    Nothing,
    CreateDirectory,
    PutFile(Option<Content>),
    PutLink(Vec<u8>),
    SetAttributes,
    Remove,
}

/// One path with its changes.
#[derive(Debug)]
pub(super) struct Job {
    /// Where it really is, when links are followed.
    pub(super) path: TreePath,
    pub(super) source: SourceAttributes,
    /// What is there now; most often nothing, or nothing that changes.
    pub(super) stat: Option<Box<Stat>>,
    pub(super) action: Action,
    /// The changes that it makes, by index.
    pub(super) indexes: Vec<usize>,
}

impl Job {
    /// Returns whether a whole directory goes.
    pub(super) fn destroys_directory(&self) -> bool {
        self.stat.as_ref().is_some_and(|stat| stat.kind() == FileKind::Directory)
    }
}

/// As much of a [`Change`] as applying it needs: there may be very many.
#[derive(Debug)]
pub(super) struct Announced {
    resource: ResourceRef,
    /// It is more than an attribute.
    changes_more: bool,
    /// It is the removal of something.
    purges: bool,
}

impl Announced {
    /// Returns whether it needs the content of a source.
    pub(super) const fn puts_content(&self) -> bool {
        self.changes_more && !self.purges
    }

    pub(super) fn of(change: &Change) -> Self {
        Self {
            resource: change.resource.clone(),
            changes_more: matches!(&*change.property, "ensure" | "content" | "target"),
            purges: change.property == "ensure" && change.desired == "absent",
        }
    }
}

/// What is to be done at one path, before anybody has looked there.
#[derive(Debug)]
struct Task {
    desired: Desired,
    indexes: Vec<usize>,
    changes_more: bool,
}

/// The state of applying one resource.
#[derive(Debug)]
pub(super) struct Application<'a> {
    pub(super) context: &'a Context,
    pub(super) parameters: &'a Parameters,
    pub(super) identities: &'a Identities,
    pub(super) applied: Applied,
}

/// Makes changes. Blocking; needs a tokio runtime around it for `validate_cmd`.
///
/// # Errors
///
/// When parameters make no sense, no source exists, or the run was cancelled before the first change.
pub(super) fn apply(
    context: &Context,
    cache: &AccountCache,
    resource: &Resource,
    changes: Vec<Announced>,
    remote: &RemoteSources,
) -> Result<Applied, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    if context.cancel().is_cancelled() {
        return Err(ProviderError::Cancelled { resource: resource.reference() });
    }
    let exclusions = Exclusions::new(&parameters.path, context.managed());
    let expansion = Expansion::new(context.root(), resource, &parameters, &exclusions, remote)?;
    let identities = Identities::load(context, cache, resource, &parameters, &mut Gathered::nothing())?;
    let mut application = Application { context, parameters: &parameters, identities: &identities, applied: Applied::default() };
    let tasks = application.tasks(resource, expansion, &exclusions, changes);
    application.run(tasks);
    Ok(application.applied)
}

/// Jobs by what they do, each in the order of paths.
#[derive(Debug, Default)]
struct Order {
    directories: VecDeque<Job>,
    files: VecDeque<Job>,
    links: VecDeque<Job>,
    attributes: VecDeque<Job>,
    removals: VecDeque<Job>,
}

impl Application<'_> {
    /// Groups changes by path.
    fn tasks(
        &mut self,
        resource: &Resource,
        expansion: Expansion,
        exclusions: &Exclusions<'_>,
        changes: Vec<Announced>,
    ) -> Vec<Task> {
        let mut placed = Vec::with_capacity(changes.len());
        for (index, change) in changes.into_iter().enumerate() {
            let path = desired::path_of(resource, self.parameters, &change.resource).filter(|path| !exclusions.covers(path));
            match path {
                Some(path) => placed.push((path, index, change.changes_more, change.purges)),
                None => self.fail(&[index], format!("{} is not managed by {}", change.resource, resource.reference())),
            }
        }
        placed.sort_by(|a, b| a.0.cmp(&b.0));
        let mut wanted = expansion.desired.into_iter().peekable();
        let mut tasks: Vec<Task> = Vec::with_capacity(placed.len());
        for (path, index, changes_more, purges) in placed {
            if let Some(task) = tasks.last_mut().filter(|task| task.desired.path == path) {
                task.indexes.push(index);
                task.changes_more |= changes_more;
                continue;
            }
            while wanted.next_if(|desired| desired.path < path).is_some() {}
            let desired = wanted
                .next_if(|desired| desired.path == path)
                .unwrap_or_else(|| Desired::plain(path, if purges { Want::Absent } else { Want::Attributes }));
            tasks.push(Task { desired, indexes: vec![index], changes_more });
        }
        tasks
    }

    /// Records a failure of changes.
    pub(super) fn fail(&mut self, indexes: &[usize], reason: impl Into<String>) {
        let reason = reason.into();
        self.applied.failures.extend(indexes.iter().map(|&index| (index, reason.clone())));
    }

    /// Records a failed operation.
    pub(super) fn fail_with(&mut self, indexes: &[usize], error: &FsError) {
        self.fail(indexes, super::errors::chain(error));
    }

    /// Returns whether the run goes on; if not, says so of all `jobs`.
    pub(super) fn goes_on(&mut self, jobs: &VecDeque<Job>) -> bool {
        if !self.context.cancel().is_cancelled() {
            return true;
        }
        for job in jobs {
            self.fail(&job.indexes, "not changed: the run was cancelled");
        }
        false
    }

    fn run(&mut self, tasks: Vec<Task>) {
        let order = self.order(tasks);
        let late = self.create_directories(order.directories);
        place::files(self, order.files);
        self.in_chunks(order.links, Self::put_link);
        self.in_chunks(order.attributes, Self::set_attributes);
        for (path, attributes, indexes) in late {
            if let Err(error) = self.context.root().set_attributes(&path, attributes) {
                self.fail_with(&indexes, &error);
            }
        }
        self.in_chunks(order.removals.into_iter().rev().collect(), Self::remove);
    }

    fn order(&mut self, tasks: Vec<Task>) -> Order {
        let mut order = Order::default();
        for mut task in tasks {
            let indexes = std::mem::take(&mut task.indexes);
            match self.job(task) {
                Ok(job) => {
                    let list = match job.action {
                        Action::Nothing => continue,
                        Action::CreateDirectory => &mut order.directories,
                        Action::PutFile(_) => &mut order.files,
                        Action::PutLink(_) => &mut order.links,
                        Action::SetAttributes => &mut order.attributes,
                        Action::Remove => &mut order.removals,
                    };
                    list.push_back(Job { indexes, ..job });
                }
                Err(reason) => self.fail(&indexes, reason),
            }
        }
        order
    }

    /// Looks at a path again, and finds out what is to be done there.
    fn job(&self, Task { desired, changes_more, .. }: Task) -> Result<Job, String> {
        let root = self.context.root();
        let stat = match root.stat(&desired.path) {
            // A file or link on the way that is about to become a directory.
            Err(error) if error.kind == crate::fs::FsErrorKind::NotBeneath => None,
            other => other.map_err(|error| super::errors::chain(&error))?,
        };
        let (path, stat) =
            desired::effective_path(root, self.parameters, &desired, stat).map_err(|error| super::errors::chain(&error))?;
        let action = if changes_more {
            action_of(desired.want, stat.as_ref())
        } else if stat.is_some() {
            Action::SetAttributes
        } else {
            return Err("it was removed meanwhile".to_owned());
        };
        let job = Job { path, source: desired.source, stat: stat.map(Box::new), action, indexes: Vec::new() };
        let replaces = matches!(job.action, Action::PutFile(_) | Action::PutLink(_) | Action::Remove);
        if replaces && job.destroys_directory() && !self.parameters.force {
            return Err("a directory is there: set force => true to replace or remove it".to_owned());
        }
        Ok(job)
    }

    /// Creates directories, and returns attributes that have to wait until they are filled.
    fn create_directories(&mut self, jobs: VecDeque<Job>) -> Vec<(TreePath, Attributes, Vec<usize>)> {
        let mut late = Vec::new();
        self.in_chunks_at_once(jobs, |this, chunk| {
            let root = this.context.root();
            let is_privileged = this.context.options().ownership == Ownership::Managed;
            let mut wanted = Vec::with_capacity(chunk.len());
            for job in chunk {
                if let Some(Err(error)) = job.stat.as_ref().map(|_| root.remove_file(&job.path)) {
                    this.fail_with(&job.indexes, &error);
                    continue;
                }
                let attributes = this.identities.of_new(this.parameters, job.source, FileKind::Directory);
                let mut first = attributes;
                first.mode = attributes.mode.map(|mode| if is_privileged { mode } else { mode | OWN_WRITE_AND_SEARCH });
                if first != attributes {
                    late.push((job.path.clone(), attributes, job.indexes.clone()));
                }
                wanted.push((job, first));
            }
            let list: Vec<_> = wanted.iter().map(|(job, first)| (&job.path, *first)).collect();
            for (result, (job, _)) in root.create_dirs(&list).into_iter().zip(&wanted) {
                if let Err(error) = result {
                    late.retain(|(path, ..)| *path != job.path);
                    this.fail_with(&job.indexes, &error);
                }
            }
        });
        // From below: a directory that cannot be searched any more hides what it holds.
        late.reverse();
        late
    }

    fn put_link(&mut self, job: &Job) -> Result<(), FsError> {
        let Action::PutLink(target) = &job.action else { return Ok(()) };
        if job.destroys_directory() {
            self.remove_tree(&job.path)?;
        }
        let attributes = match &job.stat {
            Some(stat) if stat.kind() == FileKind::Link => self.identities.of_replacement(self.parameters, job.source, stat),
            _ => self.identities.of_new(self.parameters, job.source, FileKind::Link),
        };
        self.context.root().put_link(&job.path, target, Attributes { mode: None, ..attributes }, self.context.stage_journal())
    }

    fn set_attributes(&mut self, job: &Job) -> Result<(), FsError> {
        let Some(stat) = &job.stat else { return Ok(()) };
        let attributes = self.identities.of_existing(self.parameters, job.source, stat);
        if attributes == Attributes::default() {
            return Ok(());
        }
        self.context.root().set_attributes(&job.path, attributes)
    }

    fn remove(&mut self, job: &Job) -> Result<(), FsError> {
        if job.destroys_directory() { self.remove_tree(&job.path) } else { self.context.root().remove_file(&job.path) }
    }

    /// Removes a directory with everything in it: what the scan saw there is history.
    pub(super) fn remove_tree(&self, path: &TreePath) -> Result<(), FsError> {
        self.context.mark_scan_stale();
        self.context.root().remove_tree(path)
    }

    /// Does jobs one by one, in chunks as [`Application::in_chunks_at_once`].
    fn in_chunks(&mut self, jobs: VecDeque<Job>, mut work: impl FnMut(&mut Self, &Job) -> Result<(), FsError>) {
        self.in_chunks_at_once(jobs, |this, chunk| {
            for job in chunk {
                if let Err(error) = work(this, &job) {
                    this.fail_with(&job.indexes, &error);
                }
            }
        });
    }

    /// Does jobs in chunks: what each chunk replaces is kept first, then recorded at once, then the chunk is done.
    fn in_chunks_at_once(&mut self, mut jobs: VecDeque<Job>, mut work: impl FnMut(&mut Self, Vec<Job>)) {
        while !jobs.is_empty() {
            if !self.goes_on(&jobs) {
                return;
            }
            let chunk = jobs.drain(..jobs.len().min(MAX_ENTRIES)).collect();
            let kept = self.kept(chunk);
            work(self, kept);
        }
    }

    /// Keeps what jobs replace or remove, and returns those of which all was kept.
    fn kept(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let (context, parameters) = (self.context, self.parameters);
        let mut keeper = Keeper::new(context, parameters);
        let mut kept = Vec::with_capacity(jobs.len());
        for job in jobs {
            let left = match &job.action {
                Action::CreateDirectory => Some(Left::Directory),
                Action::PutLink(target) => Some(Left::Link { target: escape(target).into_owned() }),
                Action::Remove => Some(Left::Absent),
                Action::SetAttributes | Action::Nothing | Action::PutFile(_) => None,
            };
            let result = match (left, &job.stat) {
                (Some(left), stat) => keeper.keep(&job.path, stat.as_deref(), left),
                (None, Some(stat)) => {
                    keeper.keep_attributes(&job.path, stat, self.identities.of_existing(parameters, job.source, stat))
                }
                (None, None) => Ok(()),
            };
            match result {
                Ok(()) => kept.push(job),
                Err(error) => self.fail_with(&job.indexes, &error),
            }
        }
        if let Err(error) = keeper.record() {
            for job in kept.drain(..) {
                self.fail_with(&job.indexes, &error);
            }
        }
        kept
    }
}

fn action_of(want: Want, stat: Option<&Stat>) -> Action {
    let kind = stat.map(Stat::kind);
    match want {
        Want::Absent if stat.is_none() => Action::Nothing,
        Want::Absent => Action::Remove,
        Want::Present if stat.is_none() => Action::PutFile(None),
        Want::File(None) if kind == Some(FileKind::File) => Action::SetAttributes,
        Want::File(content) => Action::PutFile(content),
        Want::Directory if kind != Some(FileKind::Directory) => Action::CreateDirectory,
        Want::Link(target) => Action::PutLink(target),
        Want::Present | Want::Directory | Want::Attributes if stat.is_some() => Action::SetAttributes,
        Want::Present | Want::Directory | Want::Attributes => Action::Nothing,
    }
}
