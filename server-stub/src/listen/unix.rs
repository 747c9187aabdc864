//! The Unix listener: frames, and the peer's credentials from the kernel.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::unix::{ConnectionLimits, serve_connection};
use direct_puppet_transport::{Handler, Peer};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// How long to wait when no file descriptor is left for a connection; connections that end free some.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixListenError {
    /// Somebody listens there.
    #[error("cannot listen on {}: another server answers there", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("cannot listen on {}: something that is no socket is there", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// Others could put a socket of their own there.
    #[error("refused to listen on {}: others can write to its directory; choose one that is yours", path.display())]
    OpenDirectory {
        /// The socket.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot listen on {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound Unix socket.
#[derive(Debug)]
pub struct UnixListener {
    socket: tokio::net::UnixListener,
    path: PathBuf,
}

impl UnixListener {
    /// Binds `path` with permissions `mode`. A socket that nobody answers on is replaced.
    ///
    /// # Errors
    ///
    /// When somebody listens there already, or others can write to the directory (a sticky one included: they could have
    /// been there first).
    pub async fn bind(path: &Path, mode: u32) -> Result<Self, UnixListenError> {
        let fail = |source| UnixListenError::Bind { path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if std::fs::metadata(directory).map_err(fail)?.mode() & 0o022 != 0 {
            return Err(UnixListenError::OpenDirectory { path: path.to_owned() });
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(UnixListenError::NoSocket { path: path.to_owned() }),
            Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(UnixListenError::Busy { path: path.to_owned() }),
            Ok(_) => std::fs::remove_file(path).map_err(fail)?,
        }
        // The directory is ours alone, so nobody can connect between these two.
        let socket = tokio::net::UnixListener::bind(path).map_err(fail)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Serves until `shutdown`, then lets requests under way finish within [`Limits::drain_timeout`], cuts the rest, and
    /// removes the socket.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts all connections; the socket stays, and the next bind replaces it.
    pub async fn serve(self, handler: Arc<dyn Handler>, limits: Limits, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let connection_limits = ConnectionLimits {
            idle: limits.idle_timeout,
            request_body: limits.request_body_timeout,
            stall: limits.stall_timeout,
        };
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_ended) = connections.join_next() => continue,
                stream = self.accept(&places) => stream,
            };
            let Some((stream, place)) = stream else { break };
            let (handler, shutdown) = (Arc::clone(&handler), shutdown.clone());
            connections.spawn(async move {
                let _place = place;
                let served = match stream.peer_cred() {
                    Ok(owner) => {
                        let peer = Peer::Process { uid: owner.uid(), gid: owner.gid(), pid: owner.pid().unwrap_or_default() };
                        serve_connection(stream, &peer, &*handler, connection_limits, &shutdown).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection broke");
                }
            });
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
            tracing::warn!("requests under way were cut off");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket stays");
        }
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => return Some((stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted for now");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}
