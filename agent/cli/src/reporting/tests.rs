//! Reports over HTTP, to a small server that keeps what it is sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use direct_puppet_agent::report_processor::{ReportId, ReportProcessor as _};
use direct_puppet_agent::system::RealSystem;

use super::*;

/// What was asked: request line, headers, body.
type Asked = (String, Vec<String>, Vec<u8>);

/// Starts a server that answers everything with `status`; it ends when nobody listens.
fn serve(status: &'static str) -> (String, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = channel();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(stream);
            let mut head: Vec<String> = Vec::new();
            loop {
                let mut line = String::new();
                match reader.read_line(&mut line) {
                    Ok(1..) if !line.trim().is_empty() => head.push(line.trim().to_owned()),
                    _ => break,
                }
            }
            let length = head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or_default()];
            reader.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            let line = if head.is_empty() { String::new() } else { head.remove(0) };
            if tell.send((line, head, body)).is_err() {
                break;
            }
        }
    });
    (url, asked)
}

fn processor(api: ReportApi, url: &str) -> HttpReports {
    let transport = HttpTransport::new(url, &HttpOptions::default()).unwrap();
    let sender = Sender { transport, url: url.to_owned() };
    HttpReports::new(api, "n1.example.com".parse().unwrap(), "production".parse().unwrap(), sender, RealSystem::default())
}

fn id() -> ReportId {
    ReportId { time_unix_nanos: 0, transaction_uuid: "run".to_owned() }
}

#[tokio::test]
async fn each_server_is_asked_as_it_wants() {
    for (api, line) in [
        (ReportApi::Puppet, "PUT /puppet/v3/report/n1.example.com?environment=production HTTP/1.1"),
        (ReportApi::PuppetDb, "POST /pdb/cmd/v1?command=store_report&version=8&certname=n1.example.com&producer-timestamp="),
        (ReportApi::Foreman, "POST /api/config_reports HTTP/1.1"),
    ] {
        let (url, asked) = serve("200 OK");
        processor(api, &url).send(&id(), Bytes::from_static(b"{\"a\":1}")).await.unwrap();
        let (said, headers, body) = asked.recv().unwrap();
        assert!(said.starts_with(line), "{said}");
        assert!(headers.iter().any(|header| header.eq_ignore_ascii_case("content-type: application/json")), "{headers:?}");
        assert_eq!(body, b"{\"a\":1}");
    }
}

#[tokio::test]
async fn refusals_and_silence_are_told_apart() {
    let (url, _asked) = serve("400 Bad Request");
    let error = processor(ReportApi::Puppet, &url).send(&id(), Bytes::new()).await.unwrap_err();
    assert!(!error.is_retryable && error.to_string().ends_with("it answered 400 []"), "{error}");
    let (url, _asked) = serve("503 Service Unavailable");
    assert!(processor(ReportApi::Puppet, &url).send(&id(), Bytes::new()).await.unwrap_err().is_retryable);
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = processor(ReportApi::Foreman, &format!("http://{gone}")).send(&id(), Bytes::new()).await.unwrap_err();
    assert!(error.is_retryable && error.source.is_some(), "{error}");
}

#[test]
fn targets_are_read_or_refused() {
    assert_eq!("store=/var/reports".parse(), Ok(ReportTo::Store("/var/reports".into())));
    assert_eq!("puppetdb=https://db:8081/".parse(), Ok(ReportTo::Http(ReportApi::PuppetDb, "https://db:8081".to_owned())));
    for bad in ["store", "store=reports", "puppet=db:8081", "prometheus=x.prom", "nagios=/x"] {
        assert!(bad.parse::<ReportTo>().is_err(), "{bad}");
    }
}
