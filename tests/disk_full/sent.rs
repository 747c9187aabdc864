//! What nodes send cannot fill the disk of code.

use std::fs;
use std::path::Path;
use std::time::Duration;

use direct_puppet_tests::binaries::json;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::files;
use direct_puppet_transport::protocol::report::Log;
use direct_puppet_transport::protocol::{RefusalCode, Report};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{CallError, Client, ConnectOptions, connect};

use super::{Disk, World, said};

/// A report of about so many bytes.
fn report(node: &str, number: u32, bytes: usize) -> Report {
    let log = Log { level: "notice".to_owned(), message: "x".repeat(bytes), source: "Puppet".to_owned(), time_unix_nanos: 0 };
    Report {
        transaction_uuid: format!("{number:032x}"),
        time_unix_nanos: i64::from(number) * 1_000_000_000,
        logs: vec![log],
        ..samples::report(node)
    }
}

/// Sends reports to a server; returns how many it took.
fn send(url: &str, reports: impl Iterator<Item = Report>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(connect(url, &ConnectOptions::default()).unwrap());
        let mut taken = 0;
        for report in reports {
            match client.report(&report).await {
                Ok(accepted) => taken += usize::from(!accepted.duplicate),
                Err(CallError::Refused(refusal)) => {
                    assert!(refusal.code == RefusalCode::Busy && refusal.retry_after_seconds.is_some(), "{refusal:?}");
                    assert!(refusal.message.contains("no room"), "{refusal:?}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        taken
    })
}

/// Returns how many reports lie in a data directory, with their bytes, and how many nodes have any.
fn kept(data: &Path) -> (usize, u64, usize) {
    let nodes = fs::read_dir(data.join("nodes")).unwrap().map(|node| node.unwrap().path().join("reports"));
    let of_node = |dir: std::path::PathBuf| -> Vec<u64> {
        fs::read_dir(dir).into_iter().flatten().map(|report| report.unwrap().metadata().unwrap().len()).collect()
    };
    let all: Vec<Vec<u64>> = nodes.map(of_node).filter(|sizes| !sizes.is_empty()).collect();
    let sizes = all.iter().flatten();
    (sizes.clone().count(), sizes.sum(), all.len())
}

fn start(world: &World) -> Serving {
    world.start("a", &["--staging", &world.staging()])
}

#[test]
fn a_flood_of_reports_leaves_room_for_code_and_for_the_reports_of_others() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount(&data) else { return };
    let server = start(&world);
    assert!(server.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    let url = world.url("a");
    assert_eq!(send(&url, (0..5).map(|number| report("quiet", number, 10_000))), 5);
    // Eight times the disk.
    assert_eq!(send(&url, (0..500).map(|number| report("flood", number, 100_000))), 500);
    let (count, bytes, nodes) = kept(&data);
    assert!(bytes <= 6 << 18, "{bytes} bytes of reports: more than a quarter of the disk");
    // One report of node1, five of the quiet one; the rest are the last of the flood.
    assert!(nodes == 3 && count >= 6 + 10, "{count} reports of {nodes} nodes");
    assert_eq!(send(&url, (0..5).map(|number| report("quiet", number, 10_000))), 0, "the quiet one's are all there");
    assert_eq!(send(&url, [report("flood", 499, 100_000)].into_iter()), 0, "and so is the last");
    // Half of the disk is still for code.
    fs::write(world.site.tree().join("big"), vec![7; 2 << 20]).unwrap();
    let published = server.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    // One that takes more than all may have.
    assert_eq!(send(&url, [report("flood", 1000, 2 << 20)].into_iter()), 0);
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    // A server that starts counts what is there.
    drop(server);
    let _server = start(&world);
    assert_eq!(send(&url, (2000..2040).map(|number| report("flood", number, 100_000))), 40);
    let (_, bytes, nodes) = kept(&data);
    assert!(bytes <= 6 << 18 && nodes == 3, "{bytes} bytes of {nodes} nodes");
}

fn free_bytes(data: &Path) -> u64 {
    let found = rustix::fs::statvfs(data).unwrap();
    found.f_bavail * found.f_frsize
}

fn free_files(data: &Path) -> u64 {
    rustix::fs::statvfs(data).unwrap().f_favail
}

#[test]
fn reports_wait_while_the_disk_is_nearly_full_and_code_goes_on() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount(&data) else { return };
    let server = world.start("a", &["--staging", &world.staging(), "--keep-free-bytes", "2500000"]);
    assert!(server.verb(&["publish"]).status.success());
    fs::write(data.join("ballast"), vec![1; 3_900_000]).unwrap();
    let url = world.url("a");
    assert_eq!(send(&url, (0..20).map(|number| report("n1", number, 1_000))), 0);
    // A run is applied all the same; its report waits for the next.
    let run = world.agent("root", "a");
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    assert_eq!(kept(&data).0, 0);
    world.site.fill(super::FILES, "v1");
    fs::write(world.site.tree().join("big"), vec![7; 500_000]).unwrap();
    let published = server.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    fs::remove_file(data.join("ballast")).unwrap();
    assert_eq!(send(&url, (0..20).map(|number| report("n1", number, 1_000))), 20);
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    // Its own, and the one that waited.
    assert_eq!(kept(&data).0, 22);
}

/// Something else fills the disk: who floods makes room for all that comes, and nobody else loses anything.
#[test]
fn on_a_nearly_full_disk_a_flood_has_its_own_room_and_others_are_heard() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount(&data) else { return };
    let server = world.start("a", &["--staging", &world.staging(), "--keep-free-bytes", "2500000"]);
    assert!(server.verb(&["publish"]).status.success());
    let url = world.url("a");
    assert_eq!(send(&url, (0..3).map(|number| report("quiet", number, 1_000))), 3);
    assert_eq!(send(&url, (0..10).map(|number| report("flood", number, 50_000))), 10);
    let before = kept(&data);
    fs::write(data.join("ballast"), vec![1; usize::try_from(free_bytes(&data) - 2_000_000).unwrap()]).unwrap();
    assert_eq!(send(&url, (10..60).map(|number| report("flood", number, 50_000))), 50);
    assert_eq!(send(&url, (3..6).map(|number| report("quiet", number, 1_000))), 3);
    let after = kept(&data);
    // Six of the quiet one, and its three were made room for.
    assert!(after.2 == 2 && after.0 >= 6 + 8 && after.1 <= before.1, "{before:?} became {after:?}");
    assert_eq!(send(&url, (0..6).map(|number| report("quiet", number, 1_000))), 0, "the quiet one's are all there");
    assert!(free_bytes(&data) >= 2_000_000 - (64 << 10), "{} bytes are free", free_bytes(&data));
    // What has no room even instead of all others is refused, and costs nobody anything.
    assert_eq!(send(&url, [report("new", 0, 1_200_000)].into_iter()), 0);
    assert_eq!(kept(&data), after);
}

