//! `LISTEN`: one more connection, on which nothing else is asked.

use std::sync::OnceLock;
use std::time::Duration;

use futures::future::poll_fn;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Failure;
use crate::error::chain;

/// The channel of changes to watched pointers; its messages are their names.
pub(super) const CHANNEL: &str = "direct_puppet";

/// How long to wait before the connection is made again; while it is not there, readers look by themselves.
const QUIET: Duration = Duration::from_secs(2);

/// Hears of changes; begins when it is first asked.
pub(super) struct Listener {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    heard: watch::Sender<u64>,
    seen: Mutex<watch::Receiver<u64>>,
    task: OnceLock<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn new(config: Config, tls: Option<MakeRustlsConnect>) -> Self {
        let (heard, seen) = watch::channel(0);
        Self { config, tls, heard, seen: Mutex::new(seen), task: OnceLock::new() }
    }

    pub(super) async fn changed(&self, wait: Duration) {
        self.task.get_or_init(|| {
            let (config, tls, heard) = (self.config.clone(), self.tls.clone(), self.heard.clone());
            tokio::spawn(async move {
                loop {
                    let ended = match &tls {
                        Some(tls) => listen(&config, tls.clone(), &heard).await,
                        None => listen(&config, NoTls, &heard).await,
                    };
                    if let Err(error) = ended {
                        tracing::debug!("changes are not heard of for now: {}", chain(&*error));
                    }
                    tokio::time::sleep(QUIET).await;
                }
            })
        });
        let heard = async { self.seen.lock().await.changed().await };
        // Whether it heard something or waited is the same to a hint.
        let _: Result<_, _> = tokio::time::timeout(wait, heard).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Listens until the connection ends.
async fn listen<T>(config: &Config, tls: T, heard: &watch::Sender<u64>) -> Result<(), Failure>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, mut connection) = config.connect(tls).await?;
    let messages = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message? {
                heard.send_modify(|count| *count += 1);
            }
        }
        Ok(())
    };
    let asked = async {
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        // What changed before may not have been heard of.
        heard.send_modify(|count| *count += 1);
        std::future::pending::<Result<(), Failure>>().await
    };
    tokio::select! {
        ended = messages => ended,
        failed = asked => failed,
    }
}
