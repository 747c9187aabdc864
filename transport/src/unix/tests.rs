//! Both sides against a peer that says what it wants.

use std::sync::Arc;

use futures::{FutureExt as _, SinkExt as _};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use super::frame::encode_part;
use super::*;
use crate::handler::{Handler, Peer};
use crate::protocol::{CatalogReply, Operation, Refusal, RefusalCode, codec};
use crate::testing::{MockHandler, samples};
use crate::transport::Status;

const BUFFER_BYTES: usize = 4096;

fn check_in() -> Bytes {
    let message = samples::check_in("node1");
    codec::encode(&message).unwrap().into()
}

fn request_header(operation: &str, length: u64) -> Bytes {
    encode_header(&RequestHeader { operation: operation.to_owned(), length }).unwrap()
}

/// Serves one end; returns the other and how serving ended.
fn serve(limits: ConnectionLimits) -> (Connection<DuplexStream>, tokio::task::JoinHandle<io::Result<()>>) {
    serve_over(BUFFER_BYTES, limits)
}

fn serve_over(buffer: usize, limits: ConnectionLimits) -> (Connection<DuplexStream>, tokio::task::JoinHandle<io::Result<()>>) {
    let (near, far) = duplex(buffer);
    let served = tokio::spawn(async move {
        let mut handler = MockHandler::new();
        handler.expect_check_in().returning(|_, _| Ok(CatalogReply::FactsNeeded));
        let handler: Arc<dyn Handler> = Arc::new(handler);
        serve_connection(far, &Peer::InProcess, &*handler, limits, &CancellationToken::new()).await
    });
    (Framed::new(near, frames()), served)
}

/// Reads a response; returns its status and body.
async fn response(connection: &mut Connection<DuplexStream>) -> (Status, Vec<u8>) {
    let header: ResponseHeader = decode_header(&connection.next().await.unwrap().unwrap()).unwrap();
    let mut body = Vec::new();
    loop {
        match decode_part(connection.next().await.unwrap().unwrap().freeze()).unwrap() {
            Part::Data(data) => body.extend_from_slice(&data),
            Part::End => return (header.status(), body),
            Part::Error(text) => panic!("{text}"),
        }
    }
}

