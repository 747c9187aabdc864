//! A web server on loopback for sources of files.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// The content of all its files.
pub(crate) const CONTENT: &str = "from the web\n";

/// Starts one that answers until the process ends, and returns its URL.
pub(crate) fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is its own matter.
            let _answered = stream.and_then(answer);
        }
    });
    url
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&piece[..length]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let (method, rest) = request.split_once(' ').unwrap();
    let path = rest.split(' ').next().unwrap();
    let (status, headers) = match (method, path) {
        // Digests of CONTENT, and of nothing.
        (_, "/md5") => ("200 OK", "Content-MD5: 3TXZVtPm/NlEGKXXwWdJdg==\r\n"),
        (_, "/sha256") => (
            "200 OK",
            "X-Checksum-Sha256: 451f3e8714562111c7fc96b639f49f404507d4436dcd0ec3d539defcc2577d86\r\nLast-Modified: Fri, 01 Jan 2100 00:00:00 GMT\r\n",
        ),
        (_, "/forged") => ("200 OK", "X-Checksum-Md5: d41d8cd98f00b204e9800998ecf8427e\r\n"),
        (_, "/old") => ("200 OK", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        ("HEAD", "/get-only") => ("405 Method Not Allowed", ""),
        (_, "/get-only") => ("200 OK", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        (_, "/moved") => ("302 Found", "Location: /md5\r\n"),
        _ => ("404 Not Found", ""),
    };
    let body = if method == "HEAD" || !status.starts_with('2') { "" } else { CONTENT };
    let length = if status.starts_with('2') { CONTENT.len() } else { 0 };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}