#[test]
fn a_publish_for_which_the_disk_has_no_files_is_refused_before_it_takes_them() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount_with(&data, "size=30m,nr_inodes=220,mode=0700") else { return };
    let server = start(&world);
    assert!(server.verb(&["publish"]).status.success());
    let before = live(&server);
    let free = || free_files(&data);
    let free_before = free();
    for number in 0..120u8 {
        fs::write(world.site.tree().join(format!("large{number}")), vec![number; 70_000]).unwrap();
    }
    let refused = server.verb(&["publish"]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("space for another file"), "{}", said(&refused));
    assert_eq!((live(&server), free()), (before, free_before));
    (10..120u8).for_each(|number| fs::remove_file(world.site.tree().join(format!("large{number}"))).unwrap());
    assert!(server.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    assert!(world.has_arrived("root"));
}

#[test]
fn a_publish_that_does_not_fit_writes_nothing_and_one_whose_contents_are_here_fits() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount_with(&data, "size=12m,mode=0700") else { return };
    let server = start(&world);
    fs::write(world.site.tree().join("big"), vec![7; 4 << 20]).unwrap();
    assert!(server.verb(&["publish"]).status.success());
    let free = || free_bytes(&data);
    let before = free();
    fs::write(world.site.tree().join("big2"), vec![8; 8 << 20]).unwrap();
    let (done, watched) = (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicU64::new(before));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                watched.fetch_min(free(), std::sync::atomic::Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let refused = server.verb(&["publish"]);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        let said = said(&refused);
        assert!(refused.status.code() == Some(1) && said.contains("8388608 bytes have no space"), "{said}");
    });
    // What the attempt itself notes is all it took.
    let taken = before - watched.into_inner();
    assert!(taken < 1 << 20, "{taken} bytes were taken for a publish that does not fit");
    // The same contents under other names, which by their sizes would not fit.
    fs::remove_file(world.site.tree().join("big2")).unwrap();
    for copy in 0..4 {
        fs::copy(world.site.tree().join("big"), world.site.tree().join(format!("copy{copy}"))).unwrap();
    }
    let published = json(&server.verb(&["publish"]));
    assert!(published.to_string().contains("\"new_contents\":0"), "{published}");
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    assert_eq!(files(&world.dir.path().join("root/srv/tree")).len(), super::FILES + 5);
}

