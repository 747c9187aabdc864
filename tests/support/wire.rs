//! A place between a server and those who connect to it: it counts what goes each way, and can keep back what one side says.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Forwards connections until the program ends.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    to_server: AtomicU64,
    from_server: AtomicU64,
    kept_back: AtomicU64,
}

impl Wire {
    /// Stands before a server at a TCP address; returns where.
    #[must_use]
    pub fn before_tcp(server: SocketAddr) -> (Self, SocketAddr) {
        let (wire, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (counts, address) = (Arc::clone(&wire.counts), listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                join(client, server, &counts, copy);
            }
        });
        (wire, address)
    }

    /// Stands before a PostgreSQL server whose socket is in a directory, with a socket in another one, and lets nobody hear what others
    /// notify: messages of the type `A` (PostgreSQL's documentation, "Message Formats", `NotificationResponse`).
    #[must_use]
    pub fn before_postgres_without_notifications(server: &Path, dir: &Path) -> Self {
        const SOCKET: &str = ".s.PGSQL.5432";
        let (wire, server) = (Self::default(), server.join(SOCKET));
        let (counts, listener) = (Arc::clone(&wire.counts), UnixListener::bind(dir.join(SOCKET)).unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&server) else { continue };
                join(client, server, &counts, copy_without_notifications);
            }
        });
        wire
    }

    /// Returns how many bytes went either way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.to_server.load(Ordering::SeqCst) + self.counts.from_server.load(Ordering::SeqCst)
    }

    /// Returns how many messages were kept back.
    #[must_use]
    pub fn kept_back(&self) -> u64 {
        self.counts.kept_back.load(Ordering::SeqCst)
    }
}

/// One end of a connection.
trait End: Read + Write + Sized + Send + 'static {
    fn again(&self) -> Self;
    fn end(&self);
}

impl End for TcpStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        let _unheard = self.shutdown(Shutdown::Write);
    }
}

impl End for UnixStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        let _unheard = self.shutdown(Shutdown::Write);
    }
}

/// Forwards a connection until both sides have ended it; `back` copies what the server says.
fn join<T: End>(
    mut client: T,
    mut server: T,
    counts: &Arc<Counts>,
    back: fn(&mut T, &mut T, &Counts, &AtomicU64) -> io::Result<()>,
) {
    let (mut client_too, mut server_too) = (client.again(), server.again());
    let (there, counts) = (Arc::clone(counts), Arc::clone(counts));
    std::thread::spawn(move || {
        let _cut_off = copy(&mut client, &mut server, &there, &there.to_server);
        server.end();
    });
    std::thread::spawn(move || {
        let _cut_off = back(&mut server_too, &mut client_too, &counts, &counts.from_server);
        client_too.end();
    });
}

fn copy<T: End>(from: &mut T, to: &mut T, _: &Counts, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        count.fetch_add(read as u64, Ordering::SeqCst);
        to.write_all(&buffer[..read])?;
    }
}

/// A message is a byte for its type and four for its length, which counts itself.
fn copy_without_notifications<T: End>(from: &mut T, to: &mut T, counts: &Counts, count: &AtomicU64) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        from.read_exact(&mut body)?;
        count.fetch_add(1 + u64::from(length), Ordering::SeqCst);
        if head[0] == b'A' {
            counts.kept_back.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        to.write_all(&head)?;
        to.write_all(&body)?;
    }
}
