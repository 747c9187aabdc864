//! The same crontabs and resources that Puppet was tried with, and what it made of them.

use direct_puppet_transport::protocol::Value;
use proptest::prelude::*;

use super::*;
use crate::provider::file::tests::World;

const TABLE: &str = "# my own\n\nMAILTO=me\n0 3 * * * /bin/foreign\n5  4\t* * *   /bin/odd  spaced \nno job\n";

fn cron(name: &str) -> Resource {
    Resource::new("Cron", name).with("user", "games")
}

fn list(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|value| Value::from(*value)).collect())
}

/// Applies a resource to a crontab, proves that a second time does nothing, and returns what would be said.
fn converge(table: &mut String, resource: &Resource) -> Result<Vec<String>, String> {
    let parameters = Parameters::parse(resource).map_err(|error| error.to_string())?;
    let changes = compare(resource, &parameters, &Table::parse(table.as_bytes()), Arc::default);
    *table = String::from_utf8(edit(&parameters, table.as_bytes(), Arc::default)?).unwrap();
    assert_eq!(compare(resource, &parameters, &Table::parse(table.as_bytes()), Arc::default), [], "not converged: {table}");
    assert_eq!(edit(&parameters, table.as_bytes(), Arc::default).unwrap(), table.as_bytes());
    Ok(changes.into_iter().map(|change| change.wording.unwrap().done).collect())
}

#[test]
fn jobs_are_described() {
    let table = Table::parse(b"X=y\n# Puppet Name: one\nA=b\n*/5 1,2 * jan mon /bin/true x\n@daily run it\n");
    let [one, two] = table.jobs() else { panic!("{table:?}") };
    let described = cron("one").with("ensure", "present").with("command", "/bin/true x").with("provider", "crontab");
    let described = described.with("environment", list(&["A=b"])).with("minute", list(&["*/5"])).with("hour", list(&["1", "2"]));
    let described = described.with("monthday", list(&[])).with("month", list(&["jan"])).with("weekday", list(&["mon"]));
    assert_eq!(one.describe("games", 0), described.with("target", "games"));
    let two = two.describe("games", 1);
    assert_eq!((two.title.as_str(), two.parameter("special")), ("unmanaged:run_it-1", Some(&"daily".into())));
}

#[test]
fn a_job_without_a_name_goes_to_the_first_that_it_fits() {
    let text = "A=b\n@daily /bin/true\n@daily /bin/true\n1 * * * * /bin/true\n";
    let all = [
        cron("first").with("command", "/bin/true").with("ensure", "absent"),
        cron("timed").with("command", "/bin/true").with("minute", 1),
        cron("second").with("command", "/bin/true"),
        cron("none left").with("command", "/bin/true"),
        cron("of another").with("command", "/bin/other"),
    ];
    let all = all.map(|resource| Parameters::parse(&resource).unwrap());
    let table = Table::parse(text.as_bytes());
    let assigned = Arc::new(table.assign(&all));
    let of = |table: &Table, wanted: &Parameters| table.find(wanted, || Arc::clone(&assigned)).map(|job| job.title(0));
    let place = |wanted: &Parameters| {
        let found = table.find(wanted, || Arc::clone(&assigned))?;
        table.jobs().iter().position(|job| job == found)
    };
    assert_eq!(all.each_ref().map(place), [Some(0), Some(2), Some(0), None, None], "one of the same are as good as each other");
    // After the first has taken its job away, the second still has one, and the first none.
    let gone = edit(&all[0], text.as_bytes(), || Arc::clone(&assigned)).unwrap();
    let left = Table::parse(&gone);
    assert_eq!(left.jobs().len(), 2);
    assert!(of(&left, &all[2]).is_some() && of(&left, &all[3]).is_none());
    // One that the catalog does not have, as what is purged, takes what fits.
    let purged = Parameters::parse(&cron("unmanaged:/bin/true-1").with("command", "/bin/true").with("special", "daily")).unwrap();
    assert!(of(&table, &purged).is_some());
}

#[test]
fn a_job_without_a_name_gets_one_with_its_settings() {
    let mut table = "B=c\n@daily /bin/true\n0 1 * * * /bin/later\n".to_owned();
    let resource = cron("settled").with("command", "/bin/true").with("special", "daily").with("environment", "A=b");
    assert_eq!(converge(&mut table, &resource).unwrap(), ["defined 'environment' as A=b"]);
    assert_eq!(table, "B=c\n# Puppet Name: settled\nA=b\n@daily /bin/true\n0 1 * * * /bin/later\n");
}

#[test]
fn settings_that_a_job_has_none_of_are_absent() {
    let resource = cron("one").with("command", "/bin/one").with("environment", list(&["A=b", "PATH=/bin"]));
    let parameters = Parameters::parse(&resource).unwrap();
    let changes = compare(&resource, &parameters, &Table::parse(b"# Puppet Name: one\n* * * * * /bin/one\n"), Arc::default);
    let words = changes[0].wording.as_ref().unwrap();
    assert_eq!((words.previous.as_str(), words.desired.as_str()), ("'absent'", "A=b,PATH=/bin"));
    assert_eq!((&*changes[0].previous, words.done.as_str()), ("absent", "defined 'environment' as A=b,PATH=/bin"));
}

