//! HTTP/1.1 and HTTP/2 over TCP, with TLS or plain.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::Peer;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::answer::{Client, Context, answer};
use super::live::{ClientCertificate, LiveTls, Revoked, Stamp};
use super::threads::Threads;
use super::tls::ServerTls;
use super::version::Version;
use super::{Limits, ListenError, Service};

/// A bound TCP socket that speaks HTTP.
pub struct HttpListener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<(Arc<LiveTls>, Stamp)>,
    threads: Option<Arc<Threads>>,
}

impl std::fmt::Debug for HttpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpListener").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// How long to wait when no file descriptor is left for a connection; connections that end free some.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long a client that was refused in the handshake may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How often a quiet HTTP/2 connection with open requests is asked whether it still lives, and how long it may think.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

impl HttpListener {
    /// Binds `address` (port 0 for any free one) and reads the files of `tls`. Without `tls` only a loopback address is
    /// bound, unless `allow_plain_beyond_loopback`.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub async fn bind(
        address: SocketAddr,
        tls: Option<ServerTls>,
        allow_plain_beyond_loopback: bool,
    ) -> Result<Self, ListenError> {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() && !allow_plain_beyond_loopback {
            return Err(ListenError::PlainBeyondLoopback { address });
        }
        let tls = tls.map(LiveTls::new).transpose().map_err(|source| ListenError::Tls { address, source })?;
        let bind = |source| ListenError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        Ok(Self { socket, address, tls: tls.map(|(tls, stamp)| (Arc::new(tls), stamp)), threads: None })
    }

    /// Has `threads` answer what comes to this listener, each the connections that it was given, in place of those of the runtime that
    /// [`HttpListener::serve`] is called on. An answer may hold up the other connections of its thread as long as it does not wait; what is
    /// longer than 64 KiB is left to that runtime, for reading it takes long.
    #[must_use]
    pub fn on_threads(self, threads: Arc<Threads>) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Returns the address that is bound, with its real port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL that is served, by address.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `shutdown`, then lets requests under way finish within [`Limits::drain_timeout`] and cuts the rest.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts all connections.
    pub async fn serve(self, service: Service, limits: Limits, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let room = Arc::new(Semaphore::new(limits.room()));
        let anonymous = Arc::new(Semaphore::new(limits.max_anonymous_connections));
        let (tls, stamp) = self.tls.unzip();
        let mut following = match tls.clone().zip(stamp) {
            Some((tls, stamp)) => tls.follow(stamp).boxed(),
            None => std::future::pending().boxed(),
        };
        let roomy = self.threads.is_some().then(Handle::current);
        let shared = Arc::new(Shared { service, limits, room, anonymous, tls, shutdown, roomy });
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => break,
                () = &mut following => break,
                Some(ended) = connections.join_next() => {
                    log_end(&ended);
                    continue;
                }
                accepted = accept(&self.socket, &places) => accepted,
            };
            let Some((stream, remote, place)) = accepted else { continue };
            let (shared, accepted) = (Arc::clone(&shared), Instant::now());
            let Some(seat) = self.threads.as_ref().and_then(|threads| threads.seat()) else {
                connections.spawn(async move {
                    shared.serve(stream, remote, accepted).await;
                    drop(place);
                });
                continue;
            };
            let runtime = seat.runtime.clone();
            // The socket's news is for the thread that it goes to.
            let stream = stream.into_std();
            let moved = async move {
                match stream.and_then(TcpStream::from_std) {
                    Ok(stream) => shared.serve(stream, remote, accepted).await,
                    Err(error) => tracing::warn!(%remote, %error, "a connection is cut: its thread cannot take it"),
                }
                drop((place, seat));
            };
            connections.spawn_on(moved, &runtime);
        }
        drop(self.socket);
        let drained = async {
            while let Some(ended) = connections.join_next().await {
                log_end(&ended);
            }
        };
        if tokio::time::timeout(shared.limits.drain_timeout, drained).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections are cut: they did not finish in time");
        }
        connections.shutdown().await;
    }
}

fn log_end(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection made the server panic; this is a bug");
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Waits for a place, then for a connection; `None` when this one came to nothing. Cancel safe.
async fn accept(socket: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, Place)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, remote)) => Some((stream, remote, place)),
        // The peer has gone away again.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot accept connections; trying again");
            tokio::time::sleep(ACCEPT_BACK_OFF).await;
            None
        }
    }
}

