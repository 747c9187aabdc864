//! Clocks that are set while a server does not run.

use std::time::Duration;

use direct_puppet_transport::protocol::RefusalCode;
use serde_json::Value;

use super::promotion::{peers, port};
use super::*;

const ALLOWED: Duration = Duration::from_secs(60);
const HOUR: u64 = 3600;

/// Changes what a replica remembers of its last confirmation, as if it had been made then.
fn edit(path: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let mut confirmed: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    confirmed.as_object_mut().unwrap().remove("check");
    change(&mut confirmed);
    crate::disk::write_json(path, &confirmed).unwrap();
}

fn add(value: &mut Value, seconds: i64) {
    *value = value.as_u64().unwrap().checked_add_signed(seconds).unwrap().into();
}

/// As far back as the machine runs.
fn add_down(value: &mut Value, seconds: u64) {
    *value = value.as_u64().unwrap().saturating_sub(seconds).into();
}

/// How long ago it was confirmed counts by the clock that nobody sets, as far as the machine ran on since.
#[tokio::test]
async fn a_clock_that_is_set_back_while_a_replica_is_down_does_not_stretch_what_is_answered_unconfirmed() {
    let (world, own) = (World::new(), World::new());
    let primary = world.open();
    let way = port(&primary);
    let start = || {
        own.open_with(|options| {
            options.primary = peers("r", &[&way]);
            options.unconfirmed_for = ALLOWED;
        })
    };
    publish_all(&primary).await;
    let replica = start();
    let (held, _) = compiled(&replica, "n1").await;
    let path = own.data().join("code/production/confirmed.json");
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap();
    drop(replica);
    way.is_cut.store(true, Ordering::SeqCst);
    let (as_written, hour) = (fs::read(&path).unwrap(), i64::try_from(HOUR).unwrap());
    type Change<'a> = Box<dyn FnOnce(&mut Value) + 'a>;
    let changes: Vec<(&str, bool, Change<'_>)> = vec![
        ("just now", true, Box::new(|_| {})),
        (
            "an hour ago, by both clocks",
            false,
            Box::new(|confirmed| {
                add(&mut confirmed["time_unix_seconds"], -hour);
                add_down(&mut confirmed["boot"]["seconds"], HOUR);
            }),
        ),
        // An hour ago, and the clock on the wall was set back by an hour since.
        (
            "an hour ago, set back",
            false,
            Box::new(|confirmed| {
                add_down(&mut confirmed["boot"]["seconds"], HOUR);
            }),
        ),
        // Set back to before it.
        ("in the future", false, Box::new(|confirmed| add(&mut confirmed["time_unix_seconds"], hour))),
        ("in the future of this boot", false, Box::new(|confirmed| add(&mut confirmed["boot"]["seconds"], hour))),
        // Set forward it counts for less, never for more.
        ("set forward", false, Box::new(|confirmed| add(&mut confirmed["time_unix_seconds"], -hour))),
        // By another boot, or by a server of before, only the clock on the wall is left to go by.
        ("in another boot", true, Box::new(|confirmed| confirmed["boot"]["id"] = "another".into())),
        (
            "in another boot, an hour ago",
            false,
            Box::new(|confirmed| {
                confirmed["boot"]["id"] = "another".into();
                add(&mut confirmed["time_unix_seconds"], -hour);
            }),
        ),
        ("by an earlier program", true, Box::new(|confirmed| drop(confirmed.as_object_mut().unwrap().remove("boot")))),
    ];
    for (what, is_answered, change) in changes {
        fs::write(&path, &as_written).unwrap();
        edit(&path, change);
        let replica = start();
        let reply = replica.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
        match reply {
            Ok(CatalogReply::Current { unconfirmed_seconds: Some(seconds), .. }) => {
                assert!(is_answered && seconds <= 60, "{what}: {seconds} s");
            }
            Err(refusal) => assert!(!is_answered && refusal.code == RefusalCode::Stale, "{what}: {refusal}"),
            Ok(other) => panic!("{what}: {other:?}"),
        }
    }
    // While a server runs, the clock on the wall has no part in it.
    fs::write(&path, &as_written).unwrap();
    let replica = start();
    crate::server::jump_clock(-hour);
    let age = replica.upstream.as_ref().unwrap().unconfirmed_for(&Environment::default()).unwrap();
    crate::server::jump_clock(0);
    assert!(age < ALLOWED, "{age:?}");
}
