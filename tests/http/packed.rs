//! Long requests, compressed where the server takes that.

use bytes::Bytes;
use direct_puppet_transport::protocol::compress::compress;
use direct_puppet_transport::protocol::limits::MAX_REPORT_BYTES;
use direct_puppet_transport::protocol::report::Log;
use direct_puppet_transport::protocol::{CatalogReply, Operation, Report, codec};
use direct_puppet_transport::{Client, HttpOptions, HttpTransport, Request, Status, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::limits::raw;
use crate::site::{Server, Site};
use crate::{check_in, report};

fn long_report() -> Report {
    let log = |number: u32| Log {
        level: "notice".to_owned(),
        message: format!("content {number} was changed"),
        source: "/srv/app".to_owned(),
        time_unix_nanos: i64::from(number),
    };
    Report { logs: (0..10_000).map(log).collect(), ..report(true) }
}

fn transport(url: &str, compress_requests: Option<bool>) -> HttpTransport {
    HttpTransport::new(url, &HttpOptions { compress_requests, ..HttpOptions::default() }).unwrap()
}

/// Stands between a client and a server for one connection, and counts what goes to the server.
async fn counted(server: &Server) -> (String, JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, address) = (format!("http://{}", listener.local_addr().unwrap()), server.address);
    let counting = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await.unwrap().0
    });
    (url, counting)
}

#[tokio::test]
async fn a_long_report_is_compressed_once_the_server_has_said_that_it_takes_that() {
    let length = codec::encoded_len(&long_report()).unwrap();
    for (compress_requests, asks_first, is_packed) in
        [(Some(true), true, true), (Some(true), false, false), (Some(false), true, false), (None, true, false)]
    {
        let server = Server::start(Site::new(0), None).await;
        let (url, counting) = counted(&server).await;
        let client = Client::new(transport(&url, compress_requests));
        if asks_first {
            assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
        }
        assert!(!client.report(&long_report()).await.unwrap().duplicate);
        drop(client);
        let sent = counting.await.unwrap();
        assert_eq!(sent < length / 5, is_packed, "{compress_requests:?} {asks_first} {sent} of {length}");
        assert_eq!(server.site.reports.lock().unwrap().as_slice(), [long_report()]);
        server.stop().await;
    }
}

/// Sends a report's body as it is, said to be coded, and returns the status of the answer.
async fn status_of(server: &Server, coding: &str, body: &[u8]) -> String {
    let head = format!(
        "POST /direct/v1/report HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\
         content-type: application/vnd.direct-puppet+msgpack\r\n\r\n",
        body.len()
    );
    raw(server, &[head.as_bytes(), body].concat()).await.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_would_come_out_too_long_or_wrong_is_refused_before_it_is_unpacked() {
    let server = Server::start(Site::new(0), None).await;
    let good = compress(&codec::encode(&long_report()).unwrap(), &[]).unwrap();
    assert_eq!(status_of(&server, "zstd", &good).await, "200");
    // A frame of one segment that says that it is so long, with nothing in it.
    let claim = |bytes: u64| [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &bytes.to_le_bytes()].concat();
    for bytes in [MAX_REPORT_BYTES + 1, 1 << 40, u64::MAX - 2] {
        assert_eq!(status_of(&server, "zstd", &claim(bytes)).await, "413", "{bytes}");
    }
    // Within the limit of a report, but far more than what came can stand for.
    let zeros = compress(&vec![0; 32 << 20], &[]).unwrap();
    assert!(zeros.len() < 16 * 1024, "{}", zeros.len());
    assert_eq!(status_of(&server, "zstd", &zeros).await, "413");
    // Small claims that are not true, no claim at all, no frame, and other codings.
    assert_eq!(status_of(&server, "zstd", &claim(100)).await, "400");
    let mut shorter = good.clone();
    shorter.truncate(good.len() - 10);
    assert_eq!(status_of(&server, "zstd", &shorter).await, "400");
    assert_eq!(status_of(&server, "zstd", &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x01, 0x00, 0x00]).await, "400");
    assert_eq!(status_of(&server, "zstd", b"").await, "400");
    assert_eq!(status_of(&server, "zstd", b"no frame").await, "400");
    assert_eq!(status_of(&server, "gzip", &good).await, "415");
    assert_eq!(server.site.reports.lock().unwrap().len(), 1);
    server.stop().await;
}

/// Answers each request on one connection with one of `answers`, and returns the requests.
async fn scripted(answers: Vec<&'static str>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut requests = Vec::new();
        for answer in answers {
            let mut request = Vec::new();
            loop {
                stream.read_buf(&mut request).await.unwrap();
                let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap();
                if request.len() >= head + 4 + length {
                    break;
                }
            }
            requests.push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (url, serving)
}

#[tokio::test]
async fn a_server_that_does_not_take_it_after_all_gets_it_as_it_is() {
    let takes = "HTTP/1.1 200 OK\r\nx-direct-puppet-status: accepted\r\naccept-encoding: gzip, zstd\r\ncontent-length: 0\r\n\r\n";
    let older = "HTTP/1.1 200 OK\r\nx-direct-puppet-status: accepted\r\ncontent-length: 0\r\n\r\n";
    let refuses = "HTTP/1.1 400 Bad Request\r\nx-direct-puppet-status: refused\r\ncontent-length: 0\r\n\r\n";
    let (url, serving) = scripted(vec![takes, refuses, older, older]).await;
    let transport = transport(&url, Some(true));
    let body = Bytes::from(codec::encode(&long_report()).unwrap());
    for operation in [Operation::CheckIn, Operation::Report, Operation::Report] {
        let response = transport.call(Request { operation, body: body.clone() }).await.unwrap();
        assert_eq!(response.status, Status::Accepted);
        response.into_bytes(0, "test").await.unwrap();
    }
    let requests = serving.await.unwrap();
    let is_packed = |request: &Vec<u8>| !request.ends_with(&body);
    assert_eq!(requests.iter().map(is_packed).collect::<Vec<_>>(), [false, true, false, false]);
}