/// Why a connection is not driven any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driven {
    /// It has ended, or is to be cut.
    Ended,
    /// Nothing happens on it.
    Parked,
}

/// What all connections of a listener share.
pub(super) struct Shared {
    service: Service,
    pub(super) limits: Limits,
    room: Arc<Semaphore>,
    /// Places for connections of clients that showed no certificate.
    anonymous: Arc<Semaphore>,
    tls: Option<Arc<LiveTls>>,
    pub(super) shutdown: CancellationToken,
    /// Where long requests are answered, if not on the connection's thread.
    roomy: Option<Handle>,
}

impl Shared {
    /// Serves a connection to its end.
    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, accepted: Instant) {
        if accepted.elapsed() >= self.limits.tls_handshake_timeout {
            tracing::debug!(%remote, "a connection is cut: it waited so long for its thread that its client will have given up");
            return;
        }
        // In boxes, so that a connection that waits for minutes holds no room for how it began.
        if let Some(spoken) = Box::pin(self.begin(stream, remote)).await {
            spoken.await;
        }
    }

    /// Finds out what a connection speaks, and with whom; returns what then serves it to its end.
    async fn begin(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%remote, %error, "cannot send small answers at once");
        }
        let Some(tls) = &self.tls else { return self.plain(stream, remote).await };
        let handshake = self.handshake(tls, stream, remote);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.tls_handshake_timeout, handshake) => shaken,
            () = self.shutdown.cancelled() => return None,
        };
        match shaken {
            Ok(Some((stream, client))) => {
                let version = Version::agreed(stream.get_ref().1.alpn_protocol());
                return self.identified(stream, version, remote, client, tls.revoked());
            }
            Ok(None) => {}
            Err(_) => tracing::debug!(%remote, "no TLS handshake in time"),
        }
        None
    }

    async fn plain(self: &Arc<Self>, stream: TcpStream, remote: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        let spoken = tokio::select! {
            spoken = tokio::time::timeout(self.limits.header_read_timeout, Version::spoken(&stream)) => spoken,
            () = self.shutdown.cancelled() => return None,
        };
        match spoken {
            Ok(Ok(version)) => return Some(self.speak(stream, version, remote, Peer::Plain, None)),
            Ok(Err(error)) => tracing::debug!(%remote, %error, "a connection ended early"),
            Err(_) => {
                tracing::debug!(%remote, "no request in time");
                Box::pin(linger(stream)).await;
            }
        }
        None
    }

    async fn handshake(
        &self,
        tls: &LiveTls,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Option<(Box<TlsStream<TcpStream>>, Option<ClientCertificate>)> {
        let door = tls.door();
        let accepted = match TlsAcceptor::from(Arc::clone(&door.config)).accept(stream).into_fallible().await {
            Ok(stream) => match door.still_counts(stream.get_ref().1) {
                Ok(()) => Ok(stream),
                Err(error) => Err((io::Error::other(error), stream.into_inner().0)),
            },
            refused => refused,
        };
        match accepted {
            Ok(stream) => {
                let certificate = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
                    Some(certificate) => Some(ClientCertificate::of(certificate)?),
                    None => None,
                };
                Some((Box::new(stream), certificate))
            }
            Err((error, stream)) => {
                tracing::info!(%remote, %error, "a TLS client was refused");
                Box::pin(linger(stream)).await;
                None
            }
        }
    }

    /// Returns what serves a connection of TLS: as long as the client's certificate counts, or there is a place for one without.
    fn identified(
        self: &Arc<Self>,
        stream: Box<TlsStream<TcpStream>>,
        version: Version,
        remote: SocketAddr,
        certificate: Option<ClientCertificate>,
        mut revoked: watch::Receiver<Arc<Revoked>>,
    ) -> Option<BoxFuture<'static, ()>> {
        let Some(certificate) = certificate else {
            let Ok(place) = Arc::clone(&self.anonymous).try_acquire_owned() else {
                tracing::warn!(%remote, "a client without a certificate is cut: too many of them are connected");
                return None;
            };
            let spoken = self.speak(stream, version, remote, Peer::Anonymous, None);
            return Some(spoken.map(|()| drop(place)).boxed());
        };
        let peer = Peer::Certificate { name: certificate.name.clone(), extensions: certificate.extensions.clone() };
        let certificate = Arc::new(certificate);
        let client = Client { certificate: Arc::clone(&certificate), revoked: revoked.clone() };
        let spoken = self.speak(stream, version, remote, peer, Some(client));
        let watching = async move {
            let is_refused = |revoked: &Arc<Revoked>| certificate.refusal(revoked).is_some();
            // It fails when nobody follows the files any more: the server stops.
            if revoked.wait_for(is_refused).await.is_err() {
                std::future::pending::<()>().await;
            }
            tracing::info!(%remote, name = %certificate.name, "a connection is cut: its certificate counts no more");
        };
        Some(
            async move {
                tokio::select! {
                    biased;
                    () = watching => {}
                    () = spoken => {}
                }
            }
            .boxed(),
        )
    }

    /// Returns what serves one connection to its end.
    fn speak(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        version: Version,
        remote: SocketAddr,
        peer: Peer,
        client: Option<Client>,
    ) -> BoxFuture<'static, ()> {
        let (service, limits, room) = (self.service.clone(), self.limits.clone(), Arc::clone(&self.room));
        let (activity, roomy) = (Activity::new(), self.roomy.clone());
        let context = Arc::new(Context { service, peer, client, limits, activity, room, roomy });
        // Boxed one by one, so that each takes no more room than it needs.
        match version {
            Version::One => Arc::clone(self).speak_one(stream, context, remote).boxed(),
            Version::Two => Arc::clone(self).speak_two(stream, context, remote).boxed(),
        }
    }

    async fn speak_two(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        context: Arc<Context>,
        remote: SocketAddr,
    ) {
        let activity = context.activity.clone();
        let service = service_fn(move |request| answer(Arc::clone(&context), request).map(Ok::<_, Infallible>));
        let mut connection = Box::pin(self.two().serve_connection(TokioIo::new(stream), service));
        self.drive(connection.as_mut(), &activity, remote, None).await;
    }

    /// Lets a connection go on until it ends, is quiet for too long, or the server stops; or until nothing has happened for a while and
    /// `may_park` says that it may be left then.
    pub(super) async fn drive<C>(
        &self,
        mut connection: Pin<&mut C>,
        activity: &Activity,
        remote: SocketAddr,
        may_park: Option<&(dyn Fn() -> bool + Send + Sync)>,
    ) -> Driven
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let (mut closing, mut asked) = (None, false);
        loop {
            let now = Instant::now();
            // What the connection does meanwhile may bring the time closer, so look again at least as often as it could come.
            let next = now + self.limits.shortest_patience();
            let quiet = closing.or_else(|| activity.quiet_until(&self.limits)).map_or(next, |quiet| quiet.min(next));
            let park = may_park.map(|_| {
                let park_after = self.limits.park_after();
                let park = activity.nothing_since().map_or(now, |since| since + park_after);
                if park > now { park } else { now + park_after }
            });
            let look = park.map_or(quiet, |park| park.min(quiet));
            tokio::select! {
                // First, so that it has read what came before it is told anything.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%remote, %error, "a connection ended early");
                    }
                    return Driven::Ended;
                }
                () = self.shutdown.cancelled(), if !asked => {
                    asked = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(look) => match activity.quiet_until(&self.limits) {
                    _ if closing.is_some_and(|closing| closing <= Instant::now()) => return Driven::Ended,
                    _ if closing.is_some() => {}
                    Some(quiet) if quiet <= Instant::now() && activity.is_answering() => {
                        tracing::info!(%remote, "a connection is cut: its peer takes nothing");
                        return Driven::Ended;
                    }
                    Some(quiet) if quiet <= Instant::now() => {
                        closing = Some(Instant::now() + self.limits.drain_timeout);
                        connection.as_mut().graceful_shutdown();
                    }
                    _ => {
                        let since = activity.nothing_since().map(|since| since + self.limits.park_after());
                        if since.is_some_and(|park| park <= Instant::now()) && may_park.is_some_and(|may_park| may_park()) {
                            return Driven::Parked;
                        }
                    }
                },
            }
        }
    }

    pub(super) fn one(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.header_read_timeout);
        builder
    }

    fn two(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.max_streams_per_connection)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        builder
    }
}

/// Reads on for a moment after a handshake was refused, or nothing whole came: closing with bytes unread would make the kernel reset
/// the connection and throw away the alert that tells the client why.
async fn linger(mut stream: TcpStream) {
    let read = async {
        stream.shutdown().await?;
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, read).await {
        tracing::debug!(%error, "a refused client left at once");
    }
}