#[test]
fn jobs_come_change_and_go() {
    let mut table = TABLE.to_owned();
    let one = cron("one").with("command", "/bin/true  x ").with("minute", vec![Value::Integer(1), "2".into()]);
    let one = one.with("hour", "*/2").with("environment", list(&["A=b", "C=d e"]));
    assert_eq!(converge(&mut table, &one).unwrap(), ["created"]);
    assert_eq!(converge(&mut table, &cron("two").with("command", "/bin/two").with("special", "daily")).unwrap(), ["created"]);
    let three = cron("three").with("command", "/bin/three").with("weekday", list(&["Mon", "friday"])).with("month", "jan");
    assert_eq!(converge(&mut table, &three.with("monthday", "1-5")).unwrap(), ["created"]);
    let foreign = cron("match").with("command", "/bin/foreign").with("hour", 3).with("minute", 0);
    assert_eq!(converge(&mut table, &foreign).unwrap(), [""; 0]);
    let added = "# Puppet Name: one\nA=b\nC=d e\n1,2 */2 * * * /bin/true  x\n# Puppet Name: two\n@daily /bin/two\n\
                 # Puppet Name: three\n* * 1-5 1 1,5 /bin/three\n";
    assert_eq!(table, format!("{TABLE}{added}"));

    let one = cron("one").with("command", "/bin/true y").with("minute", "absent").with("hour", list(&["3", "4"]));
    assert_eq!(
        converge(&mut table, &one.with("environment", "A=b")).unwrap(),
        [
            "command changed '/bin/true  x' to '/bin/true y'",
            "undefined 'minute' from ['1', '2']",
            "hour changed ['*/2'] to ['3', '4']",
            "environment changed ['A=b', 'C=d e'] to A=b",
        ]
    );
    let two = cron("two").with("command", "/bin/two").with("special", "absent").with("minute", 3);
    assert_eq!(converge(&mut table, &two).unwrap(), ["undefined 'special' from 'daily'", "defined 'minute' as ['3']"]);
    assert_eq!(converge(&mut table, &cron("three").with("ensure", "absent")).unwrap(), ["removed"]);
    assert_eq!(converge(&mut table, &foreign.with("monthday", 2)).unwrap(), ["created"]);
    let changed = "# Puppet Name: one\nA=b\n* 3,4 * * * /bin/true y\n# Puppet Name: two\n3 * * * * /bin/two\n\
                   # Puppet Name: match\n0 3 2 * * /bin/foreign\n";
    assert_eq!(table, format!("{TABLE}{changed}"));
    let bare = cron("one").with("environment", "absent");
    assert_eq!(converge(&mut table, &bare).unwrap(), ["environment changed ['A=b'] to absent"]);
    assert!(table.contains("# Puppet Name: one\n* 3,4 * * * /bin/true y\n"), "{table}");
}

/// Puppet says so in each run, and leaves the word.
#[test]
fn a_minute_takes_the_place_of_a_word() {
    let mut table = "# Puppet Name: one\n@daily /bin/one\n".to_owned();
    let one = cron("one").with("command", "/bin/one").with("minute", 3);
    assert_eq!(converge(&mut table, &one).unwrap(), ["defined 'minute' as ['3']"]);
    assert_eq!(table, "# Puppet Name: one\n3 * * * * /bin/one\n");
    assert_eq!(converge(&mut table, &one).unwrap(), [""; 0]);
}

#[test]
fn a_job_needs_a_command() {
    assert!(converge(&mut String::new(), &cron("none").with("minute", 3)).unwrap_err().contains("no command"));
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("minute", Value::Integer(59), true),
        ("minute", 60.into(), false),
        ("minute", "x".into(), false),
        ("hour", "1-5/2".into(), true),
        ("hour", list(&["1", "24"]), false),
        ("weekday", "Sunday".into(), true),
        ("weekday", 8.into(), false),
        ("month", "may".into(), true),
        ("month", 0.into(), false),
        ("monthday", "*/2".into(), true),
        ("special", "sometimes".into(), false),
        ("environment", "A".into(), false),
        ("environment", "A=b\n* * * * * evil".into(), false),
        ("command", "a\nb".into(), false),
        ("target", "other".into(), false),
        ("user", "-x".into(), false),
        ("minutes", 1.into(), false),
    ] {
        let resource = Resource::new("Cron", "it").with("user", "games").with("command", "x").with(name, value.clone());
        let result = CronProvider::default().validate(&resource);
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
    assert!(CronProvider::default().validate(&cron("a").with("special", "daily").with("minute", 1)).is_err());
}

#[tokio::test]
async fn another_root_is_refused() {
    let world = World::new();
    let error = world.converge_by(&CronProvider::default(), &cron("a").with("command", "x")).await.unwrap_err();
    assert!(error.contains("running system alone"), "{error}");
}

proptest! {
    #[test]
    fn what_is_not_touched_stays(text in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'*'), Just(b' '), any::<u8>()], 0..200)) {
        prop_assert_eq!(Table::parse(&text).print(), text);
    }

    #[test]
    fn a_job_comes_and_goes_without_a_trace(
        lines in prop::collection::vec("(# x|A=b|\\* \\* \\* \\* \\* y|@daily z|# Puppet Name: other|  |\\PC{0,10})\n", 0..8),
        settings in prop::collection::vec("[A-C]=[a-c]{0,2}", 0..3),
        minute in 0i64..60,
    ) {
        let before = lines.concat();
        let settings = settings.iter().map(|setting| Value::from(setting.as_str())).collect::<Vec<_>>();
        let resource = cron("mine").with("command", "/bin/mine").with("minute", minute).with("environment", settings);
        let mut table = before.clone();
        converge(&mut table, &resource).unwrap();
        converge(&mut table, &cron("mine").with("ensure", "absent")).unwrap();
        prop_assert_eq!(table, before);
    }
}
