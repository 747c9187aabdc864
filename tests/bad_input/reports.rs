//! Reports that are too long, by the real route of the real server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_tests::binaries::json;
use direct_puppet_tests::serving::Serving;
use direct_puppet_transport::protocol::limits::{MAX_REPORT_BYTES, MAX_SMALL_MESSAGE_BYTES};
use direct_puppet_transport::protocol::{Operation, Refusal, RefusalCode, codec};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{Client, HttpOptions, HttpTransport, Request, Status, Transport as _};

use super::Case;

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_too_long_is_refused_and_the_next_one_is_taken() {
    let case = Case::new();
    case.resources("- file: /a\n  content: x");
    let serving = Serving::start(case.dir.path(), &case.site);
    assert!(serving.verb(&["publish"]).status.success());
    let transport = HttpTransport::new(&serving.urls[0], &HttpOptions::default()).unwrap();
    let reports = || json(&serving.verb(&["nodes"])).to_string();
    let before = reports();
    // A report by itself, but for its length.
    let length = usize::try_from(MAX_REPORT_BYTES).unwrap() + 1;
    let long = direct_puppet_transport::protocol::Report { transaction_uuid: "0".repeat(length), ..samples::report("n1") };
    let body = Bytes::from(codec::encode(&long).unwrap());
    let response = transport.call(Request { operation: Operation::Report, body }).await.unwrap();
    assert_eq!(response.status, Status::Refused);
    let body = response.into_bytes(MAX_SMALL_MESSAGE_BYTES, "test").await.unwrap();
    let refusal: Refusal = codec::decode(&body, MAX_SMALL_MESSAGE_BYTES).unwrap();
    assert!(refusal.code == RefusalCode::BadRequest && refusal.message.contains("longer than"), "{refusal}");
    // As HTTP says it, before anything is sent.
    let address = serving.urls[0].strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    let answered = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /direct/v1/report HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\
             content-type: application/vnd.direct-puppet+msgpack\r\n\r\n",
            MAX_REPORT_BYTES + 1
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("HTTP/1.1 413 ") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
        }
    });
    answered.await.unwrap();
    assert_eq!(reports(), before, "nothing of it is kept");
    let client = Client::new(transport);
    for is_duplicate in [false, true] {
        assert_eq!(client.report(&samples::report("n1")).await.unwrap().duplicate, is_duplicate);
    }
    assert!(reports().contains("n1"), "{}", reports());
}
