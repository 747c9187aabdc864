//! Room that is taken, and made, in real directories.

use super::*;

const BLOCK: u64 = 4096;

fn room(dir: &Path, blocks: u64) -> Room {
    Room::open(dir, Some(blocks * BLOCK), Some(0)).unwrap()
}

fn send(room: &Room, node: &Path, name: &str, blocks: u64) -> Result<(), ServerError> {
    let taken = room.take(node, blocks * BLOCK)?;
    std::fs::create_dir_all(node.join("reports")).unwrap();
    std::fs::write(node.join("reports").join(name), vec![0; usize::try_from(blocks * BLOCK).unwrap()]).unwrap();
    taken.written();
    Ok(())
}

/// What others remove is room again, without a word; what is being written is let alone.
#[test]
fn what_was_removed_by_hand_is_found_to_be_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = (dir.path().join("node"), dir.path().join("other"));
    let room = room(dir.path(), 8);
    for number in 0..7 {
        send(&room, &node, &format!("{number}"), 1).unwrap();
    }
    std::fs::remove_dir_all(node.join("reports")).unwrap();
    let writing = room.take(&node, BLOCK).unwrap();
    std::fs::create_dir_all(node.join("reports")).unwrap();
    std::fs::write(node.join("reports/8.new"), "half").unwrap();
    for number in 0..8 {
        send(&room, &other, &format!("{number}"), 1).unwrap();
    }
    assert!(node.join("reports/8.new").exists() && names(&node).is_empty());
    assert_eq!(names(&other).len(), 6);
    drop(writing);
    assert_eq!(counted(&room), (6 * BLOCK, 0));
}

/// What is counted, and of that what is not written yet.
fn counted(room: &Room) -> (u64, u64) {
    let used = room.used();
    (used.total, used.pending)
}

fn names(node: &Path) -> Vec<String> {
    let files = files_of(node).unwrap();
    files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn one_that_floods_loses_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (quiet, flood) = (dir.path().join("quiet"), dir.path().join("flood"));
    let room = room(dir.path(), 20);
    for number in 0..3 {
        send(&room, &quiet, &format!("{number}"), 1).unwrap();
    }
    for number in 0..100 {
        send(&room, &flood, &format!("{number:03}"), 1).unwrap();
    }
    assert_eq!(names(&quiet), ["0", "1", "2"]);
    let left = names(&flood);
    assert!((16..=17).contains(&left.len()) && left.last().unwrap() == "099", "{left:?}");
    let on_disk: u64 =
        [&quiet, &flood].map(|node| files_of(node).unwrap().iter().map(|file| file.bytes).sum::<u64>()).iter().sum();
    assert_eq!(counted(&room), (on_disk, 0));
    // A start counts the same.
    assert_eq!(counted(&self::room(dir.path(), 20)).0, on_disk);
    let again = self::room(dir.path(), 20);
    let of_each = |room: &Room| -> std::collections::BTreeMap<PathBuf, u64> {
        room.used().by_node.iter().map(|(node, used)| (node.clone(), used.bytes)).collect()
    };
    assert_eq!(of_each(&again), of_each(&room));
}

/// All have the same, and one file only: that they are a little over is no reason for all to lose it.
#[test]
fn no_more_goes_than_must() {
    let dir = tempfile::tempdir().unwrap();
    let nodes: Vec<_> = (0..100).map(|number| dir.path().join(format!("node{number}"))).collect();
    let room = room(dir.path(), 99);
    for node in &nodes {
        send(&room, node, "1", 1).unwrap();
    }
    let left = nodes.iter().filter(|node| !names(node).is_empty()).count();
    assert_eq!((left, counted(&room)), (97, (97 * BLOCK, 0)));
    assert_eq!(names(&nodes[99]), ["1"], "the one that was being sent went");
}

/// Nearly equal they all are over what each may have, and who has most loses first.
#[test]
fn of_nearly_equal_ones_the_largest_is_first() {
    let dir = tempfile::tempdir().unwrap();
    let room = room(dir.path(), 110);
    let flood = dir.path().join("5");
    for node in (0..10).filter(|node| *node != 5).map(|node| dir.path().join(format!("{node}"))) {
        send(&room, &node, "1", 11).unwrap();
    }
    for number in 0..12 {
        send(&room, &flood, &format!("{number:02}"), 1).unwrap();
    }
    assert_eq!((names(&flood).len(), counted(&room).0), (10, 98 * BLOCK));
}

