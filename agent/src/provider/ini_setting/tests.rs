//! The same files and resources that inifile was tried with, and what it made of them.

use direct_puppet_transport::protocol::Value;
use proptest::prelude::*;

use super::ini_file::{Format, FormatOptions};
use super::*;
use crate::provider::file::tests::World;

const FILE: &str = "a=1\n[s]\nb = 2\n;c = 3\n\n[t]\n  d=4\n";

fn setting(section: &str, setting: &str, value: impl Into<Value>) -> Resource {
    let resource = Resource::new("Ini_setting", "it").with("path", "/f").with("section", section);
    resource.with("setting", setting).with("value", value)
}

async fn converge(world: &World, resource: &Resource) -> Vec<String> {
    world.converge_by(&IniSettingProvider, resource).await.unwrap()
}

#[tokio::test]
async fn settings_come_change_and_go() {
    let world = World::new();
    world.write("/f", FILE);
    assert_eq!(converge(&world, &setting("s", "b", "9")).await, ["value changed 2 to 9"]);
    assert_eq!(converge(&world, &setting("s", "c", " c v ")).await, ["created"]);
    assert_eq!(converge(&world, &setting("t", "e", vec![Value::from("1"), 2.into()])).await, ["created"]);
    assert_eq!(converge(&world, &setting("new", "f", true).with("key_val_separator", "=")).await, ["created"]);
    assert_eq!(converge(&world, &setting("", "g", "x").with("show_diff", false)).await, ["created"]);
    assert_eq!(converge(&world, &setting("t", "d", "x").with("ensure", "absent")).await, ["removed"]);
    assert_eq!(converge(&world, &setting("no", "d", "1").with("force_new_section_creation", false)).await, [""; 0]);
    let section = Resource::new("Ini_setting", "it").with("path", "/f").with("section", "only");
    assert_eq!(converge(&world, &section).await, ["created"]);
    let expected = "a=1\ng = x\n[s]\nb = 9\n;c = 3\nc = c v\n\n[t]\n  e = 1\n  e = 2\n\n[new]\nf=true\n\n[only]\n";
    assert_eq!(world.read("/f"), expected);
    assert_eq!(converge(&world, &setting("t", "e", "3")).await, ["value changed [\"1\",\"2\"] to 3"]);
    assert_eq!(world.read("/f"), expected.replace("  e = 1\n  e = 2\n", "  e = 3\n"));
}

#[tokio::test]
async fn a_new_file_begins_with_its_section() {
    let world = World::new();
    converge(&world, &setting("s", "a", "1")).await;
    assert_eq!(world.read("/f"), "[s]\na = 1\n");
    converge(&world, &setting("", "b", "2")).await;
    assert_eq!(world.read("/f"), "b = 2\n\n[s]\na = 1\n");
}

#[tokio::test]
async fn values_are_shown_as_the_resource_wants() {
    let world = World::new();
    world.write("/f", "[s]\na = old\n");
    let change = async |resource: Resource| {
        let changes = IniSettingProvider.check(&world.context(), &Arc::new(resource)).await.unwrap().changes;
        format!("{:?}", changes[0])
    };
    let hidden = change(setting("s", "a", "new").with("show_diff", false)).await;
    assert!(hidden.contains(HIDDEN) && !hidden.contains("new") && !hidden.contains("old"), "{hidden}");
    let md5 = change(setting("s", "a", "new").with("show_diff", "md5")).await;
    assert!(md5.contains("{md5}22af645d1859cb5ca6da0c484f1f37ea") && !md5.contains("\"new"), "{md5}");
    let secret = change(setting("s", "a", Value::Sensitive(Box::new("new".into())))).await;
    assert!(secret.contains("[redacted]") && !secret.contains("new") && !secret.contains("old"), "{secret}");
}

#[tokio::test]
async fn refresh_only_changes_when_refreshed() {
    let world = World::new();
    world.write("/f", "[s]\na = 1\n");
    let resource = Arc::new(setting("s", "a", "2").with("refreshonly", true));
    assert_eq!(converge(&world, &resource).await, [""; 0]);
    assert!(IniSettingProvider.refresh(&world.context(), &resource).await.unwrap());
    assert_eq!(world.read("/f"), "[s]\na = 2\n");
    let other = Arc::new(setting("s", "a", "3"));
    assert!(!IniSettingProvider.refresh(&world.context(), &other).await.unwrap());
}

#[tokio::test]
async fn odd_formats() {
    let world = World::new();
    world.write("/f", b"\xff\n-s-\nkey:value\nk.y v\n");
    let colon = |resource: Resource| resource.with("key_val_separator", ":");
    let resource = colon(setting("s", "key", "new")).with("section_prefix", "-").with("section_suffix", "-");
    converge(&world, &resource).await;
    let indented = setting("s", "x", "1").with("section_prefix", "-").with("section_suffix", "-").with("key_val_separator", " ");
    converge(&world, &indented.with("indent_char", "\t").with("indent_width", 2)).await;
    assert_eq!(world.read_bytes("/f"), b"\xff\n-s-\nkey:new\nk.y v\n\t\tx 1\n");
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("path", Value::from("f"), false),
        ("value", "a\nb".into(), false),
        ("value", Value::Integer(5), true),
        ("show_diff", "md5".into(), true),
        ("show_diff", "maybe".into(), false),
        ("key_val_separator", "".into(), false),
        ("key_val_separator", "^[".into(), true),
        ("indent_width", (-1).into(), false),
        ("seting", "x".into(), false),
    ] {
        let result = IniSettingProvider.validate(&setting("s", "a", "1").with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
}

proptest! {
    #[test]
    fn what_is_set_is_read_and_the_rest_stays(
        text in "(([a-c]?[ =;#]{0,2}[a-c]?|\\[[a-c]\\]| {2}[ab]=1)\n){0,8}",
        section in "[a-c]?",
        name in "[a-c]",
        values in prop::collection::vec("[a-z]{0,3}", 1..3),
    ) {
        let format = Format::new(FormatOptions {
            separator: "=".into(), section_prefix: "[".into(), section_suffix: "]".into(), indent_char: " ".into(), indent_width: None,
        }).unwrap();
        prop_assert_eq!(IniFile::parse(&format, text.as_bytes()).print(), text.as_bytes());
        let mut file = IniFile::parse(&format, text.as_bytes());
        file.set(&section, &name, &values);
        let printed = file.print();
        let again = IniFile::parse(&format, &printed);
        let expected: Vec<Vec<u8>> = values.iter().map(|value| value.clone().into_bytes()).collect();
        prop_assert_eq!(again.values(&section, &name), Some(expected));
        let is_setting = |line: &str| line.trim_start().starts_with(&name) && line.contains('=');
        let others = |text: &str| text.lines().filter(|line| !is_setting(line) && !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let mut before = others(&text);
        let after = others(std::str::from_utf8(&printed).unwrap());
        if after.len() > before.len() {
            before.push(format!("[{section}]"));
        }
        prop_assert_eq!(after, before);
    }
}
