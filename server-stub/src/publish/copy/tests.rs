use super::*;
use crate::tests::World;

#[test]
fn a_change_that_leaves_all_times_as_they_were_is_found_shortly_after_them() {
    let world = World::new();
    let (server, dir, environment) = (world.open(), world.environment(), Environment::default());
    let copied = (0..1_000).map(|_| {
        world.stage("modules/app/files/tree/a", "one");
        copy(&server, &environment, &dir, &Manifest::default()).unwrap()
    });
    // It was listed while the clock may still have shown when it was written.
    let mut copied = copied.into_iter().find(|copied| !copied.recent.is_empty()).unwrap();
    copied.refuse_unstable(&dir).unwrap();
    // Written in place with as many bytes, in the same tick of the clock: as if it had been so when it was listed.
    world.stage("modules/app/files/tree/a", "two");
    copied.listed = Listing::default();
    list(&dir, &copied.pool, |piece| {
        copied.listed.add(&piece);
        Ok(())
    })
    .unwrap();
    let error = copied.refuse_unstable(&dir).unwrap_err();
    assert_eq!(error.paths(), ["modules/app/files/tree/a"]);
}

#[test]
fn a_directory_that_takes_the_place_of_the_whole_is_another_though_all_in_it_is_the_same() {
    let world = World::new();
    let (server, dir, environment) = (world.open(), world.environment(), Environment::default());
    // What was published before is in no directory of the tree: these are the same files by another name.
    std::fs::remove_dir_all(dir.join("modules")).unwrap();
    let other = dir.with_file_name("other");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::hard_link(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let copied = copy(&server, &environment, &dir, &Manifest::default()).unwrap();
    copied.refuse_unstable(&dir).unwrap();
    std::fs::rename(&dir, dir.with_file_name("former")).unwrap();
    std::fs::rename(&other, &dir).unwrap();
    let error = copied.refuse_unstable(&dir).unwrap_err();
    assert_eq!(error.paths(), [dir.display().to_string()]);
}
