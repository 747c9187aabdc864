//! What parameters may be, alone and together.

use direct_puppet_transport::protocol::{Catalog, Environment, Value};

use super::*;
use crate::provider::file::managed_path;

fn refused(resource: &Resource) -> String {
    match FileProvider::new().validate(resource) {
        Err(ProviderError::Parameter { parameter, .. }) => parameter,
        other => panic!("{other:?}"),
    }
}

#[test]
fn single_values() {
    let (yes, no) = (true, false);
    for (name, value, valid) in [
        ("ensure", Value::from("present"), yes),
        ("ensure", "absent".into(), yes),
        ("ensure", false.into(), yes),
        ("ensure", "/etc/target".into(), yes),
        ("ensure", "flie".into(), no),
        ("ensure", true.into(), no),
        ("ensure", Value::Integer(1), no),
        ("mode", "0644".into(), yes),
        ("mode", Value::Sensitive(Box::new("0644".into())), yes),
        ("mode", "u=rwX,g=u".into(), yes),
        ("mode", 420.into(), no),
        ("mode", "999".into(), no),
        ("owner", "root".into(), yes),
        ("owner", 0.into(), yes),
        ("owner", "1000".into(), yes),
        ("owner", (-1).into(), no),
        ("owner", "4294967295".into(), no),
        ("owner", "".into(), no),
        ("group", true.into(), no),
        ("recurse", true.into(), yes),
        ("recurse", "false".into(), yes),
        ("recurse", 3.into(), no),
        ("recurselimit", 3.into(), yes),
        ("recurselimit", "3".into(), yes),
        ("recurselimit", (-3).into(), no),
        ("max_files", (-1).into(), yes),
        ("max_files", "x".into(), no),
        ("ignore", "*.a".into(), yes),
        ("ignore", vec![Value::from("a"), "b".into()].into(), yes),
        ("ignore", 1.into(), no),
        ("purge", "yes".into(), yes),
        ("purge", "maybe".into(), no),
        ("force", 1.into(), no),
        ("links", "follow".into(), yes),
        ("links", "ignore".into(), no),
        ("replace", "no".into(), yes),
        ("backup", ".bak".into(), yes),
        ("backup", "main".into(), yes),
        ("backup", false.into(), yes),
        ("backup", "./x".into(), no),
        ("backup", ".".into(), no),
        ("backup", 1.into(), no),
        ("show_diff", false.into(), yes),
        ("checksum", "sha384".into(), yes),
        ("checksum", "crc32".into(), no),
        ("checksum_value", "00".into(), no),
        ("source", "/a".into(), yes),
        ("source", "file:///a%20b".into(), yes),
        ("source", "file:///a%2".into(), no),
        ("source", "puppet:///modules/a/b".into(), yes),
        ("source", "http://x/y".into(), yes),
        ("source", "HTTPS://me:p@x:8443/y?z#a".into(), yes),
        ("source", "http://".into(), no),
        ("source", "https:///y".into(), no),
        ("source", "http://x/a b".into(), no),
        ("source", "ftp://x/y".into(), no),
        ("source", "relative".into(), no),
        ("source", "".into(), no),
        ("source", "/a/../b".into(), no),
        ("source", vec![Value::from("/a"), 1.into()].into(), no),
        ("source_permissions", "use".into(), yes),
        ("source_permissions", "sometimes".into(), no),
        ("sourceselect", "first".into(), yes),
        ("sourceselect", "all".into(), yes),
        ("sourceselect", "some".into(), no),
        ("content", "text".into(), yes),
        ("content", Value::Binary(vec![0, 255]), yes),
        ("content", Value::Sensitive(Box::new("text".into())), yes),
        ("content", 5.into(), no),
        ("target", "a".into(), yes),
        ("target", "".into(), no),
        ("target", "a\0b".into(), no),
        ("validate_cmd", "/bin/true %".into(), yes),
        ("validate_cmd", "true %".into(), no),
        ("validate_cmd", "/bin/true '".into(), no),
        ("selrange", "s0".into(), yes),
        ("noop", true.into(), yes),
        ("contents", "misspelt".into(), no),
    ] {
        let resource = file("/x").with(name, value.clone());
        let result = FileProvider::new().validate(&resource);
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        if !valid {
            assert_eq!(refused(&resource), name);
        }
    }
    let mixed = file("/x").with("source", vec![Value::from("/a"), "puppet:///modules/a/b".into()]).with("sourceselect", "all");
    assert_eq!(refused(&mixed.with("recurse", true)), "sourceselect");
}

