//! Breaks: never taken for an end.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;

use super::Subject;
use super::messages::{check_in, fetch};
use super::site::Asked;
use crate::client::Client;
use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::{CatalogReply, Operation, codec};
use crate::transport::{BodyStream, Request, Response, Transport as _};

async fn begin(subject: &Subject<'_>, asked: &[Asked]) -> Response {
    let body: Bytes = codec::encode(&fetch(asked.iter().copied())).expect("a fetch has a form").into();
    subject.transport.call(Request { operation: Operation::Fetch, body }).await.expect("a response begins")
}

/// Reads a body until its error, behind which nothing may come; returns how many bytes came.
async fn until_error(mut body: BodyStream) -> (u64, TransportError) {
    let mut bytes = 0;
    loop {
        match body.next().await {
            Some(Ok(chunk)) => bytes += chunk.len() as u64,
            Some(Err(error)) => {
                assert!(body.next().await.is_none(), "something comes behind an error");
                return (bytes, error);
            }
            None => panic!("a body that broke off after {bytes} bytes ended as if it were complete"),
        }
    }
}

pub(super) async fn a_content_that_breaks_off_is_no_clean_end(subject: Subject<'_>) {
    // What was read before the break is not lost to a caller that goes on from there.
    let response = begin(&subject, &[Asked::Size(300_000), Asked::Breaks, Asked::Size(1)]).await;
    let (bytes, error) = until_error(response.body).await;
    assert_eq!(error.kind(), TransportErrorKind::Closed, "{error:?}");
    assert!(bytes <= 1_301_000, "{bytes} bytes came of 1,300,000 and two headers");
    assert_eq!(
        Client::new(Arc::clone(&subject.transport)).check_in(&check_in("")).await.expect("other calls go on"),
        CatalogReply::FactsNeeded
    );
}

pub(super) async fn items_that_break_off_are_no_clean_end(subject: Subject<'_>) {
    for asked in [&[Asked::Fails][..], &[Asked::Size(5_000), Asked::Fails, Asked::Size(1)]] {
        // Nothing has been sent yet when the first item fails: then the call itself may fail.
        let body: Bytes = codec::encode(&fetch(asked.iter().copied())).expect("a fetch has a form").into();
        let error = match subject.transport.call(Request { operation: Operation::Fetch, body }).await {
            Ok(response) => until_error(response.body).await.1,
            Err(error) => error,
        };
        assert_eq!(error.kind(), TransportErrorKind::Closed, "{error:?}");
    }
    assert_eq!(
        Client::new(Arc::clone(&subject.transport)).check_in(&check_in("")).await.expect("other calls go on"),
        CatalogReply::FactsNeeded
    );
}

pub(super) async fn a_server_that_goes_away_is_no_clean_end(subject: Subject<'_>) {
    let mut response = begin(&subject, &[Asked::Stops]).await;
    let mut taken = 0;
    while taken < 500_000 {
        taken += response.body.next().await.expect("no end so far").expect("no error so far").len();
    }
    let Subject { transport, guard, .. } = subject;
    if !guard.cut() {
        return;
    }
    let (_, error) = until_error(response.body).await;
    assert_eq!(error.kind(), TransportErrorKind::Closed, "{error:?}");
    let error = Client::new(transport).check_in(&check_in("")).await.expect_err("nobody is there");
    assert!(error.is_retryable(), "{error:?}");
}
