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