#[test]
fn paths() {
    for (title, path) in [("/a", Some("/a")), ("/a/", Some("/a")), ("//a///b", Some("/a/b")), ("/", Some("/")), ("a", None)] {
        assert_eq!(managed_path(&file(title)).ok().map(|path| path.absolute()).as_deref(), path, "{title}");
    }
    for odd in ["", "/a/../b", "/..", "/a\0b", "C:/a", "\u{1F980}", &format!("/{}", "a".repeat(256)), &"/a".repeat(3000)] {
        assert_eq!(refused(&file(odd)), "path", "{odd}");
    }
    assert_eq!(managed_path(&file("motd").with("path", "/etc/motd")).unwrap().absolute(), "/etc/motd");
    assert_eq!(refused(&file("/x").with("path", 1)), "path");
}

#[test]
fn combinations() {
    let content = || file("/x").with("content", "a");
    for (resource, parameter) in [
        (content().with("source", "/a"), "content"),
        (content().with("target", "/a"), "content"),
        (file("/x").with("source", "/a").with("target", "/b"), "content"),
        (content().with("ensure", "directory"), "content"),
        (content().with("ensure", "link"), "target"),
        (content().with("ensure", "/a"), "content"),
        (file("/x").with("ensure", "link"), "target"),
        (file("/x").with("ensure", "file").with("target", "/a"), "target"),
        (file("/x").with("recurse", "remote"), "recurse"),
        (file("/").with("ensure", "absent").with("force", true), "ensure"),
        (file("/x").with("source", "/a").with("checksum", "none"), "checksum"),
        (content().with("checksum", "mtime"), "checksum"),
        (content().with("validate_cmd", "/bin/true").with("validate_replacement", ""), "validate_replacement"),
    ] {
        assert_eq!(refused(&resource), parameter, "{resource:?}");
    }
    for resource in [
        content().with("ensure", "absent"),
        file("/x").with("ensure", "absent").with("target", "/a"),
        file("/x").with("ensure", "present").with("target", "/a"),
    ] {
        FileProvider::new().validate(&resource).unwrap();
    }
}

#[test]
fn comes_after_directories_target_and_accounts() {
    let catalog = Catalog {
        format: 1,
        certname: "n1".parse().unwrap(),
        environment: Environment::default(),
        classes: Vec::new(),
        resources: Vec::new(),
        edges: Vec::new(),
    };
    let resource = file("/a/b/link").with("target", "../c").with("owner", "web").with("group", "33");
    let required: Vec<String> = FileProvider::new().autorequire(&resource, &catalog).iter().map(ToString::to_string).collect();
    let directories = ["File[/a/b]", "Mount[/a/b]", "File[/a]", "Mount[/a]", "File[/]", "Mount[/]"];
    assert_eq!(required, [&directories[..], &["File[/a/c]", "User[web]"]].concat());
    assert_eq!(FileProvider::new().alias(&file("motd").with("path", "/etc/motd/")).as_deref(), Some("/etc/motd"));
    assert_eq!(FileProvider::new().alias(&file("/etc/motd")), None);
}

#[test]
fn wanted_names_contents_within_reach() {
    let world = World::new();
    let provider = FileProvider::new();
    let tree = || sourced(&world, "/t", &["d", "f a 1", "d b", "f b/c 2", "d b/d", "f b/d/e 3", "f x.swp 4"]);
    let names = |resource: &Resource, managed: &[&str]| -> Vec<String> {
        let managed = managed.iter().map(|path| TreePath::from_absolute(path.as_bytes()).unwrap()).collect();
        provider.wanted(resource, &managed).unwrap().iter().map(|wanted| wanted.path.absolute()).collect()
    };
    assert_eq!(names(&tree(), &[]), [""; 0]);
    let recursive = || tree().with("recurse", true).with("ignore", "*.swp");
    assert_eq!(names(&recursive(), &["/t"]), ["/t/a", "/t/b/c", "/t/b/d/e"]);
    assert_eq!(names(&recursive(), &["/t", "/t/b/d"]), ["/t/a", "/t/b/c"]);
    assert_eq!(names(&recursive().with("recurselimit", 2), &[]), ["/t/a", "/t/b/c"]);
    assert_eq!(names(&recursive().with("ensure", "absent"), &[]), [""; 0]);
    let inline = file("/x").with("content", "abc").with("replace", false);
    let wanted = provider.wanted(&inline, &ManagedPaths::default()).unwrap();
    assert_eq!((wanted[0].digest, wanted[0].size, wanted[0].replace), (Digest::of(b"abc"), 3, false));
    assert_eq!(provider.carried(&inline), [Digest::of(b"abc")]);
}
