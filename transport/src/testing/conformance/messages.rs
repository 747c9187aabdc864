//! Messages: each arrives whole, or is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Subject;
use super::site::{Asked, MEETING, call};
use super::streams::{read, read_all};
use crate::client::{CallError, Client};
use crate::error::TransportErrorKind;
use crate::protocol::limits::MAX_SMALL_MESSAGE_BYTES;
use crate::protocol::{CatalogReply, CheckIn, Digest, Fetch, Operation, Refusal, RefusalCode, Report, SubmitFacts, Value, codec};
use crate::testing::samples;
use crate::transport::{Request, Status, Transport as _};

pub(super) fn check_in(feature: &str) -> CheckIn {
    CheckIn { features: vec![feature.to_owned()], ..samples::check_in("node1") }
}

pub(super) fn fetch(asked: impl IntoIterator<Item = Asked>) -> Fetch {
    let digests = asked.into_iter().map(Asked::digest).collect();
    Fetch { certname: check_in("").certname, digests, offsets: BTreeMap::new(), packed: None }
}

fn report(noop: bool) -> Report {
    Report { noop, ..samples::report("node1") }
}

pub(super) async fn all_operations_round_trip(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    // Twice: the second round goes over connections that were used before.
    for _ in 0..2 {
        assert_eq!(client.check_in(&check_in("")).await.expect("a reply"), CatalogReply::FactsNeeded);
        let facts: BTreeMap<_, _> = (0..1000).map(|number| (format!("fact{number}"), Value::Integer(number))).collect();
        let submitted = SubmitFacts { check_in: check_in(""), facts: facts.clone() };
        let reply = client.submit_facts(&submitted).await.expect("a reply");
        let CatalogReply::Catalog { catalog, .. } = reply else { panic!("not a catalog: {reply:?}") };
        assert_eq!(catalog, codec::encode(&facts).expect("facts have a form"), "facts arrived changed");
        let events = read_all(client.fetch(&fetch([Asked::Size(300_000)])).await.expect("a reply")).await.expect("a whole reply");
        assert_eq!(events.bytes, 300_000);
        for noop in [false, true] {
            assert_eq!(client.report(&report(noop)).await.expect("a reply").duplicate, noop);
        }
    }
}

pub(super) async fn a_large_request_arrives(subject: Subject<'_>) {
    let digests = (0..100_000_u32).map(|number| Digest::of(&number.to_be_bytes())).collect::<Vec<_>>();
    let request = Fetch { digests: digests.clone(), ..fetch([]) };
    let reply = Client::new(subject.transport).fetch(&request).await.expect("a reply");
    assert!(read_all(reply).await.expect("a whole reply").missing == digests, "digests arrived changed");
}

pub(super) async fn a_refusal_says_when_to_come_back(subject: Subject<'_>) {
    let body = codec::encode(&check_in(call::BUSY)).expect("a check-in has a form").into();
    let response = subject.transport.call(Request { operation: Operation::CheckIn, body }).await.expect("a refusal is no error");
    assert_eq!(response.status, Status::Refused);
    assert_eq!(response.retry_after.map(|delay| delay.as_secs()), Some(17), "seconds until the next try");
    drop(response);
    let error = Client::new(subject.transport).check_in(&check_in(call::BUSY)).await.expect_err("it is refused");
    let CallError::Refused(refusal) = error else { panic!("not a refusal: {error:?}") };
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Busy, Some(17)));
    assert_eq!(refusal.message, "come again");
}

pub(super) async fn a_request_over_its_limit_is_refused(subject: Subject<'_>) {
    for operation in Operation::ALL {
        let length = usize::try_from(operation.max_request_bytes() + 1).expect("limits fit into memory");
        let answer = subject.transport.call(Request { operation, body: vec![0xc0; length].into() }).await;
        match answer {
            Err(error) => assert_eq!(error.kind(), TransportErrorKind::TooLarge, "{operation}: {error:?}"),
            Ok(response) => {
                assert_eq!(response.status, Status::Refused, "{operation}");
                let body = response.into_bytes(MAX_SMALL_MESSAGE_BYTES, "").await.expect("a whole refusal");
                let refusal: Refusal = codec::decode(&body, MAX_SMALL_MESSAGE_BYTES).expect("a refusal");
                assert_eq!(refusal.code, RefusalCode::BadRequest, "{operation}: {refusal}");
            }
        }
        let reply = Client::new(Arc::clone(&subject.transport)).check_in(&check_in("")).await;
        assert_eq!(reply.expect("other calls go on"), CatalogReply::FactsNeeded);
    }
}

pub(super) async fn a_response_over_its_limit_is_given_up(subject: Subject<'_>) {
    let body: Bytes = codec::encode(&check_in(call::LARGE)).expect("a check-in has a form").into();
    let response = subject.transport.call(Request { operation: Operation::CheckIn, body }).await.expect("a reply");
    let error = response.into_bytes(1 << 20, "").await.expect_err("it is longer");
    assert_eq!(error.kind(), TransportErrorKind::TooLarge);
    let body: Bytes = codec::encode(&fetch([Asked::Size(super::LARGE_BYTES)])).expect("a fetch has a form").into();
    let response = subject.transport.call(Request { operation: Operation::Fetch, body }).await.expect("a reply");
    let error = response.into_bytes(1 << 20, "").await.expect_err("it is longer");
    assert_eq!(error.kind(), TransportErrorKind::TooLarge);
    subject.site.stopped().await;
    assert!(subject.site.produced() < super::LARGE_BYTES, "all of it was made");
}

pub(super) async fn a_message_that_is_none_is_refused(subject: Subject<'_>) {
    for operation in Operation::ALL {
        for body in [&b""[..], b"\xc1", b"no message"] {
            let request = Request { operation, body: Bytes::from_static(body) };
            let response = subject.transport.call(request).await.expect("a refusal is no error");
            assert_eq!(response.status, Status::Refused, "{operation}");
        }
    }
}

pub(super) async fn fifty_calls_run_at_once(subject: Subject<'_>) {
    let request = Fetch { certname: "meet".parse().expect("a valid name"), ..fetch([Asked::Size(300_000)]) };
    let calls = (0..MEETING).map(|_| async {
        // The handler answers none of them before all of them are there.
        let stream = Client::new(Arc::clone(&subject.transport)).fetch(&request).await.expect("a reply");
        assert_eq!(read(stream).await.expect("a whole reply"), 300_000);
    });
    futures::future::join_all(calls).await;
}
