//! The Unix listener: frames, and the peer's credentials from the kernel.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::unix::{ConnectionLimits, serve_connection};
use direct_puppet_transport::{Handler, Peer};
use tokio::net::{UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// How long to wait when no file descriptor is left for a connection; connections that end free some.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps until they are accepted; it lowers this to its own limit (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

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
    /// Device and inode of the socket file, so that another server's is never removed.
    identity: (u64, u64),
}

/// Returns device and inode of what is at `path`.
fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Returns whether nobody but root and user `own` can write to a directory of this mode and owner.
const fn is_closed(mode: u32, owner: u32, own: u32) -> bool {
    mode & 0o022 == 0 && (owner == 0 || owner == own)
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
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let found = std::fs::metadata(directory).map_err(fail)?;
        let own = rustix::process::geteuid().as_raw();
        if !is_closed(found.mode(), found.uid(), own) {
            return Err(UnixListenError::OpenDirectory { path: path.to_owned() });
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(UnixListenError::NoSocket { path: path.to_owned() }),
            Ok(_) => match UnixStream::connect(path).await {
                // Only this says that nobody listens; a server that is busy may say something else.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(fail)?,
                _ => return Err(UnixListenError::Busy { path: path.to_owned() }),
            },
        }
        let socket = UnixSocket::new_stream().map_err(fail)?;
        socket.bind(path).map_err(fail)?;
        // Before anybody is listened to, so that nobody gets in whom the mode keeps out.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
        let socket = socket.listen(BACKLOG).map_err(fail)?;
        let identity = identity_of(path).map_err(fail)?;
        Ok(Self { socket, path: path.to_owned(), identity })
    }

    /// Serves until `shutdown`, then removes the socket, lets requests under way finish within [`Limits::drain_timeout`] and
    /// cuts the rest.
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
                Some(ended) = connections.join_next() => {
                    log_end(&ended);
                    continue;
                }
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
        // Gone first: who comes now hears at once that nobody listens, and a new server can take the place.
        self.close();
        let drained = async {
            while let Some(ended) = connections.join_next().await {
                log_end(&ended);
            }
        };
        if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections are cut: they did not finish in time");
        }
        connections.shutdown().await;
    }

    fn close(self) {
        let is_ours = identity_of(&self.path).is_ok_and(|found| found == self.identity);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
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

fn log_end(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection made the server panic; this is a bug");
    }
}

#[cfg(test)]
mod tests {
    use super::is_closed;

    #[test]
    fn only_a_directory_of_ours_or_of_root_that_others_cannot_write_is_closed() {
        assert!(is_closed(0o755, 0, 1000) && is_closed(0o700, 1000, 1000));
        assert!(!is_closed(0o700, 1001, 1000), "its owner can write");
        assert!(!is_closed(0o1777, 0, 1000) && !is_closed(0o775, 0, 1000) && !is_closed(0o702, 1000, 1000));
    }
}
