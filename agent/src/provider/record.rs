//! Resources that are one line of a text file each: hosts, keys of hosts, keys of users.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, TreePath};

use super::difference::{Differences, Shown};
use super::file::{blocking, errors, read};
use super::instances::listed;
use super::lines::Lines;
use super::text_file::{TextCache, TextFile};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::fs::Attributes;

/// Whether something shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ensure {
    Present,
    Absent,
}

impl Ensure {
    /// Reads the parameter `ensure`; present by default.
    pub(super) fn read(resource: &Resource) -> Result<Self, ProviderError> {
        let words = [("present", Self::Present), ("absent", Self::Absent)];
        Ok(read::choice(resource, "ensure", &words)?.unwrap_or(Self::Present))
    }
}

/// Where the records of a resource are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file that shall have it.
    pub(super) target: TreePath,
    /// A file that is looked into when `target` does not have it: from there it is moved.
    pub(super) other: Option<TreePath>,
    /// Owner and mode of the file, where they are not left alone.
    pub(super) attributes: Attributes,
}

/// A type whose resources are lines.
pub(super) trait RecordType: Debug + Default + Send + Sync + 'static {
    /// The name of the type, capitalised.
    const TYPE: &'static str;
    /// What a line says.
    type Record: Debug + Clone + Send + Sync;
    /// What a resource says.
    type Wanted: Debug + Send;

    /// Reads and checks the parameters.
    fn wanted(resource: &Resource) -> Result<Self::Wanted, ProviderError>;
    /// Returns whether the record shall be there.
    fn ensure(wanted: &Self::Wanted) -> Ensure;
    /// Reads a line, without its end; `None` when it is no record.
    fn parse(line: &str) -> Option<Self::Record>;
    /// Writes a record as a line, without its end.
    fn print(record: &Self::Record) -> String;
    /// Returns whether a record is that of the resource.
    fn is_named(wanted: &Self::Wanted, record: &Self::Record) -> bool;
    /// Finds out where the record shall be; `None` when that cannot be known yet. Blocking.
    fn place(&self, context: &Context, wanted: &Self::Wanted) -> Result<Option<Place>, ProviderError>;
    /// Makes what is needed before the file can be written. Blocking.
    fn prepare(&self, _context: &Context, _wanted: &Self::Wanted, _place: &Place) -> Result<(), String> {
        Ok(())
    }
    /// Returns a record of a resource that has none yet, or what it lacks.
    fn create(wanted: &Self::Wanted) -> Result<Self::Record, String>;
    /// Adds the properties that differ, `target` excepted.
    fn compare(wanted: &Self::Wanted, record: &Self::Record, found: &mut Differences<'_>);
    /// Gives a record the properties of the resource.
    fn update(wanted: &Self::Wanted, record: &mut Self::Record);
    /// The file whose records are listed; `None` when there is no such file.
    const LISTED: Option<&'static str> = None;
    /// Returns a record as a resource, `target` excepted.
    fn describe(_record: &Self::Record) -> Option<Resource> {
        None
    }
    /// Returns what comes before a resource.
    fn autorequire(_resource: &Resource) -> Vec<ResourceRef> {
        Vec::new()
    }
}

/// Manages the lines of one type.
#[derive(Debug)]
pub(super) struct Records<T: RecordType> {
    kind: Arc<T>,
    files: Arc<TextCache<Lines<T::Record>>>,
}

impl<T: RecordType> Default for Records<T> {
    fn default() -> Self {
        Self { kind: Arc::default(), files: Arc::default() }
    }
}

impl<T: RecordType> Clone for Records<T> {
    fn clone(&self) -> Self {
        Self { kind: Arc::clone(&self.kind), files: Arc::clone(&self.files) }
    }
}

/// Where a record was found.
struct Found<R> {
    path: TreePath,
    record: R,
}

impl<T: RecordType> Records<T> {
    /// Returns the records of a file that no resource of the catalog stands for, as resources that shall be absent. Blocking.
    pub(super) fn strangers(
        &self,
        context: &Context,
        path: &TreePath,
        absent: impl Fn(&T::Record) -> Resource,
    ) -> Result<Vec<Resource>, String> {
        let lines = self.files.load(context, path, |text| Lines::parse(text, T::parse)).map_err(|error| errors::chain(&error))?;
        let wanted = context.resources_of(T::TYPE).map(|resource| T::wanted(resource)).collect::<Result<Vec<_>, _>>();
        let wanted = wanted.map_err(|error| errors::chain(&error))?;
        let mut found: Vec<Resource> = Vec::new();
        for (_, record) in lines.records().filter(|(_, record)| !wanted.iter().any(|wanted| T::is_named(wanted, record))) {
            let stranger = absent(record);
            if !found.contains(&stranger) {
                found.push(stranger);
            }
        }
        Ok(found)
    }

    /// Looks for the record: in its file, then in the other one. Of several with the name the last counts, as in Puppet.
    fn find(&self, context: &Context, wanted: &T::Wanted, place: &Place) -> Result<Option<Found<T::Record>>, crate::fs::FsError> {
        for path in [Some(&place.target), place.other.as_ref()].into_iter().flatten() {
            let lines = self.files.load(context, path, |text| Lines::parse(text, T::parse))?;
            let found = lines.records().rev().find(|(_, record)| T::is_named(wanted, record));
            if let Some((_, record)) = found {
                return Ok(Some(Found { path: path.clone(), record: record.clone() }));
            }
        }
        Ok(None)
    }

