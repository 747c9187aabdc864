//! A client beside small servers that say what a test wants.

use std::sync::Mutex;

use futures::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with the next text, and keeps what was asked.
async fn server(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            kept.lock().unwrap().push(String::from_utf8(request).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (base, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}")
}

async fn whole_of(body: BodyStream) -> Result<String, TransportError> {
    let pieces: Vec<bytes::Bytes> = body.try_collect().await?;
    Ok(String::from_utf8(pieces.concat()).unwrap())
}

#[tokio::test]
async fn headers_say_what_there_is() {
    let (sha256, sha1) = ("A".repeat(64), "b".repeat(40));
    let headers = format!(
        "X-Checksum-Sha256: {sha256}\r\nX-Checksum-Sha1: {sha1}\r\nContent-MD5: kAFQmDzST7DWlj99KOF/cg==\r\nLast-Modified: Sun, 06 Nov \
         1994 08:49:37 GMT\r\nContent-Length: 3\r\n"
    );
    let (base, asked) = server(vec![answer("200 OK", &headers, "")]).await;
    let found = HttpSourceClient::new().metadata(&format!("{base}/a?b")).await.unwrap();
    let HttpAnswer::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.sha256.unwrap(), found.sha1.unwrap()), (sha256.to_lowercase(), sha1));
    assert_eq!(found.md5.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(found.last_modified.unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
    assert!(asked.lock().unwrap()[0].starts_with("HEAD /a?b HTTP/1.1\r\n"));
}

#[tokio::test]
async fn headers_without_sense_say_nothing() {
    let headers = "X-Checksum-Sha256: abc\r\nX-Checksum-Md5: not hex\r\nContent-MD5: !\r\nLast-Modified: yesterday\r\nContent-Length: 0\r\n";
    let (base, _) = server(vec![answer("200 OK", headers, "")]).await;
    let found = HttpSourceClient::new().metadata(&base).await.unwrap();
    assert_eq!(found, HttpAnswer::Found(HttpMetadata::default()));
}

#[tokio::test]
async fn a_server_that_refuses_head_is_asked_for_one_byte() {
    let refusals =
        vec![answer("403 Forbidden", "Content-Length: 0\r\n", ""), answer("206 Partial Content", "Content-Length: 1\r\n", "x")];
    let (base, asked) = server(refusals).await;
    let found = HttpSourceClient::new().metadata(&base).await.unwrap();
    assert_eq!(found, HttpAnswer::Found(HttpMetadata::default()));
    assert!(asked.lock().unwrap()[1].to_lowercase().contains("\r\nrange: bytes=0-0\r\n"), "{asked:?}");
    let (base, _) = server(vec![answer("404 Not Found", "Content-Length: 0\r\n", "")]).await;
    assert_eq!(HttpSourceClient::new().metadata(&base).await.unwrap(), HttpAnswer::Refused(404));
}

#[tokio::test]
async fn a_content_comes_whole_after_redirects_or_ends_in_an_error() {
    let whole = answer("200 OK", "Content-Length: 5\r\n", "hello");
    let (base, asked) = server(vec![answer("302 Found", "Location: /b\r\nContent-Length: 0\r\n", ""), whole]).await;
    let with_user = base.replace("http://", "http://me:hunter2@");
    let found = HttpSourceClient::new().content(&format!("{with_user}/a")).await.unwrap();
    let HttpAnswer::Found((_, body)) = found else { panic!("refused") };
    assert_eq!(whole_of(body).await.unwrap(), "hello");
    let asked = asked.lock().unwrap().clone();
    assert!(asked[0].to_lowercase().contains("\r\nauthorization: basic bwu6ahvudgvymg==\r\n"), "{asked:?}");
    assert!(asked[1].starts_with("GET /b "), "{asked:?}");
    let (base, _) = server(vec![answer("200 OK", "Content-Length: 500\r\n", "hello")]).await;
    let found = HttpSourceClient::new().content(&base.replace("http://", "http://me:hunter2@")).await.unwrap();
    let HttpAnswer::Found((_, body)) = found else { panic!("refused") };
    let error = whole_of(body).await.unwrap_err();
    assert_eq!((error.kind(), error.endpoint()), (TransportErrorKind::Closed, base.as_str()));
}

#[tokio::test]
async fn a_content_that_is_encoded_is_not_taken_for_what_it_is_not() {
    let (base, asked) = server(vec![answer("200 OK", "Content-Length: 2\r\nContent-Encoding: gzip\r\n", "\x1f?")]).await;
    let Err(error) = HttpSourceClient::new().content(&base).await else { panic!("it was taken") };
    assert!(error.to_string().contains("encoded (gzip)"), "{error}");
    assert!(asked.lock().unwrap()[0].to_lowercase().contains("\r\naccept-encoding: identity\r\n"));
}

#[tokio::test]
async fn nobody_there_and_no_authority_are_errors_that_name_the_url() {
    let error = HttpSourceClient::new().metadata("http://127.0.0.1:1/a").await.unwrap_err();
    assert_eq!((error.kind(), error.endpoint()), (TransportErrorKind::Connect, "http://127.0.0.1:1/a"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, "nothing").unwrap();
    let error = HttpSourceClient::new().trusting(&file).metadata("http://127.0.0.1:1/a").await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Config);
    // One that is not there, as before a node has a certificate, is left out.
    let missing = HttpSourceClient::new().trusting(directory.path().join("none"));
    assert_eq!(missing.metadata("http://127.0.0.1:1/a").await.unwrap_err().kind(), TransportErrorKind::Connect);
}
