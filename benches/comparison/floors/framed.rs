//! The least protocol: all digests up, all contents down, in large writes.
//!
//! Request: count (4 bytes, little end first), digests of 32 bytes. Answer: for each, its length (4 bytes) and its bytes, in that order.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::Packed;

const WRITE_BYTES: usize = 256 * 1024;

type Digest = [u8; 32];

/// Serves the contents of a packed file until the end of standard input.
pub(crate) fn serve(packed: &Path, address: &str) -> anyhow::Result<()> {
    let packed = Packed::read(packed)?;
    let contents: HashMap<Digest, Vec<u8>> =
        packed.files().map(|(_, content)| (*blake3::hash(content).as_bytes(), content.to_owned())).collect();
    let contents = Arc::new(contents);
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let contents = Arc::clone(&contents);
            std::thread::spawn(move || answer(stream, &contents));
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn answer(mut stream: TcpStream, contents: &HashMap<Digest, Vec<u8>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut count = [0; 4];
    stream.read_exact(&mut count)?;
    let mut digests = vec![0; usize::try_from(u32::from_le_bytes(count))? * 32];
    stream.read_exact(&mut digests)?;
    let mut out = Vec::with_capacity(WRITE_BYTES * 2);
    for digest in digests.as_chunks::<32>().0 {
        let content = contents.get(digest).context("no such content")?;
        out.extend_from_slice(&u32::try_from(content.len())?.to_le_bytes());
        out.extend_from_slice(content);
        if out.len() >= WRITE_BYTES {
            stream.write_all(&out)?;
            out.clear();
        }
    }
    Ok(stream.write_all(&out)?)
}

pub(super) fn fetch(address: &str, digests: &Path) -> anyhow::Result<()> {
    let digests = std::fs::read(digests)?;
    let wanted = digests.as_chunks::<32>().0;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[&u32::try_from(wanted.len())?.to_le_bytes()[..], &digests].concat())?;
    let (mut buffer, mut filled, mut next) = (vec![0; 4 * WRITE_BYTES], 0, 0);
    while next < wanted.len() {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            bail!("the stream ended after {next} contents");
        }
        filled += count;
        let mut rest = &buffer[..filled];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Some((content, after)) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length))?) else { break };
            if blake3::hash(content).as_bytes() != &wanted[next] {
                bail!("content {next} is not what was asked for");
            }
            (rest, next) = (after, next + 1);
        }
        let kept = rest.len();
        buffer.copy_within(filled - kept..filled, 0);
        filled = kept;
        if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_and_what_differs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let contents: HashMap<Digest, Vec<u8>> =
            [vec![1; 3 * WRITE_BYTES], vec![], vec![2; 10]].into_iter().map(|c| (*blake3::hash(&c).as_bytes(), c)).collect();
        let digests: Vec<u8> = contents.keys().flatten().copied().collect();
        std::fs::write(dir.path().join("digests"), &digests).unwrap();
        let serve = |contents: HashMap<Digest, Vec<u8>>| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            std::thread::spawn(move || answer(listener.accept().unwrap().0, &contents));
            address
        };
        fetch(&serve(contents.clone()), &dir.path().join("digests")).unwrap();
        let damaged = contents.into_iter().map(|(digest, mut content)| {
            content.push(0);
            (digest, content)
        });
        let error = fetch(&serve(damaged.collect()), &dir.path().join("digests")).unwrap_err();
        assert!(error.to_string().contains("is not what was asked for"), "{error}");
    }
}
