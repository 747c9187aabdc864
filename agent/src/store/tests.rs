use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::ensure(&dir.path().join("store")).unwrap();
    (dir, store)
}

#[test]
fn what_is_put_is_found_under_its_digest() {
    let (dir, store) = store();
    // 0, 1, one read ±1, many reads.
    for size in [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES + 5] {
        let content: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let path = dir.path().join("source");
        std::fs::write(&path, &content).unwrap();
        for again in 0..2 {
            let put = store.put_file(&File::open(&path).unwrap()).unwrap();
            assert_eq!(put, Put { digest: Digest::of(&content), size: size as u64, is_new: again == 0 });
            let digest = put.digest;
            assert_eq!(store.read(&digest, u64::MAX - 1).unwrap().unwrap(), content);
            assert!(store.has_verified(&digest).unwrap());
        }
    }
    store.sync().unwrap();
    assert_eq!(list(&store.dir.join("incoming")).unwrap(), Vec::<PathBuf>::new());
    let mode = std::fs::metadata(store.path_of(&Digest::of(b""))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_content_is_found_and_moved_aside() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"hello").unwrap().digest;
    std::fs::write(store.path_of(&digest), b"hellO").unwrap();
    assert!(!store.has_verified(&digest).unwrap());
    assert!(!store.has(&digest));
    store.put_bytes(b"hello").unwrap();
    std::fs::write(store.path_of(&digest), b"hellO").unwrap();
    assert_eq!(store.read(&digest, 100).unwrap_err().kind, FsErrorKind::DigestMismatch);
    assert!(store.read(&digest, 100).unwrap().is_none());
}

#[test]
fn a_fetch_is_resumed_where_it_broke_off() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello world");
    let mut incoming = store.receive(digest, 11, 0).unwrap();
    incoming.write(b"hello ").unwrap();
    drop(incoming);
    assert_eq!(store.partial_len(&digest), 6);
    assert!(store.receive(digest, 11, 7).is_err());
    let mut incoming = store.receive(digest, 11, 6).unwrap();
    incoming.write(b"world").unwrap();
    incoming.finish().unwrap();
    assert!(store.has_verified(&digest).unwrap());
    assert_eq!(store.partial_len(&digest), 0);
}

#[test]
fn a_wrong_content_never_gets_in() {
    let (_dir, store) = store();
    let digest = Digest::of(b"good");
    let mut incoming = store.receive(digest, 4, 0).unwrap();
    incoming.write(b"evil").unwrap();
    assert_eq!(incoming.finish().unwrap_err().kind, FsErrorKind::DigestMismatch);
    assert!(!store.has(&digest));
    assert_eq!(store.partial_len(&digest), 0);
    let mut longer = store.receive(digest, 4, 0).unwrap();
    assert!(longer.write(b"good!").is_err());
    let mut shorter = store.receive(digest, 4, 0).unwrap();
    shorter.write(b"goo").unwrap();
    assert!(shorter.finish().is_err());
}

#[test]
fn a_partial_fetch_that_was_damaged_on_disk_is_found() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello world");
    let mut incoming = store.receive(digest, 11, 0).unwrap();
    incoming.write(b"hello ").unwrap();
    drop(incoming);
    let partial = store.dir.join("incoming").join(format!("{}.partial", digest.to_hex()));
    std::fs::write(partial, b"hellO ").unwrap();
    let mut incoming = store.receive(digest, 11, 6).unwrap();
    incoming.write(b"world").unwrap();
    assert_eq!(incoming.finish().unwrap_err().kind, FsErrorKind::DigestMismatch);
}

#[test]
fn retain_keeps_what_is_wanted() {
    let (_dir, store) = store();
    let (kept, gone) = (store.put_bytes(b"kept").unwrap().digest, store.put_bytes(b"gone").unwrap().digest);
    assert_eq!(store.retain(&|digest| *digest == kept).unwrap(), (1, 4));
    assert!(store.has(&kept) && !store.has(&gone));
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let (_dir, store) = store();
    std::fs::write(store.temporary(), b"half").unwrap();
    assert_eq!(store.remove_leftovers().unwrap(), 1);
    assert_eq!(store.remove_leftovers().unwrap(), 0);
}

#[test]
fn what_others_have_left_goes_when_it_is_old() {
    let (_dir, store) = store();
    let (old, new) = (store.temporary(), store.temporary());
    for path in [&old, &new] {
        std::fs::write(path, b"half").unwrap();
    }
    let day = Duration::from_secs(24 * 3600);
    File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - day).unwrap();
    assert_eq!(store.remove_abandoned(day).unwrap(), 1);
    assert!(!old.exists() && new.exists());
    // Nor does one that somebody goes on with.
    let digest = Digest::of(b"long");
    let _incoming = store.receive(digest, 4, 0).unwrap();
    let partial = store.partial_path(&digest);
    File::options().write(true).open(&partial).unwrap().set_modified(SystemTime::now() - day).unwrap();
    assert_eq!(store.remove_abandoned(day).unwrap(), 0);
    assert!(partial.exists());
}

