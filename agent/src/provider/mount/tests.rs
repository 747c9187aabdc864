//! Entries below a root of their own; mounting is tried on a real system, in `tests/providers.rs`.

use direct_puppet_transport::protocol::Value;

use super::*;
use crate::provider::file::tests::World;

const FSTAB: &str = "/dev/sda1 / ext4 errors=remount-ro 0 1\n# c\nproc  /proc proc defaults 0 0\nshort\n";

fn mount(name: &str) -> Resource {
    Resource::new("Mount", name).with("ensure", "defined")
}

#[tokio::test]
async fn entries_come_change_and_go() {
    let world = World::new();
    world.write("/etc/fstab", FSTAB);
    let provider = MountProvider::default();
    let new = mount("/mnt/a b/").with("device", "/dev/x y").with("fstype", "ext4").with("dump", 1).with("pass", "2");
    assert_eq!(world.converge_by(&provider, &new).await.unwrap(), ["defined 'ensure' as 'defined'"]);
    assert_eq!(world.read("/etc/fstab"), format!("{FSTAB}/dev/x\\040y\t/mnt/a\\040b\text4\tdefaults\t1\t2\n"));
    let other = mount("/mnt/a b").with("device", "tmpfs").with("fstype", "tmpfs").with("options", "size=2m");
    assert_eq!(
        world.converge_by(&provider, &other).await.unwrap(),
        [
            "device changed '/dev/x y' to 'tmpfs'",
            "fstype changed 'ext4' to 'tmpfs'",
            "options changed 'defaults' to 'size=2m'",
            "pass changed '2' to 0",
            "dump changed '1' to 0",
        ]
    );
    let root = mount("/").with("device", "/dev/sda1").with("fstype", "ext4").with("pass", 1);
    assert_eq!(world.converge_by(&provider, &root).await.unwrap(), [""; 0]);
    let only = Resource::new("Mount", "/proc").with("fstype", "procx");
    assert_eq!(world.converge_by(&provider, &only).await.unwrap(), ["fstype changed 'proc' to 'procx'"]);
    assert_eq!(world.converge_by(&provider, &Resource::new("Mount", "/none").with("fstype", "x")).await.unwrap(), [""; 0]);
    let gone = Resource::new("Mount", "/mnt/a b").with("ensure", "absent");
    assert_eq!(world.converge_by(&provider, &gone).await.unwrap(), ["undefined 'ensure' from 'unmounted'"]);
    let expected = FSTAB.replace("proc  /proc proc defaults 0 0", "proc\t/proc\tprocx\tdefaults\t0\t0");
    assert_eq!(world.read("/etc/fstab"), expected);
}

#[tokio::test]
async fn nothing_is_mounted_for_another_root() {
    let world = World::new();
    let resource = mount("/mnt").with("ensure", "mounted").with("device", "tmpfs").with("fstype", "tmpfs");
    let error = world.converge_by(&MountProvider::default(), &resource).await.unwrap_err();
    assert!(error.contains("running system alone"), "{error}");
    assert!(!world.exists("/etc/fstab"));
}

#[tokio::test]
async fn a_new_entry_needs_device_and_type() {
    let world = World::new();
    for (resource, field) in [(mount("/a").with("fstype", "x"), "device"), (mount("/a").with("device", "x"), "fstype")] {
        let error = world.converge_by(&MountProvider::default(), &resource).await.unwrap_err();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("ensure", Value::from("ghost"), false),
        ("options", "a b".into(), false),
        ("fstype", "".into(), false),
        ("dump", 2.into(), false),
        ("pass", (-1).into(), false),
        ("device", "a\tb".into(), false),
        ("device", "a b".into(), true),
        ("atboot", true.into(), true),
        ("remounts", "x".into(), false),
        ("option", "x".into(), false),
    ] {
        let result = MountProvider::default().validate(&mount("/a").with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
}

#[test]
fn mounts_above_come_first() {
    let catalog = Catalog {
        format: 1,
        certname: "n".parse().unwrap(),
        environment: direct_puppet_transport::protocol::Environment::default(),
        classes: Vec::new(),
        resources: Vec::new(),
        edges: Vec::new(),
    };
    let required = MountProvider::default().autorequire(&mount("/a/b/c/"), &catalog);
    assert_eq!(required.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Mount[/a/b]", "Mount[/a]", "Mount[/]"]);
}
