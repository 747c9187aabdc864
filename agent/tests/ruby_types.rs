//! Types that exist only in Ruby: applied here and by `puppet apply --catalog`, events and files compared; and what goes wrong with them. Without Ruby
//! and Puppet's library nearly all of it is left out, and says so.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../examples/support/mod.rs"]
mod support;
#[path = "ruby_types/theirs.rs"]
mod theirs;
#[path = "ruby_types/trouble.rs"]
mod trouble;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct_puppet_agent::provider::ruby::RubyOptions;
use direct_puppet_agent::{Agent, Outcome, PuppetCatalog, RunOptions};
use serde_json::{Value as Json, json};
use theirs::{Ran, catalog, files, has_module, is_possible, resource, secret};

/// Types and providers of these tests.
pub(crate) fn own_library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ruby/lib")
}

/// Types of a module of Debian's.
fn library_of(module: &str) -> PathBuf {
    Path::new("/usr/share/puppet/modules").join(module).join("lib")
}

pub(crate) fn options(libraries: &[PathBuf], work: &Path) -> RubyOptions {
    let mut options = RubyOptions::default();
    options.libraries = libraries.to_vec();
    let setting = |name: &str| (name.to_owned(), work.join(name).display().to_string());
    options.settings = vec![setting("confdir"), setting("vardir")];
    options
}

/// Applies a catalog here; without options, without Ruby.
pub(crate) async fn apply(state: &Path, ruby: Option<RubyOptions>, catalog: &Json, options: RunOptions) -> Outcome {
    let catalog = PuppetCatalog::read(catalog.to_string().as_bytes()).unwrap();
    let builder = Agent::builder()
        .transport(support::serve("n1.test", Vec::new(), &[]))
        .certname("n1.test".parse().unwrap())
        .root("/")
        .state_dir(state);
    let builder = ruby.into_iter().fold(builder, |builder, ruby| builder.ruby(ruby));
    let options = RunOptions { catalog: Some(Arc::new(catalog)), ..options };
    builder.build().unwrap().run(&options).await.unwrap()
}

/// What is applied one after the other, by both.
struct Case {
    libraries: Vec<PathBuf>,
    noop: bool,
    /// Each makes a catalog for the directory that it is about.
    catalogs: Vec<Json>,
    /// What is there before the first.
    before: Vec<(&'static str, &'static str)>,
    /// What somebody writes before the run of this number.
    drift: Vec<(usize, &'static str, &'static str)>,
}

/// Applies a case with Puppet and here in the same directory, and returns what each did.
async fn both(dir: &Path, case: &Case) -> (Vec<Ran>, Vec<Ran>) {
    let at = dir.join("at");
    let prepare = || {
        if at.exists() {
            fs::remove_dir_all(&at).unwrap();
        }
        fs::create_dir(&at).unwrap();
        case.before.iter().for_each(|(name, content)| fs::write(at.join(name), content).unwrap());
    };
    prepare();
    let drift = |step: usize| {
        let written = case.drift.iter().filter(|(at, ..)| *at == step);
        written.for_each(|(_, name, content)| fs::write(at.join(name), content).unwrap());
    };
    let mut theirs = Vec::new();
    for (step, catalog) in case.catalogs.iter().enumerate() {
        let path = dir.join(format!("{step}.json"));
        fs::write(&path, catalog.to_string()).unwrap();
        drift(step);
        let options = if case.noop { "--noop" } else { "" };
        theirs.extend(theirs::apply(&case.libraries, &dir.join("puppet"), options, &[path]));
    }
    let their_files = files(&at);
    prepare();
    let mut ours = Vec::new();
    for (step, catalog) in case.catalogs.iter().enumerate() {
        drift(step);
        let ruby = options(&case.libraries, &dir.join("ruby"));
        let run = RunOptions { noop: case.noop, ..RunOptions::default() };
        let outcome = apply(&dir.join("state"), Some(ruby), catalog, run).await;
        assert_eq!(outcome.ruby_started, 1, "{:?}", outcome.messages);
        ours.push(Ran::of(&outcome));
    }
    assert_eq!(files(&at), their_files);
    (ours, theirs)
}

/// Takes away what differs by intent: words of the agent's own types, and what is drift, which `puppet apply` never says (its persistence is for
/// `puppet agent` alone).
fn comparable(mut runs: Vec<Ran>) -> Vec<Ran> {
    runs.iter_mut().flat_map(|run| &mut run.events).for_each(|event| event.6 = false);
    for event in runs.iter_mut().flat_map(|run| &mut run.events).filter(|event| event.0.starts_with("File[")) {
        (event.3, event.4, event.5) = Default::default();
    }
    runs
}

fn levels(at: &str, step: u64) -> Json {
    let store = |name: &str| format!("{at}/sea/{name}");
    let level = |name: &str, parameters: Json| {
        let mut all = json!({"ensure": "present", "store": store(name)});
        all.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        resource("Dpt_level", name, all)
    };
    let notify = |title: &str, parameters: Json| resource("Notify", title, parameters);
    catalog(&[
        notify("after one", json!({})),
        level("one", json!({"value": 1 + step, "marks": ["a", "b"], "notify": "Dpt_level[two]"})),
        level("two", json!({"value": "7", "marks": format!("only {step}")})),
        secret(level("hush", json!({"value": 3, "secret": format!("tres{step}passing")})), &["secret"]),
        level("noop", json!({"value": step, "noop": true})),
        level("heard two", json!({"value": 5})),
        level("unlucky", json!({"value": if step == 0 { 1 } else { 13 }, "marks": format!("unlucky {step}")})),
        notify("after unlucky", json!({"require": "Dpt_level[unlucky]"})),
        level("gone", json!({"ensure": if step < 2 { "present" } else { "absent" }, "value": 1})),
        resource("Dpt_level", "loose", json!({"store": format!("{at}/loose"), "value": 5})),
        resource("Dpt_level", "moody", json!({"store": format!("{at}/moody"), "mood": "calm", "value": 2 + step})),
        // It is needed for all stores, and heard of by one.
        resource("File", &format!("{at}/sea"), json!({"ensure": "directory", "mode": "0755"})),
        resource("File", &format!("{at}/sea/one.conf"), json!({"content": format!("step {step}"), "mode": "0644"})),
    ])
}

