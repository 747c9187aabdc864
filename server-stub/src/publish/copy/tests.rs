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
