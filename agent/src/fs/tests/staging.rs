use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::store::Store;

/// A name as staged files have, of no file of ours.
const FOREIGN: &str = ".direct-puppet-0123456789abcdef0123456789abcdef";

#[test]
fn a_batch_touches_nothing_before_its_commit_and_leaves_nothing_behind() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    std::fs::write(ground.at("a"), "old").unwrap();
    let mut stage = Stage::new(&ground.root, &journal);
    for name in ["a", "b", "c"] {
        let content = format!("new {name}").into_bytes();
        let digest = Digest::of(&content);
        stage.add(&tree(name), ContentSource::Bytes(content.into()), digest, Attributes::default()).unwrap();
    }
    stage.discard(&tree("c"));
    assert_eq!(std::fs::read_to_string(ground.at("a")).unwrap(), "old");
    assert!(!ground.at("b").exists());
    let staged = stage.staged_path(&tree("b")).unwrap();
    assert_eq!(std::fs::read_to_string(staged).unwrap(), "new b");
    let written = stage.commit();
    assert_eq!(written.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    for (path, written) in written {
        let written = written.unwrap();
        assert_eq!(Some(written.stat), ground.root.stat(&path).unwrap());
        assert_eq!(written.digest, Digest::of(&std::fs::read(ground.at(&path.to_string())).unwrap()));
    }
    assert_eq!(names(&ground.at("")), ["a", "b"]);
}

#[test]
fn a_batch_that_is_dropped_leaves_nothing() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let mut stage = Stage::new(&ground.root, &journal);
    stage.add(&tree("a"), ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
    drop(stage);
    assert_eq!(names(&ground.at("")), Vec::<String>::new());
}

#[test]
fn a_content_with_another_digest_is_refused_and_removed() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let file = ground.dir.path().join("source");
    std::fs::write(&file, "evil").unwrap();
    for source in [ContentSource::Bytes("evil".into()), ContentSource::Copy(std::fs::File::open(&file).unwrap())] {
        let mut stage = Stage::new(&ground.root, &journal);
        let error = stage.add(&tree("a"), source, Digest::of(b"good"), Attributes::default()).unwrap_err();
        assert_eq!(error.kind, FsErrorKind::DigestMismatch);
        assert_eq!(names(&ground.at("")), Vec::<String>::new());
        assert!(stage.commit().is_empty());
    }
}

#[test]
fn a_directory_is_never_replaced_and_the_others_of_the_batch_are_put() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    std::fs::create_dir(ground.at("dir")).unwrap();
    let mut stage = Stage::new(&ground.root, &journal);
    for name in ["dir", "file"] {
        stage.add(&tree(name), ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
    }
    let results: Vec<_> = stage.commit().into_iter().map(|(_, result)| result.map(drop).map_err(|error| error.kind)).collect();
    assert_eq!(results, [Err(FsErrorKind::WrongKind), Ok(())]);
    assert_eq!(names(&ground.at("")), ["dir", "file"]);
}

#[test]
fn a_large_batch_holds_few_descriptors() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let mut stage = Stage::new(&ground.root, &journal);
    // More than the 1,024 descriptors that most systems allow, in many directories and in one.
    for at in 0..1200 {
        let dir = if at % 2 == 0 { "one".to_owned() } else { format!("d{at}") };
        std::fs::create_dir_all(ground.at(&dir)).unwrap();
        let path = tree(&format!("{dir}/f{at}"));
        stage.add(&path, ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
    }
    // Other tests run in this process: count what is open below this one's directory.
    let here = ground.dir.path().to_owned();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let count = open.filter(|path| path.starts_with(&here)).count();
    assert!(count <= 200, "{count} descriptors are open");
    let results = stage.commit();
    assert_eq!(results.len(), 1200);
    for (path, written) in results {
        written.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }
    assert_eq!(names(&ground.at("one")).len(), 600);
    assert_eq!(std::fs::read(ground.at("d1199/f1199")).unwrap(), b"x");
}

#[test]
fn a_directory_replaced_between_staging_and_commit_gets_nothing() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    std::fs::create_dir(ground.at("dir")).unwrap();
    let mut stage = Stage::new(&ground.root, &journal);
    stage.add(&tree("dir/file"), ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
    std::fs::rename(ground.at("dir"), ground.at("moved")).unwrap();
    std::fs::create_dir(ground.at("dir")).unwrap();
    let (_, result) = stage.commit().pop().unwrap();
    // The content went where it was staged, or nowhere; what must not be said is that it is at its path.
    result.unwrap_err();
    assert_eq!(names(&ground.at("dir")), Vec::<String>::new());
}

#[test]
fn a_content_of_the_store_is_renamed_when_taken_and_stays_when_copied() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let store = Store::ensure(&ground.dir.path().join("store")).unwrap();
    let digest = store.put_bytes(b"content").unwrap().digest;
    let inode = std::fs::metadata(store.path_of(&digest)).unwrap().ino();
    let mut stage = Stage::new(&ground.root, &journal);
    let file = store.open(&digest).unwrap().unwrap();
    stage.add(&tree("copied"), ContentSource::Copy(file), digest, Attributes::default()).unwrap();
    let taken = store.take(&digest).unwrap().unwrap();
    let attributes = Attributes { mode: Some(0o640), ..Attributes::default() };
    stage.add(&tree("taken"), ContentSource::Take(taken), digest, attributes).unwrap();
    assert!(stage.commit().into_iter().all(|(_, written)| written.is_ok()));
    assert_ne!(std::fs::metadata(ground.at("copied")).unwrap().ino(), inode);
    assert_eq!(std::fs::metadata(ground.at("taken")).unwrap().ino(), inode, "nothing was written again");
    assert_eq!(mode_of(&ground.at("taken")), 0o640);
    assert!(!store.has(&digest));
}