#[test]
fn putting_a_content_again_repairs_a_damaged_one_of_the_same_length() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"hello").unwrap().digest;
    let source = dir.path().join("source");
    std::fs::write(&source, b"hello").unwrap();
    for again in ["bytes", "file"] {
        std::fs::write(store.path_of(&digest), b"\0\0\0\0\0").unwrap();
        match again {
            "bytes" => assert_eq!(store.put_bytes(b"hello").unwrap(), Put { digest, size: 5, is_new: true }),
            _ => assert_eq!(store.put_file(&File::open(&source).unwrap()).unwrap(), Put { digest, size: 5, is_new: true }),
        }
        assert_eq!(store.read(&digest, 5).unwrap().unwrap(), "hello", "{again}");
    }
}

#[test]
fn what_another_process_put_but_never_synced_is_synced_too() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"hello").unwrap().digest;
    // As after kill -9 of the first.
    let other = Store::ensure(&dir.path().join("store")).unwrap();
    other.put_bytes(b"hello").unwrap();
    assert_eq!(other.unsynced().files, [store.path_of(&digest)]);
    other.sync().unwrap();
    assert!(other.unsynced().files.is_empty());
}

#[test]
fn a_failed_sync_is_never_followed_by_a_good_one() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"hello").unwrap().digest;
    // A link to itself: opening it fails, as a broken disk does.
    std::fs::remove_file(store.path_of(&digest)).unwrap();
    std::os::unix::fs::symlink(store.path_of(&digest), store.path_of(&digest)).unwrap();
    assert!(store.sync().is_err());
    std::fs::remove_file(store.path_of(&digest)).unwrap();
    store.put_bytes(b"hello").unwrap();
    assert!(store.clone().sync().unwrap_err().hint.is_some(), "what the first sync lost is not durable by the second");
    let anew = Store::ensure(&dir.path().join("store")).unwrap();
    anew.put_bytes(b"hello").unwrap();
    anew.sync().unwrap();
}

#[test]
fn one_content_received_twice_at_once_is_whole() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello world");
    let mut first = store.receive(digest, 11, 0).unwrap();
    first.write(b"hello ").unwrap();
    let mut second = store.receive(digest, 11, 0).unwrap();
    second.write(b"evil").unwrap();
    assert!(store.receive(digest, 11, 6).is_err(), "it is not there to be resumed while it is being received");
    first.write(b"world").unwrap();
    first.finish().unwrap();
    second.write(b" bytes!").unwrap();
    assert_eq!(store.read(&digest, 11).unwrap().unwrap(), "hello world", "a late writer has no hold of it");
    assert_eq!(second.finish().unwrap_err().kind, FsErrorKind::DigestMismatch);
    assert!(store.has_verified(&digest).unwrap());
    let mut third = store.receive(digest, 11, 0).unwrap();
    let fourth = store.receive(digest, 11, 0).unwrap();
    third.write(b"hello world").unwrap();
    drop(fourth);
    third.finish().unwrap();
    assert_eq!(list(&store.dir.join("incoming")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn many_threads_put_and_read_the_same_contents() {
    let (_dir, store) = store();
    let contents: Vec<Vec<u8>> = (0..50_usize).map(|at| vec![u8::try_from(at).unwrap(); at * 9_000]).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for content in &contents {
                    let digest = store.put_reader(&mut &content[..]).unwrap().digest;
                    assert_eq!(store.read(&digest, u64::MAX - 1).unwrap().unwrap(), *content);
                }
                store.sync().unwrap();
            });
        }
    });
    assert_eq!(list(&store.dir.join("incoming")).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(store.retain(&|_| false).unwrap().0, 50);
}

#[test]
fn retain_removes_old_leftovers_and_stumbles_over_nothing() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"hello").unwrap().digest;
    std::fs::write(store.path_of(&digest), b"hellO").unwrap();
    assert!(!store.has_verified(&digest).unwrap());
    std::fs::write(store.dir.join("blobs/stray"), b"x").unwrap();
    let partial = store.dir.join("incoming").join(format!("{}.partial", digest.to_hex()));
    let aside = store.dir.join("damaged").join(digest.to_hex());
    std::fs::write(&partial, b"he").unwrap();
    store.retain(&|_| true).unwrap();
    assert!(partial.exists() && aside.exists());
    let old = SystemTime::now() - 2 * MAX_PARTIAL_AGE;
    for path in [&partial, &aside] {
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    store.retain(&|_| true).unwrap();
    assert!(!partial.exists() && !aside.exists());
}
