//! How questions and answers stand on a stream: four bytes of length, then so many bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of which memory is taken at once: for what has come, not for what was announced.
const STEP: usize = 64 * 1024;

/// Writes one frame.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("a question of {} bytes is too long", bytes.len())))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads one frame of at most `limit` bytes.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`] when the stream ends before its end, [`io::ErrorKind::InvalidData`] when it is longer.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an answer of {length} bytes is too long, {limit} may be read"),
        ));
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let at = bytes.len();
        bytes.resize((at + STEP).min(length), 0);
        stream.read_exact(&mut bytes[at..]).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_written() {
        // Nothing, one byte, around a step, several.
        for length in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect();
            let mut stream = Vec::new();
            write(&mut stream, &bytes).await.unwrap();
            write(&mut stream, b"next").await.unwrap();
            let mut rest = stream.as_slice();
            assert!(read(&mut rest, length).await.unwrap() == bytes, "{length}");
            assert_eq!((read(&mut rest, 4).await.unwrap().as_slice(), rest), (b"next".as_slice(), b"".as_slice()), "{length}");
        }
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_too_long_is_an_error() {
        let kind = async |bytes: &[u8], limit| read(&mut &*bytes, limit).await.map_err(|error| error.kind());
        for broken in [&b""[..], &b"\0\0\0"[..], &b"\0\0\0\x02a"[..]] {
            assert_eq!(kind(broken, 10).await, Err(io::ErrorKind::UnexpectedEof), "{broken:?}");
        }
        assert_eq!(kind(b"\0\0\0\x02ab", 1).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(kind(b"\xff\xff\xff\xffab", 1 << 20).await, Err(io::ErrorKind::InvalidData));
        // As when somebody writes text in between.
        assert_eq!(kind(b"puts 'hello'", 1 << 20).await, Err(io::ErrorKind::InvalidData));
    }
}