/// Others fill the disk: nodes have what they had, and who floods makes room for the rest.
#[test]
fn on_a_full_disk_the_new_has_the_room_of_the_oldest_of_those_that_have_most() {
    let dir = tempfile::tempdir().unwrap();
    let (quiet, flood, new) = (dir.path().join("quiet"), dir.path().join("flood"), dir.path().join("new"));
    let mut room = room(dir.path(), 1000);
    send(&room, &quiet, "0", 1).unwrap();
    for number in 0..20 {
        send(&room, &flood, &format!("{number:03}"), 1).unwrap();
    }
    room.keep_free = u64::MAX / 2;
    send(&room, &new, "0", 2).unwrap();
    for number in 20..120 {
        send(&room, &flood, &format!("{number:03}"), 1).unwrap();
    }
    assert_eq!((names(&quiet), names(&new)), (vec!["0".to_owned()], vec!["0".to_owned()]));
    let left = names(&flood);
    assert!(left.len() >= 17 && left.last().unwrap() == "119", "{left:?}");
    assert!(counted(&room).0 <= 21 * BLOCK && counted(&room).1 == 0, "{:?}", counted(&room));
    // One that had the room of all would be refused, and nothing goes for it.
    let before = counted(&room);
    let refused = room.take(&new, 22 * BLOCK).unwrap_err();
    assert!(refused.to_string().contains("--keep-free-bytes") && disk::is_full(&refused), "{refused}");
    assert_eq!((counted(&room), names(&flood)), (before, left));
    // With room there, they grow again.
    room.keep_free = 0;
    for number in 120..160 {
        send(&room, &flood, &format!("{number:03}"), 1).unwrap();
    }
    assert_eq!(counted(&room).0, before.0 + 40 * BLOCK);
    // And have what they have then.
    room.keep_free = u64::MAX / 2;
    send(&room, &flood, "160", 1).unwrap();
    assert!(counted(&room).0 >= before.0 + 38 * BLOCK, "{:?}", counted(&room));
}

fn space(free: u64, files: Option<u64>) -> Option<disk::Space> {
    let files = files.map(|free| disk::Files { all: 1000, free });
    Some(disk::Space { size: 1 << 40, free, files })
}

/// A file for a file, however large they are: there are bytes enough.
#[test]
fn where_files_are_few_one_goes_for_each_that_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    let mut room = room(dir.path(), 1000);
    (room.keep_free, room.pretended) = (1 << 30, space(1 << 40, Some(10)));
    let refused = room.take(&small, BLOCK).unwrap_err();
    assert!(matches!(refused, ServerError::NoFiles { .. }) && counted(&room) == (0, 0), "{refused}");
    room.pretended = space(1 << 40, Some(11));
    for number in 0..5 {
        send(&room, &large, &format!("{number}"), 2).unwrap();
        send(&room, &small, &format!("{number}"), 1).unwrap();
    }
    room.pretended = space(1 << 40, Some(10));
    send(&room, &small, "9", 20).unwrap();
    assert_eq!((names(&large).len(), names(&small).len()), (4, 6));
    send(&room, &large, "9", 1).unwrap();
    assert_eq!((names(&large).len(), names(&small)), (5, ["1", "2", "3", "4", "9"].map(str::to_owned).to_vec()));
    // One that has nothing any more, as somebody else removed it, is passed over.
    std::fs::remove_dir_all(small.join("reports")).unwrap();
    send(&room, &large, "a", 1).unwrap();
    assert_eq!((names(&large).len(), counted(&room).0), (5, 8 * BLOCK));
}

/// Others' may be on the disk already, or not: nothing goes for it.
#[test]
fn what_has_room_but_for_what_others_write_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = (dir.path().join("node"), dir.path().join("other"));
    let mut room = room(dir.path(), 1000);
    (0..9).for_each(|number| send(&room, &other, &format!("{number}"), 1).unwrap());
    (room.keep_free, room.pretended) = (1 << 30, space((1 << 30) + 10 * BLOCK, None));
    let writing = room.take(&other, 8 * BLOCK).unwrap();
    let refused = room.take(&node, 3 * BLOCK).unwrap_err();
    assert!(refused.to_string().contains("--keep-free-bytes") && disk::is_full(&refused), "{refused}");
    let taken = room.take(&node, 2 * BLOCK).unwrap();
    assert_eq!((names(&other).len(), counted(&room)), (9, (19 * BLOCK, 10 * BLOCK)));
    drop((writing, taken));
    assert_eq!(counted(&room), (9 * BLOCK, 0));
}

