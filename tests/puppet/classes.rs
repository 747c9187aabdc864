//! Classes of all public modules that are installed, beside what `puppet catalog compile` makes of them: the catalog, or the error.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use direct_puppet_tests::campaign;
use direct_puppet_transport::protocol::Value;
use futures::StreamExt as _;

use super::modules::{MODULES, copy, facts, peer};
use super::{Site, assert_same, catalog_of_puppet, has_puppet};

/// How many classes the long campaign takes, evenly of all that are there: Puppet takes seconds for each.
const CLASSES: usize = 300;

/// The class is a fact, so that all nodes have one line of code.
const SITE: &str = "node default { include $facts['class'] }\n";

/// Returns the classes of a module, which are where the autoloader looks for them.
fn classes(module: &Path) -> Vec<String> {
    let manifests = module.join("manifests");
    let mut open = vec![manifests.clone()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(&manifests).unwrap().with_extension("");
            let module = module.file_name().unwrap().to_str().unwrap();
            let below: Vec<&str> = below.iter().map(|name| name.to_str().unwrap()).filter(|name| *name != "init").collect();
            let name = std::iter::once(module).chain(below).collect::<Vec<_>>().join("::");
            let text = fs::read_to_string(&path).unwrap_or_default();
            let declares = |line: &str| line.trim_start().strip_prefix("class ").is_some_and(|rest| is_name(rest, &name));
            if text.lines().any(declares) {
                found.push(name);
            }
        }
    }
    found
}

/// Copies all modules that are installed, and returns their classes in order.
pub(crate) fn copy_all(to: &Path) -> Vec<String> {
    fs::create_dir_all(to).unwrap();
    let mut all = Vec::new();
    for module in fs::read_dir(MODULES).into_iter().flatten() {
        let module = module.unwrap().path();
        all.extend(classes(&module));
        copy(&module, &to.join(module.file_name().unwrap()));
    }
    all.sort();
    all
}

/// Returns those that are tried: `CAMPAIGN=long` takes 300, `CLASSES=N` as many as wanted, `FIRST=N` begins with another one.
pub(crate) fn chosen(all: &[String]) -> Vec<&String> {
    #[expect(clippy::disallowed_methods, reason = "the size of a campaign comes from the environment")]
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<usize>().unwrap());
    let count = given("CLASSES").unwrap_or_else(|| campaign(CLASSES));
    all.iter().skip(given("FIRST").unwrap_or(0)).step_by(all.len().div_ceil(count)).collect()
}

/// Whether the text begins with the name, and not with a longer one.
fn is_name(text: &str, name: &str) -> bool {
    let rest = text.trim_start().trim_start_matches("::").strip_prefix(name);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == ':'))
}

/// Returns an error of Puppet's as this server words it: the place first, paths within the environment, no node.
pub(crate) fn place_first(message: &str, environment: &Path, certname: &str) -> String {
    let message = message.replace(&format!("{}/", environment.display()), "");
    let message = message.strip_suffix(&format!(" on node {certname}")).unwrap_or(&message);
    let placed = message.rsplit_once(" (file: ").and_then(|(text, place)| Some((text, place.strip_suffix(')')?)));
    match placed {
        Some((text, place)) => format!("{}: {text}", place.replace(", line: ", ":").replace(", column: ", ":")),
        None => format!("environment {}: {message}", environment.file_name().unwrap_or_default().display()),
    }
}

/// What became of one class.
pub(crate) enum Compared {
    SameCatalog,
    SameError,
    Differs(String),
}

/// Compares catalogs by `assert_same`, and errors as they are.
pub(crate) fn compared<O, T>(
    what: &str,
    ours: Result<O, String>,
    theirs: Result<T, String>,
    assert_same: impl FnOnce(&O, T),
) -> Compared {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => match catch_unwind(AssertUnwindSafe(|| assert_same(&ours, theirs))) {
            Ok(()) => Compared::SameCatalog,
            Err(_) => Compared::Differs(format!("{what}: the catalogs differ, see above")),
        },
        (Err(ours), Err(theirs)) if ours == theirs => Compared::SameError,
        (Err(ours), Err(theirs)) => Compared::Differs(format!("{what}: other errors\n  ours   {ours}\n  theirs {theirs}")),
        (Ok(_), Err(theirs)) => Compared::Differs(format!("{what}: Puppet alone fails: {theirs}")),
        (Err(ours), Ok(_)) => Compared::Differs(format!("{what}: fails here alone: {ours}")),
    }
}

/// Says how many were the same, and fails when some differ, or hardly any compiles.
pub(crate) fn judge(outcomes: &[Compared], all: usize) {
    let number = |wanted: fn(&Compared) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    let (catalogs, errors) = (number(|it| matches!(it, Compared::SameCatalog)), number(|it| matches!(it, Compared::SameError)));
    eprintln!("{} of {all}: {catalogs} catalogs and {errors} errors are the same", outcomes.len());
    let differ: Vec<&str> = outcomes
        .iter()
        .filter_map(|outcome| if let Compared::Differs(how) = outcome { Some(how.as_str()) } else { None })
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert!(catalogs > outcomes.len() / 4, "too few compile at all: {catalogs}");
}

struct World {
    site: Site,
    environments: PathBuf,
    scratch: PathBuf,
}

impl World {
    async fn compare(&self, number: usize, class: &str) -> Compared {
        let certname = format!("n{number}.example.com");
        let mut facts = facts();
        facts.insert("class".to_owned(), Value::String(class.into()));
        let theirs = {
            let (environments, scratch, certname, facts) =
                (self.environments.clone(), self.scratch.clone(), certname.clone(), facts.clone());
            tokio::task::spawn_blocking(move || peer(&environments, &scratch, &certname, &facts)).await.unwrap()
        };
        let environment = self.environments.join("production");
        let ours = self.site.compile(&certname, "production", facts).await.map_err(|refusal| refusal.message);
        let theirs = theirs.map_err(|error| place_first(&error, &environment, &certname));
        let prefix = format!("{}/", environment.display());
        compared(class, ours, theirs, |ours, theirs| assert_same(ours, &catalog_of_puppet(theirs, &prefix)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_all_installed_modules() {
    if !has_puppet() {
        return;
    }
    let staging = tempfile::tempdir().unwrap();
    let environment = staging.path().join("environments/production");
    fs::create_dir_all(environment.join("manifests")).unwrap();
    fs::write(environment.join("manifests/site.pp"), SITE).unwrap();
    let all = copy_all(&environment.join("modules"));
    if all.is_empty() {
        eprintln!("LEFT OUT: no modules in {MODULES} (Debian packages puppet-module-…)");
        return;
    }
    let chosen = chosen(&all);
    let site = Site::open(staging.path());
    assert_eq!(site.publish("production").await, None);
    let scratch = site.dir.path().join("peer");
    fs::create_dir(&scratch).unwrap();
    let world = World { site, environments: staging.path().join("environments"), scratch };
    let outcomes: Vec<Compared> = futures::stream::iter(chosen.iter().enumerate())
        .map(|(number, class)| world.compare(number, class))
        .buffer_unordered(2)
        .collect()
        .await;
    judge(&outcomes, all.len());
}