#[tokio::test]
async fn a_type_of_a_module_is_applied_as_by_puppet() {
    if !is_possible("types in Ruby compared with Puppet") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at").display().to_string();
    // The second run of each changes nothing but what never comes into sync.
    let catalogs = [0, 0, 1, 1, 2, 2].map(|step| levels(&at, step)).to_vec();
    let before = vec![("moody", r#"{"value":2,"mood":"unknown"}"#), ("loose", r#"{"value":4}"#)];
    let drift = vec![(1, "loose", r#"{"value":9}"#), (2, "loose", r#"{"value":8}"#)];
    let case = Case { libraries: vec![own_library()], noop: false, catalogs, before, drift };
    let (ours, theirs) = both(dir.path(), &case).await;
    let corrected = |run: &Ran| run.events.iter().filter(|event| event.6).map(|event| event.0.clone()).collect::<Vec<_>>();
    // What somebody has changed is put right; in the third run the catalog wants other values too.
    assert_eq!(
        ours.iter().map(corrected).collect::<Vec<_>>()[..3],
        [vec![], vec!["Dpt_level[loose]".to_owned()], vec!["Dpt_level[loose]".to_owned()]]
    );
    for (run, (ours, theirs)) in comparable(ours).into_iter().zip(comparable(theirs)).enumerate() {
        assert_eq!(ours, theirs, "run {run}");
        if run == 1 {
            // Everything else is as it shall be.
            let changes: Vec<_> = ours.events.iter().filter(|event| event.0.starts_with("Dpt_")).collect();
            // One drifted, one cannot be changed, and one still would be.
            let names: Vec<_> = changes.iter().map(|event| event.0.as_str()).collect();
            assert_eq!(names, ["Dpt_level[loose]", "Dpt_level[moody]", "Dpt_level[noop]"], "{changes:?}");
        }
    }
}

#[tokio::test]
async fn in_noop_puppet_and_this_agent_tell_the_same() {
    if !is_possible("noop runs of types in Ruby compared with Puppet") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at").display().to_string();
    let resources: Vec<Json> = levels(&at, 1)["resources"].as_array().unwrap()[2..].to_vec();
    let before = vec![("deep", r#"{"value":1,"marks":["x"]}"#)];
    let deep = resource("Dpt_level", "deep", json!({"store": format!("{at}/deep"), "value": 4, "marks": ["y", "it's"]}));
    let all: Vec<Json> = std::iter::once(deep).chain(resources).collect();
    // The directory is not made, so that notes could not be taken.
    let is_there = |resource: &Json| resource["title"] == "deep" || resource["type"] == "Notify";
    let kept: Vec<Json> = all.into_iter().filter(is_there).filter(|resource| resource["title"] != "after unlucky").collect();
    let case = Case { libraries: vec![own_library()], noop: true, catalogs: vec![catalog(&kept)], before, drift: Vec::new() };
    let (ours, theirs) = both(dir.path(), &case).await;
    assert_eq!(ours, theirs);
    assert!(
        ours[0].events.iter().any(|event| event.5 == r#"current_value ["x"], should be ['y', 'it\'s'] (noop)"#.replace('"', "'")),
        "{ours:?}"
    );
}

#[tokio::test]
async fn types_of_debian_modules_are_applied_as_by_puppet() {
    if !is_possible("types of modules compared with Puppet")
        || !has_module("inifile")
        || !has_module("postgresql")
        || !has_module("stdlib")
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at").display().to_string();
    let step = |memory: &str, port: &str| {
        let sub = |title: &str, subsetting: &str, value: &str| {
            resource(
                "Ini_subsetting",
                title,
                json!({"path": format!("{at}/puppetdb"), "section": "", "setting": "JAVA_ARGS", "subsetting": subsetting,
                    "value": value, "quote_char": "\"", "key_val_separator": "=", "require": "Anchor[begin]"}),
            )
        };
        let conf = |name: &str, value: &str| {
            resource(
                "Postgresql_conf",
                name,
                json!({"ensure": "present", "target": format!("{at}/postgresql.conf"), "value": value}),
            )
        };
        catalog(&[
            resource("Anchor", "begin", json!({})),
            sub("heap", "-Xmx", memory),
            sub("start", "-Xms", "128m"),
            conf("port", port),
            conf("listen_addresses", "*"),
            resource("Postgresql_conf", "fsync", json!({"ensure": "absent", "target": format!("{at}/postgresql.conf")})),
        ])
    };
    let case = Case {
        libraries: ["inifile", "postgresql", "stdlib"].map(library_of).to_vec(),
        noop: false,
        catalogs: vec![step("512m", "5432"), step("512m", "5432"), step("1g", "5433"), step("1g", "5433")],
        drift: Vec::new(),
        before: vec![
            ("puppetdb", "JAVA_ARGS=\"-Xmx192m -XX:+Use\"\n"),
            ("postgresql.conf", "# here\nport = 1 # old\nfsync = off\n"),
        ],
    };
    let (ours, theirs) = both(dir.path(), &case).await;
    assert_eq!(ours, theirs);
    for again in [1, 3] {
        assert_eq!(ours[again].events, [], "run {again}");
    }
    assert!(!ours[0].events.is_empty() && !ours[2].events.is_empty());
}