#[test]
fn one_file_that_cannot_be_put_does_not_take_the_others_with_it() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let store = Store::ensure(&ground.dir.path().join("store")).unwrap();
    let mut stage = Stage::new(&ground.root, &journal);
    // More directories than are held open, so that the first is opened again at the commit.
    for at in 0..100 {
        std::fs::create_dir(ground.at(&format!("d{at}"))).unwrap();
        let content = at.to_string();
        let digest = store.put_bytes(content.as_bytes()).unwrap().digest;
        let source = ContentSource::Take(store.take(&digest).unwrap().unwrap());
        stage.add(&tree(&format!("d{at}/file")), source, digest, Attributes::default()).unwrap();
    }
    // Moved, not removed: its inode number cannot be given to the new one.
    std::fs::rename(ground.at("d0"), ground.at("moved")).unwrap();
    std::fs::create_dir(ground.at("d0")).unwrap();
    let results = stage.commit();
    let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).map(|(path, _)| path.to_string()).collect();
    assert_eq!(failed, ["d0/file"]);
    assert_eq!(names(&ground.at("d0")), Vec::<String>::new());
    assert_eq!(std::fs::read(ground.at("d99/file")).unwrap(), b"99");
    drop(results);
    assert!(store.has(&Digest::of(b"0")), "what was not used is in the store again");
}

#[test]
fn the_selinux_label_of_the_old_file_is_kept() {
    if !is_root("labels") {
        return;
    }
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let store = Store::ensure(&ground.dir.path().join("store")).unwrap();
    let (label, value) = ("security.selinux", b"system_u:object_r:etc_t:s0\0");
    let mut stage = Stage::new(&ground.root, &journal);
    for name in ["written", "taken"] {
        std::fs::write(ground.at(name), "old").unwrap();
        if rustix::fs::setxattr(ground.at(name), label, value, rustix::fs::XattrFlags::empty()).is_err() {
            println!("left out, this file system has no labels");
            return;
        }
        let digest = store.put_bytes(name.as_bytes()).unwrap().digest;
        let source = match name {
            "taken" => ContentSource::Take(store.take(&digest).unwrap().unwrap()),
            _ => ContentSource::Copy(store.open(&digest).unwrap().unwrap()),
        };
        stage.add(&tree(name), source, digest, Attributes::default()).unwrap();
    }
    assert!(stage.commit().into_iter().all(|(_, written)| written.is_ok()));
    for name in ["written", "taken"] {
        let mut found = [0; 100];
        let length = rustix::fs::getxattr(ground.at(name), label, &mut found[..]).unwrap();
        assert_eq!(&found[..length], value, "{name}");
        assert_eq!(std::fs::read_to_string(ground.at(name)).unwrap(), name);
    }
}

/// Lets a batch be forgotten as by kill -9: nothing that runs on drop is run.
fn crash(ground: &Ground, paths: &[&str]) {
    let (journal, _) = ground.journal();
    let mut stage = Stage::new(&ground.root, &journal);
    for path in paths {
        stage.add(&tree(path), ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
    }
    std::mem::forget(stage);
}

#[test]
fn what_a_crash_left_staged_is_removed_by_the_next_run() {
    let ground = Ground::new();
    std::fs::create_dir(ground.at("dir")).unwrap();
    std::fs::create_dir(ground.at("new\nline")).unwrap();
    crash(&ground, &["a", "dir/a", "dir/b", "new%0Aline/a"]);
    assert_eq!(names(&ground.at("dir")).len(), 2);
    std::fs::write(ground.at("dir/kept"), "").unwrap();
    std::fs::write(ground.at("dir/.direct-puppet-notes"), "").unwrap();
    let (_, removed) = ground.journal();
    assert_eq!(removed, 4);
    assert_eq!(names(&ground.at("dir")), [".direct-puppet-notes", "kept"]);
    assert_eq!(names(&ground.at("")), ["dir", "new\nline"]);
    assert_eq!(ground.journal().1, 0);
}

#[test]
fn nothing_that_another_agent_staged_is_removed() {
    let ground = Ground::new();
    crash(&ground, &["a"]);
    std::fs::write(ground.at(FOREIGN), "").unwrap();
    let (_, removed) = ground.journal();
    assert_eq!(removed, 1);
    assert_eq!(names(&ground.at("")), [FOREIGN]);
}

#[test]
fn what_somebody_puts_in_the_way_does_not_stop_later_runs() {
    let ground = Ground::new();
    for dir in ["gone", "linked", "real"] {
        std::fs::create_dir(ground.at(dir)).unwrap();
    }
    crash(&ground, &["gone/a", "linked/a", "real/a"]);
    let staged = names(&ground.at("real")).pop().unwrap();
    // A directory under the staged name, a directory that is gone, one that became a link.
    std::fs::remove_file(ground.at("real").join(&staged)).unwrap();
    std::fs::create_dir(ground.at("real").join(&staged)).unwrap();
    std::fs::remove_dir_all(ground.at("gone")).unwrap();
    std::fs::rename(ground.at("linked"), ground.dir.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", ground.at("linked")).unwrap();
    assert_eq!(ground.journal().1, 0);
    assert_eq!(names(&ground.dir.path().join("outside")).len(), 1, "nothing is removed through a link");
    assert!(ground.at("real").join(&staged).is_dir());
}

#[test]
fn a_journal_torn_by_a_power_cut_does_not_stop_later_runs() {
    let ground = Ground::new();
    crash(&ground, &["a"]);
    let journal = ground.state().join("staged");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"\xff\xfe\0\0 torn%");
    std::fs::write(&journal, bytes).unwrap();
    assert_eq!(ground.journal().1, 1);
    assert_eq!(names(&ground.at("")), Vec::<String>::new());
}