    fn check(&self, context: &Context, resource: &Resource) -> Result<Vec<Change>, ProviderError> {
        let wanted = T::wanted(resource)?;
        let mut found = Differences::of(resource);
        let place = self.kind.place(context, &wanted)?;
        let record = match &place {
            Some(place) => self.find(context, &wanted, place).map_err(|error| fail(resource, "look for the record", error))?,
            None => None,
        };
        match (T::ensure(&wanted), record) {
            (Ensure::Absent, None) => {}
            (Ensure::Absent, Some(_)) => found.add_ensure("present", "absent"),
            (Ensure::Present, None) => found.add_ensure("absent", "present"),
            (Ensure::Present, Some(record)) => {
                T::compare(&wanted, &record.record, &mut found);
                if let Some(place) = place.filter(|place| place.target != record.path) {
                    found.add("target", &Shown::Text(record.path.absolute()), &Shown::Text(place.target.absolute()));
                }
            }
        }
        Ok(found.into_changes())
    }

    fn apply(&self, context: &Context, resource: &Resource) -> Result<Result<(), String>, ProviderError> {
        let wanted = T::wanted(resource)?;
        let Some(place) = self.kind.place(context, &wanted)? else {
            return Ok(Err("the file cannot be known: the user does not exist".to_owned()));
        };
        Ok(self.converge(context, &wanted, &place))
    }

    fn converge(&self, context: &Context, wanted: &T::Wanted, place: &Place) -> Result<(), String> {
        let mut here = Open::<T>::load(context, &place.target)?;
        let mut there = place.other.as_ref().map(|path| Open::<T>::load(context, path)).transpose()?;
        let found = here.find(wanted);
        let moved = there.as_ref().filter(|_| found.is_none()).and_then(|there| there.find(wanted));
        if T::ensure(wanted) == Ensure::Absent {
            return match (found, moved, &mut there) {
                (Some((at, _)), ..) => here.remove(context, at),
                (None, Some((at, _)), Some(there)) => there.remove(context, at),
                _ => Ok(()),
            };
        }
        let record = match found.as_ref().or(moved.as_ref()) {
            Some((_, record)) => {
                let mut record = record.clone();
                T::update(wanted, &mut record);
                record
            }
            None => T::create(wanted)?,
        };
        self.kind.prepare(context, wanted, place)?;
        match found {
            Some((at, _)) => here.lines.replace(at, &T::print(&record)),
            None => here.lines.push(&T::print(&record)),
        }
        // What is there keeps its group, as in Puppet.
        let gid = place.attributes.gid.filter(|_| here.file.stat.is_none());
        here.save(context, Attributes { gid, ..place.attributes })?;
        // First there, then not here any more: never nowhere.
        match (moved, &mut there) {
            (Some((at, _)), Some(there)) => there.remove(context, at),
            _ => Ok(()),
        }
    }
}

/// A file of records that is about to be changed.
struct Open<T: RecordType> {
    file: TextFile,
    lines: Lines<T::Record>,
}

impl<T: RecordType> Open<T> {
    fn load(context: &Context, path: &TreePath) -> Result<Self, String> {
        let file = TextFile::load(context, path).map_err(|error| errors::chain(&error))?;
        let lines = Lines::parse(&file.text, T::parse);
        Ok(Self { file, lines })
    }

    fn find(&self, wanted: &T::Wanted) -> Option<(usize, T::Record)> {
        let found = self.lines.records().rev().find(|(_, record)| T::is_named(wanted, record));
        found.map(|(at, record)| (at, record.clone()))
    }

    fn remove(&mut self, context: &Context, at: usize) -> Result<(), String> {
        self.lines.remove(at);
        self.save(context, Attributes::default())
    }

    fn save(&self, context: &Context, attributes: Attributes) -> Result<(), String> {
        self.file.replace(context, self.lines.print(), attributes).map_err(|error| errors::chain(&error))
    }
}

fn fail(resource: &Resource, attempt: &str, error: crate::fs::FsError) -> ProviderError {
    errors::failed(&resource.reference(), attempt, error)
}

/// Returns what became of changes that are made together: none of them failed, or all for one reason.
pub(super) fn applied(changes: &[Change], result: Result<(), String>) -> Applied {
    match result {
        Ok(()) => Applied::default(),
        Err(reason) => Applied { failures: (0..changes.len()).map(|at| (at, reason.clone())).collect(), ..Applied::default() },
    }
}

#[async_trait]
impl<T: RecordType> Provider for Records<T> {
    fn resource_type(&self) -> &str {
        T::TYPE
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        T::wanted(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        T::autorequire(resource)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let (this, context, resource) = (self.clone(), context.clone(), Arc::clone(resource));
        let changes = blocking(resource.reference(), move || this.check(&context, &resource)).await?;
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let changes = Self::check(self, context, resource);
        Some(changes.map(|changes| Checked { resources: 1, changes, ..Checked::default() }))
    }

    async fn instances(&self, context: &Context, _name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        let Some(target) = T::LISTED else { return Ok(None) };
        let (files, context) = (Arc::clone(&self.files), context.clone());
        let list = move || {
            let lines = files.load(&context, &read::absolute_path(target)?, |text| Lines::parse(text, T::parse));
            let lines = lines.map_err(|error| errors::chain(&error))?;
            let described = lines.records().filter_map(|(_, record)| T::describe(record));
            Ok(described.map(|resource| resource.with("target", target).with("provider", "parsed")).collect())
        };
        listed(T::TYPE, list).await
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let (this, context, resource) = (self.clone(), context.clone(), Arc::clone(resource));
        let result = blocking(resource.reference(), move || this.apply(&context, &resource)).await?;
        Ok(applied(changes, result))
    }
}