fn refusal(body: &[u8]) -> RefusalCode {
    codec::decode::<Refusal>(body, 10_000).unwrap().code
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection_however_their_bodies_are_divided() {
    let (mut connection, served) = serve(ConnectionLimits::default());
    for size in [1, 7, 1000] {
        connection.send(request_header("check_in", check_in().len() as u64)).await.unwrap();
        for part in check_in().chunks(size) {
            connection.send(Bytes::copy_from_slice(part)).await.unwrap();
        }
        let (status, body) = response(&mut connection).await;
        assert_eq!(status, Status::Accepted);
        assert_eq!(codec::decode::<CatalogReply>(&body, 100).unwrap(), CatalogReply::FactsNeeded);
    }
    drop(connection);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_announced_too_long_is_refused_before_it_is_read() {
    for operation in Operation::ALL {
        let (mut connection, served) = serve(ConnectionLimits::default());
        connection.send(request_header(operation.name(), operation.max_request_bytes() + 1)).await.unwrap();
        let (status, body) = response(&mut connection).await;
        assert_eq!((status, refusal(&body)), (Status::Refused, RefusalCode::BadRequest));
        served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn unknown_operations_and_headers_that_are_none_are_refused() {
    for (header, code) in
        [(request_header("dance", 0), RefusalCode::NotFound), (Bytes::from_static(b"\xc1"), RefusalCode::BadRequest)]
    {
        let (mut connection, served) = serve(ConnectionLimits::default());
        connection.send(header).await.unwrap();
        let (status, body) = response(&mut connection).await;
        assert_eq!((status, refusal(&body)), (Status::Refused, code));
        served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_breaks_the_framing_ends_the_connection() {
    // More than announced; a frame over the limit; an end in the middle of a frame.
    let (mut connection, served) = serve(ConnectionLimits::default());
    connection.send(request_header("check_in", 3)).await.unwrap();
    connection.send(Bytes::from_static(b"four")).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x09abc"] {
        let (connection, served) = serve(ConnectionLimits::default());
        let mut io = connection.into_inner();
        io.write_all(bytes).await.unwrap();
        drop(io);
        served.await.unwrap().unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_a_quiet_peer_and_one_that_takes_nothing_are_given_up() {
    let limits = ConnectionLimits::default();
    let (mut connection, served) = serve(limits);
    connection.send(request_header("check_in", 3)).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    // Too small a buffer for any answer.
    let (mut connection, served) = serve_over(8, limits);
    connection.send(request_header("check_in", check_in().len() as u64)).await.unwrap();
    connection.send(check_in()).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    let begun = tokio::time::Instant::now();
    let (_connection, served) = serve(limits);
    served.await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), limits.idle);
}

/// Calls a server that answers with these frames and goes away.
async fn answered(frames_sent: Vec<Bytes>) -> Result<Bytes, TransportErrorKind> {
    let (near, far) = duplex(BUFFER_BYTES);
    let server = async move {
        let mut connection = Framed::new(far, frames());
        for _ in 0..2 {
            connection.next().await.unwrap().unwrap();
        }
        for frame in frames_sent {
            connection.send(frame).await.unwrap();
        }
    };
    let request = Request { operation: Operation::CheckIn, body: check_in() };
    let call = async {
        let response = call_over(near, &request, "test").await.map_err(|error| error.kind())?;
        response.into_bytes(100, "test").await.map_err(|error| error.kind())
    };
    let ((), answer) = tokio::join!(server, call);
    answer
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error() {
    use TransportErrorKind::{Closed, Protocol};
    let header = |length| encode_header(&ResponseHeader { refused: false, retry_after_seconds: None, length }).unwrap();
    let data = || encode_part(&Part::Data(Bytes::from_static(b"12345")));
    let end = || encode_part(&Part::End);
    assert_eq!(answered(vec![header(Some(5)), data(), end()]).await, Ok(Bytes::from_static(b"12345")));
    assert_eq!(answered(vec![header(None), data(), data(), end()]).await, Ok(Bytes::from_static(b"1234512345")));
    assert_eq!(answered(vec![header(Some(0)), end()]).await, Ok(Bytes::new()));
    assert_eq!(answered(vec![]).await, Err(Closed));
    assert_eq!(answered(vec![Bytes::from_static(b"\xc1")]).await, Err(Protocol));
    assert_eq!(answered(vec![header(Some(5))]).await, Err(Closed));
    assert_eq!(answered(vec![header(Some(5)), data()]).await, Err(Closed), "no end frame");
    assert_eq!(answered(vec![header(None), data()]).await, Err(Closed), "no end frame");
    assert_eq!(answered(vec![header(Some(6)), data(), end()]).await, Err(Closed), "shorter than announced");
    assert_eq!(answered(vec![header(Some(4)), data(), end()]).await, Err(Protocol), "longer than announced");
    assert_eq!(answered(vec![header(None), encode_part(&Part::Error("gone".to_owned()))]).await, Err(Closed));
    for strange in [&b""[..], b"\x03", b"\x01x"] {
        assert_eq!(answered(vec![header(None), Bytes::from_static(strange)]).await, Err(Protocol));
    }
}

/// Accepts connections one after the other; each answers the given number of requests, then goes away.
async fn short_lived(listener: tokio::net::UnixListener, requests: [usize; 3]) {
    for requests in requests {
        let mut connection = Framed::new(listener.accept().await.unwrap().0, frames());
        for _ in 0..requests {
            for _ in 0..2 {
                connection.next().await.unwrap().unwrap();
            }
            let header = ResponseHeader { refused: false, retry_after_seconds: None, length: None };
            connection.send(encode_header(&header).unwrap()).await.unwrap();
            connection.send(encode_part(&Part::End)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_was_closed_meanwhile_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let served = tokio::spawn(short_lived(tokio::net::UnixListener::bind(&path).unwrap(), [2, 1, 1]));
    let transport = UnixTransport::new(&path);
    let call = |operation| {
        let transport = &transport;
        async move {
            let response = transport.call(Request { operation, body: check_in() }).await.unwrap();
            response.into_bytes(10, "").await.unwrap();
        }
    };
    // Two on the first connection, then a new one unseen; a report never rides on a connection that may be dead.
    call(Operation::CheckIn).await;
    call(Operation::CheckIn).await;
    call(Operation::CheckIn).await;
    call(Operation::Report).await;
    served.await.unwrap();
}

#[tokio::test]
async fn only_a_response_that_was_read_to_its_end_gives_its_connection_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let served = tokio::spawn(short_lived(tokio::net::UnixListener::bind(&path).unwrap(), [1, 1, 1]));
    let transport = UnixTransport::new(&path);
    let request = || Request { operation: Operation::CheckIn, body: check_in() };
    drop(transport.call(request()).await.unwrap());
    assert!(transport.idle().is_empty());
    let mut response = transport.call(request()).await.unwrap();
    assert!(transport.idle().is_empty());
    assert!(response.body.next().await.is_none());
    assert_eq!(transport.idle().len(), 1);
    served.abort();
    assert!(served.await.unwrap_err().is_cancelled());
    assert!(response.body.next().now_or_never().unwrap().is_none());
}
