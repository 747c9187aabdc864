//! JSON to servers that do not speak the protocol, over the same connections.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;

use super::{HttpTransport, PlainMethod, PlainRequest, PlainResponse};
use crate::error::TransportError;

/// How much of an answer is read: enough for an error to be told.
const MAX_ANSWER_BYTES: usize = 2048;

/// How JSON is given to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonMethod {
    /// `PUT`.
    Put,
    /// `POST`.
    Post,
}

impl HttpTransport {
    /// Sends JSON to a path, with its query, below the URL of the server, and returns the status of the answer and its first 2048 bytes as text.
    /// Whatever the status, an answer is no error.
    ///
    /// # Errors
    ///
    /// When there is no answer within `limit`.
    ///
    /// # Cancel safety
    ///
    /// The server may or may not have had the request.
    pub async fn send_json(
        &self,
        method: JsonMethod,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(u16, String), TransportError> {
        let method = match method {
            JsonMethod::Put => PlainMethod::Put,
            JsonMethod::Post => PlainMethod::Post,
        };
        let headers = vec![("Content-Type", "application/json"), ("Accept", "application/json")];
        let request = PlainRequest { method, path: path.to_owned(), headers, body };
        let answered = async {
            let PlainResponse { status, body: mut chunks, .. } = self.send_plain(request).await?;
            let mut text = Vec::new();
            while text.len() < MAX_ANSWER_BYTES {
                // How it ends matters no more: the status is known.
                let Some(Ok(chunk)) = chunks.next().await else { break };
                let room = MAX_ANSWER_BYTES - text.len();
                text.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok((status, String::from_utf8_lossy(&text).into_owned()))
        };
        tokio::time::timeout(limit, answered).await.map_err(|_| self.late(limit))?
    }
}