/// What went on a full disk may be taken by whoever fills it: the next one has no more than what goes for it.
#[test]
fn on_a_disk_without_any_room_as_much_goes_as_comes() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let mut room = room(dir.path(), 100_000);
    (0..128).for_each(|number| send(&room, &node, &format!("{number:03}"), 1).unwrap());
    (room.keep_free, room.pretended) = (1 << 30, space(1 << 20, None));
    // Once a little more than must, which those that follow have.
    send(&room, &node, "128", 1).unwrap();
    assert_eq!(counted(&room).0, 126 * BLOCK);
    send(&room, &node, "129", 1).unwrap();
    assert_eq!(counted(&room).0, 127 * BLOCK);
    room.pretended = space(0, None);
    for number in 130..140 {
        send(&room, &node, &format!("{number}"), 1).unwrap();
        assert_eq!((counted(&room).0, names(&node).len()), (127 * BLOCK, 127));
    }
    assert_eq!(names(&node).last().unwrap(), "139");
}

/// However large what comes is: on a full disk nodes keep as much as they had.
#[test]
fn on_a_full_disk_nodes_keep_what_they_had_also_when_files_are_large() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let mut room = room(dir.path(), 100_000);
    (0..256).for_each(|number| send(&room, &node, &format!("{number:03}"), 1).unwrap());
    (room.keep_free, room.pretended) = (1 << 30, space(1 << 29, None));
    for number in 300..340 {
        send(&room, &node, &format!("{number}"), 7).unwrap();
        assert!((245 * BLOCK..=256 * BLOCK).contains(&counted(&room).0), "{:?}", counted(&room));
    }
    // Those who come at once have what went for each of them.
    let before = counted(&room).0;
    let taken: Vec<_> = (0..30).map(|_| room.take(&node, BLOCK).unwrap()).collect();
    assert!(counted(&room).0 <= 256 * BLOCK, "{:?}", counted(&room));
    drop(taken);
    assert!(counted(&room).0 >= before - 44 * BLOCK, "{:?}", counted(&room));
}

/// Those who come at the same time have room made for them, or are refused; nothing is counted wrongly.
#[test]
fn many_at_once_are_within_what_they_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let room = room(dir.path(), 40);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (room, node) = (&room, dir.path().join(format!("{number}")));
            scope.spawn(move || {
                for name in 0..50 {
                    send(room, &node, &format!("{name:02}"), 1 + name % 3).unwrap();
                }
            });
        }
    });
    let nodes = (0..8).map(|number| dir.path().join(format!("{number}")));
    let on_disk: u64 = nodes.flat_map(|node| files_of(&node).unwrap()).map(|file| file.bytes).sum();
    assert_eq!(counted(&room), (on_disk, 0));
    assert!((32 * BLOCK..=40 * BLOCK).contains(&on_disk), "{on_disk}");
}

#[test]
fn what_is_larger_than_all_is_refused_and_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let room = room(dir.path(), 4);
    send(&room, &node, "1", 1).unwrap();
    let refused = room.take(&node, 5 * BLOCK).unwrap_err();
    assert!(refused.to_string().contains("--max-node-bytes"), "{refused}");
    assert_eq!(names(&node), ["1"], "something went for what was refused");
    drop(room.take(&node, BLOCK).unwrap());
    assert_eq!(counted(&room), (names(&node).len() as u64 * BLOCK, 0));
}

#[test]
fn what_stays_free_stays_free() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path(), None, Some(u64::MAX / 2)).unwrap();
    let refused = room.take(dir.path(), 1).unwrap_err();
    assert!(refused.to_string().contains("--keep-free-bytes") && disk::is_full(&refused), "{refused}");
    assert_eq!(room.used().total, 0);
}

#[test]
fn of_a_bucket_the_oldest_goes_after_reports() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    std::fs::create_dir_all(node.join("bucket")).unwrap();
    for (name, age) in [("sha256-b", 20), ("sha256-a", 10)] {
        let path = node.join("bucket").join(name);
        std::fs::write(&path, "was").unwrap();
        let modified = SystemTime::now() - Duration::from_secs(age);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }
    std::fs::write(node.join("node.json"), "not sent").unwrap();
    let room = room(dir.path(), 5);
    send(&room, &node, "1", 1).unwrap();
    assert_eq!(names(&node), ["1", "sha256-b", "sha256-a"]);
    send(&room, &node, "2", 3).unwrap();
    assert_eq!(names(&node), ["2", "sha256-a"]);
}