#[test]
fn reports_wait_while_the_disk_has_hardly_another_file() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount_with(&data, "size=30m,nr_inodes=2000,mode=0700") else { return };
    let server = start(&world);
    assert!(server.verb(&["publish"]).status.success());
    let free = || free_files(&data);
    let ballast = data.join("ballast");
    fs::create_dir(&ballast).unwrap();
    // Of a hundred files that it can have one stays free: by themselves these reports would have room.
    (15..free()).for_each(|number| fs::write(ballast.join(number.to_string()), "").unwrap());
    let url = world.url("a");
    assert_eq!((send(&url, (0..5).map(|number| report("n1", number, 1_000))), free()), (0, 15));
    let run = world.agent("root", "a");
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    assert_eq!(kept(&data).0, 0);
    fs::remove_dir_all(&ballast).unwrap();
    assert_eq!(send(&url, (0..5).map(|number| report("n1", number, 1_000))), 5);
    assert_eq!(send(&url, [report("n1", 5, 20_000)].into_iter()), 1);
    // What comes then has the place of what goes, a file for a file.
    let before = kept(&data).0;
    fs::create_dir(&ballast).unwrap();
    (15..free()).for_each(|number| fs::write(ballast.join(number.to_string()), "").unwrap());
    assert_eq!(send(&url, (6..40).map(|number| report("n1", number, 1_000))), 34);
    assert!(kept(&data).0 <= before && free() >= 15, "{} reports, {} files are free", kept(&data).0, free());
}

/// Contents may lie on a disk of their own: what makes them live needs room on the other.
#[test]
fn a_publish_for_which_only_the_disk_of_contents_has_room_is_refused() {
    let world = World::new();
    let data = world.dir.path().join("a/data");
    let Some(_disk) = Disk::mount(&data) else { return };
    let Some(_store) = Disk::mount_with(&data.join("store"), "size=30m,mode=0700") else { return };
    let server = start(&world);
    assert!(server.verb(&["publish"]).status.success());
    let before = live(&server);
    let free = || free_bytes(&data);
    // Each of its writes would have room.
    fs::write(data.join("ballast"), vec![1; usize::try_from(free() - (900 << 10)).unwrap()]).unwrap();
    fs::write(world.site.tree().join("new"), "new").unwrap();
    let refused = server.verb(&["publish"]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("1048576 bytes have no space"), "{}", said(&refused));
    assert_eq!(live(&server), before);
    fs::remove_file(data.join("ballast")).unwrap();
    assert!(server.verb(&["publish"]).status.success());
    assert_ne!(live(&server), before);
}
