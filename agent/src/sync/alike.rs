//! Large contents put together from files that have something like them, which no catalog names: somebody edited the file, or it is older
//! than the server remembers.
//!
//! The server is asked how the content is cut, coarsely, then finely where the node has nothing, and for the bytes of what is left
//! ([`pieces`](direct_puppet_transport::protocol::pieces)). What does not come out right, for whatever reason, is fetched as ever.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;

use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::limits::{MAX_PART_BYTES, MAX_PART_STRETCHES};
use direct_puppet_transport::protocol::pack::ZSTD;
use direct_puppet_transport::protocol::{Digest, Encoding, Fetch, Grain, Pack, PackedFetch, Part, Piece, TreePath};
use direct_puppet_transport::{CallError, Transport};
use tokio_util::sync::CancellationToken;

use super::fetch::FetchRequest;
use super::unpack::unpack;
use crate::error::RunError;
use crate::fs::{FsError, FsErrorKind};
use crate::store::Incoming;

/// Contents so long are put together, in bytes: shorter ones are sent sooner than asked about, and the cuts of longer ones take memory.
pub(crate) const LARGE_BYTES: RangeInclusive<u64> = 1 << 20..=16 << 30;

/// How much of a file is read at a time, and of a content written before it is looked whether that is still wanted.
const READ_BYTES: u64 = 8 << 20;

/// So many are put together, the largest: each takes some questions, one after the other.
const MOST: usize = 64;

/// Puts together what it can; tells `done` of each content that is in the store then, and returns how many there are.
///
/// # Cancel safety
///
/// Safe: nothing of what is not complete stays, and work on the disk ends soon.
pub(super) async fn bring<T: Transport>(
    request: &FetchRequest<'_, T>,
    alike: HashMap<Digest, TreePath>,
    done: &mut (dyn FnMut(Digest) + Send),
) -> Result<u64, RunError> {
    let size = |digest: &Digest| request.missing.get(digest).map_or(0, |(size, _)| *size);
    let mut all: Vec<(u64, Digest, TreePath)> = alike
        .into_iter()
        .map(|(digest, path)| (size(&digest), digest, path))
        .filter(|one| LARGE_BYTES.contains(&one.0))
        .collect();
    all.sort_unstable_by_key(|(size, digest, _)| (std::cmp::Reverse(*size), *digest));
    // Work on the disk goes on when this is dropped, until it sees this.
    let stop = request.cancel.child_token();
    let _stops = stop.clone().drop_guard();
    let mut count = 0;
    for (_, digest, path) in all.into_iter().take(MOST) {
        if request.store.partial_len(&digest) > 0 {
            // It broke off, and goes on where it stopped.
            continue;
        }
        match put_together(request, digest, &path, &stop).await {
            _ if stop.is_cancelled() => return Err(RunError::Cancelled),
            Ok(()) => {
                count += 1;
                done(digest);
            }
            Err(Failed::Otherwise(reason)) => {
                tracing::info!(path = %path.absolute(), reason, "what is there is of no use: the content is fetched whole");
            }
            Err(Failed::ForAll(reason)) => {
                tracing::info!(reason, "contents are fetched whole");
                break;
            }
            Err(Failed::Run(error)) => return Err(error),
        }
    }
    Ok(count)
}

/// Why a content was not put together.
enum Failed {
    /// It has to come otherwise.
    Otherwise(String),
    /// And so have the others.
    ForAll(String),
    /// No other way can help.
    Run(RunError),
}

impl Failed {
    fn otherwise(reason: impl Into<String>) -> Self {
        Self::Otherwise(reason.into())
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Otherwise(error.to_string())
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        // The fetch that follows knows what to do about it.
        Self::ForAll(error.to_string())
    }
}

/// A stretch of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    at: u64,
    size: u64,
    /// Where the file has it.
    there: Option<u64>,
}

impl Stretch {
    const fn end(&self) -> u64 {
        self.at + self.size
    }
}

async fn put_together<T: Transport>(
    request: &FetchRequest<'_, T>,
    digest: Digest,
    path: &TreePath,
    stop: &CancellationToken,
) -> Result<(), Failed> {
    let packing = request.packing.as_ref().ok_or_else(|| Failed::otherwise("no catalog is known"))?;
    let place = *packing.places.get(&digest).ok_or_else(|| Failed::otherwise("no catalog names it"))?;
    let size = request.missing.get(&digest).map_or(0, |(size, _)| *size);
    let (root, path) = (packing.root.clone(), path.clone());
    let ask = async |stretches: Vec<(u64, u64)>, grain| {
        tokio::select! {
            () = stop.cancelled() => Err(Failed::Run(RunError::Cancelled)),
            answer = ask(request, place, Part { stretches, grain }) => answer,
        }
    };
    let (file, length) = blocking(move || {
        let file = root.open_file(&path).map_err(io::Error::other)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    })
    .await?;
    if !(size / 2..=size.saturating_mul(2)).contains(&length) {
        // It has not enough of it, or takes longer to read than the content to come.
        return Err(Failed::otherwise(format!("{length} bytes are not like {size}")));
    }
    let coarse = ask(vec![(0, size)], Some(Grain::Coarse)).await?.pieces;
    let (file, found) = blocking({
        let stop = stop.clone();
        move || {
            let own = cut(&file, &[(0, length)], Grain::Coarse, &stop)?;
            let found = find(&[(0, size)], &coarse, &own);
            Ok((file, found))
        }
    })
    .await?;
    let lacking = lacking(&found);
    let lacks: u64 = lacking.iter().map(|(_, size)| size).sum();
    if lacks > size / 2 || lacks > MAX_PART_BYTES || lacking.len() > MAX_PART_STRETCHES {
        return Err(Failed::otherwise(format!("{lacks} of {size} bytes are others")));
    }
    let (mut stretches, mut bytes) = (found, Vec::new());
    let mut file = file;
    if !lacking.is_empty() {
        let fine = ask(lacking.clone(), Some(Grain::Fine)).await?.pieces;
        let stop = stop.clone();
        (file, stretches) = blocking(move || {
            let unused = unused(&stretches, length);
            let mut left = MAX_PART_BYTES;
            // What is more than that is not looked at.
            let mut fits = |size: u64| {
                let fits = size <= left;
                left -= if fits { size } else { 0 };
                fits
            };
            let some: Vec<(u64, u64)> = unused.into_iter().filter(|(_, size)| fits(*size)).collect();
            let own = cut(&file, &some, Grain::Fine, &stop)?;
            let refined = find(&lacking, &fine, &own);
            Ok((file, refine(&stretches, &refined)))
        })
        .await?;
        let rest = self::lacking(&stretches);
        if rest.len() > MAX_PART_STRETCHES {
            return Err(Failed::otherwise(format!("{} stretches are others", rest.len())));
        }
        if !rest.is_empty() {
            bytes = ask(rest, None).await?.bytes;
        }
    }
    let (store, stop) = (request.store.clone(), stop.clone());
    let written = tokio::task::spawn_blocking(move || {
        let incoming = store.receive_aside(digest, size).map_err(|error| Failed::Run(RunError::State(error)))?;
        write(incoming, &file, &stretches, &bytes, &stop)
    })
    .await;
    written.map_err(|error| Failed::Run(RunError::Lost(error)))?
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> io::Result<R> + Send + 'static) -> Result<R, Failed> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Failed::Run(RunError::Lost(error)))??)
}

/// What a server answered.
#[derive(Default)]
struct Answer {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
}

/// Asks for a part of the content at a place of the catalog.
async fn ask<T: Transport>(request: &FetchRequest<'_, T>, place: u32, part: Part) -> Result<Answer, Failed> {
    let Some(packing) = &request.packing else { return Err(Failed::otherwise("no catalog is known")) };
    let (size, stretches, grain) = (part.size(), part.stretches.len() as u64, part.grain);
    let packed = PackedFetch {
        catalog_id: packing.catalog_id,
        base_catalog_id: None,
        encodings: vec![ZSTD.to_owned()],
        spans: PackedFetch::spans([(place, None)]),
        part: Some(part),
    };
    let message =
        Fetch { certname: request.certname.clone(), digests: Vec::new(), offsets: Default::default(), packed: Some(packed) };
    let mut stream = request.client.fetch(&message).await?;
    let (mut answer, mut told) = (Answer::default(), 0);
    let mut open: Option<(Pack, Vec<u8>)> = None;
    while let Some(event) = stream.next().await.map_err(CallError::from)? {
        match event {
            FetchEvent::Pack(pack) => {
                let is_asked_for = (pack.encoding == Encoding::Pieces) == grain.is_some() && pack.base.is_none();
                // Nothing else is taken in: a server that does not know of parts sends all of the content.
                if !is_asked_for || pack.at != told || pack.size == 0 || pack.size > size - told {
                    return Err(Failed::ForAll("the server does not tell how contents are cut".to_owned()));
                }
                open = Some((pack, Vec::with_capacity(usize::try_from(pack.length).map_err(io::Error::other)?)));
            }
            FetchEvent::Data(data) => {
                if let Some((_, bytes)) = &mut open {
                    bytes.extend_from_slice(&data);
                }
            }
            FetchEvent::BlobEnd => {
                let Some((pack, bytes)) = open.take() else { continue };
                told += pack.size;
                if let Some(grain) = grain {
                    let pieces = Piece::decode(&bytes, pack.size);
                    answer.pieces.extend(pieces.ok_or_else(|| Failed::otherwise("pieces are not as long as they should be"))?);
                    // Only the last of a stretch may be short: so many are held, and no more.
                    if answer.pieces.len() as u64 > told / grain.sizes().0 as u64 + stretches {
                        return Err(Failed::otherwise("pieces are shorter than they should be"));
                    }
                } else {
                    answer.bytes.extend(unpack(&pack, &bytes, &[])?);
                }
            }
            FetchEvent::Missing(_) => return Err(Failed::otherwise("the server does not have it")),
            FetchEvent::Blob { .. } => return Err(Failed::ForAll("the server sends what was not asked for".to_owned())),
            _ => {}
        }
    }
    match told {
        0 => Err(Failed::ForAll("the server does not know this catalog".to_owned())),
        _ if told == size => Ok(answer),
        _ => Err(Failed::otherwise("the server did not answer all of it")),
    }
}

/// Cuts stretches of a file; returns where each piece is. Blocking.
fn cut(file: &File, stretches: &[(u64, u64)], grain: Grain, stop: &CancellationToken) -> io::Result<HashMap<Piece, u64>> {
    let mut found = HashMap::new();
    let mut buffer = Vec::new();
    for &(begin, size) in stretches {
        let mut done = 0;
        while done < size {
            go_on(stop)?;
            let count = (size - done).min(READ_BYTES);
            buffer.resize(usize::try_from(count).map_err(io::Error::other)?, 0);
            file.read_exact_at(&mut buffer, begin + done)?;
            for piece in grain.cut(&buffer, done + count == size) {
                found.entry(piece).or_insert(begin + done);
                done += u64::from(piece.size);
            }
        }
    }
    Ok(found)
}

/// Fails when nobody wants it any more.
fn go_on(stop: &CancellationToken) -> io::Result<()> {
    if stop.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// Finds pieces, which make up stretches of the content, in what a file has; what belongs together is joined.
fn find(stretches: &[(u64, u64)], pieces: &[Piece], own: &HashMap<Piece, u64>) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    let mut pieces = pieces.iter();
    for &(begin, size) in stretches {
        let mut at = begin;
        while at < begin + size
            && let Some(piece) = pieces.next()
        {
            let next = Stretch { at, size: u64::from(piece.size), there: own.get(piece).copied() };
            at = next.end();
            join(&mut found, next);
        }
    }
    found
}

/// Adds a stretch, to the last one if it goes on there.
fn join(stretches: &mut Vec<Stretch>, next: Stretch) {
    match stretches.last_mut() {
        Some(last) if last.end() == next.at && last.there.map(|there| there + last.size) == next.there => last.size += next.size,
        _ => stretches.push(next),
    }
}

/// Returns the stretches that a file does not have.
fn lacking(stretches: &[Stretch]) -> Vec<(u64, u64)> {
    stretches.iter().filter(|stretch| stretch.there.is_none()).map(|stretch| (stretch.at, stretch.size)).collect()
}

/// Returns what of a file of `length` bytes no stretch comes from.
fn unused(stretches: &[Stretch], length: u64) -> Vec<(u64, u64)> {
    let mut used: Vec<(u64, u64)> = stretches.iter().filter_map(|stretch| Some((stretch.there?, stretch.size))).collect();
    used.sort_unstable();
    let (mut unused, mut end) = (Vec::new(), 0);
    for (at, size) in used.into_iter().chain([(length, 0)]) {
        if at > end {
            unused.push((end, at - end));
        }
        end = end.max(at + size);
    }
    unused
}

/// Puts what is known of some stretches in the place of those that a file does not have.
fn refine(stretches: &[Stretch], refined: &[Stretch]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = stretches.iter().filter(|stretch| stretch.there.is_some()).chain(refined).copied().collect();
    all.sort_unstable_by_key(|stretch| stretch.at);
    let mut joined = Vec::new();
    all.into_iter().for_each(|stretch| join(&mut joined, stretch));
    joined
}

/// Writes the content and proves it. Blocking.
fn write(
    mut incoming: Incoming,
    file: &File,
    stretches: &[Stretch],
    bytes: &[u8],
    stop: &CancellationToken,
) -> Result<(), Failed> {
    let disk = |error: FsError| Failed::Run(RunError::State(error));
    let mut rest = bytes;
    let mut buffer = Vec::new();
    for stretch in stretches {
        let Some(there) = stretch.there else {
            let size = usize::try_from(stretch.size).map_err(io::Error::other)?;
            let (now, later) = rest.split_at_checked(size).ok_or_else(|| Failed::otherwise("too few bytes came"))?;
            rest = later;
            incoming.write(now).map_err(disk)?;
            continue;
        };
        let mut done = 0;
        while done < stretch.size {
            go_on(stop)?;
            let count = (stretch.size - done).min(READ_BYTES);
            buffer.resize(usize::try_from(count).map_err(io::Error::other)?, 0);
            file.read_exact_at(&mut buffer, there + done)?;
            incoming.write(&buffer).map_err(disk)?;
            done += count;
        }
    }
    incoming.finish().map_err(|error| match error.kind {
        FsErrorKind::DigestMismatch => Failed::otherwise("what was put together is another content"),
        _ => disk(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;

    /// Bytes that look random and are the same everywhere.
    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise
    }

    fn stretch(at: u64, size: u64, there: Option<u64>) -> Stretch {
        Stretch { at, size, there }
    }

    /// What a server answers.
    fn pieces(content: &[u8], stretches: &[(u64, u64)], grain: Grain) -> Vec<Piece> {
        let bytes = |(at, size): (u64, u64)| &content[usize::try_from(at).unwrap()..usize::try_from(at + size).unwrap()];
        stretches.iter().flat_map(|stretch| grain.cut(bytes(*stretch), true)).collect()
    }

    /// Puts a content together from a file; returns how many bytes had to be asked for.
    fn through(content: &[u8], there: &[u8]) -> u64 {
        let (dir, size, length) = (tempfile::tempdir().unwrap(), content.len() as u64, there.len() as u64);
        std::fs::write(dir.path().join("file"), there).unwrap();
        let file = File::open(dir.path().join("file")).unwrap();
        let stop = CancellationToken::new();
        let own = cut(&file, &[(0, length)], Grain::Coarse, &stop).unwrap();
        let coarse = find(&[(0, size)], &pieces(content, &[(0, size)], Grain::Coarse), &own);
        let fine_of = lacking(&coarse);
        let own = cut(&file, &unused(&coarse, length), Grain::Fine, &stop).unwrap();
        let fine = find(&fine_of, &pieces(content, &fine_of, Grain::Fine), &own);
        let stretches = refine(&coarse, &fine);
        assert_eq!(stretches.iter().map(|stretch| stretch.size).sum::<u64>(), size);
        assert!(stretches.windows(2).all(|two| two[0].end() == two[1].at));
        let rest = lacking(&stretches);
        let bytes: Vec<u8> = rest
            .iter()
            .flat_map(|&(at, size)| &content[usize::try_from(at).unwrap()..usize::try_from(at + size).unwrap()])
            .copied()
            .collect();
        let (store, digest) = (Store::ensure(&dir.path().join("store")).unwrap(), Digest::of(content));
        let incoming = || store.receive_aside(digest, size).unwrap();
        // Damaged on the way, and not wanted any more: nothing of it stays.
        let mut damaged = stretches.clone();
        damaged.iter_mut().take(1).for_each(|stretch| stretch.there = Some(length));
        assert!(write(incoming(), &file, &damaged, &bytes, &stop).is_err() || size == 0);
        assert!(
            stretches.iter().all(|stretch| stretch.there.is_none()) || {
                let stopped = CancellationToken::new();
                stopped.cancel();
                write(incoming(), &file, &stretches, &bytes, &stopped).is_err()
            }
        );
        assert_eq!(std::fs::read_dir(dir.path().join("store/incoming")).unwrap().count(), 0);
        assert!(write(incoming(), &file, &stretches, &bytes, &stop).is_ok());
        assert_eq!(store.read(&digest, size).unwrap().unwrap(), content);
        rest.iter().map(|(_, size)| size).sum()
    }

    #[test]
    fn what_is_asked_for_is_what_is_around_an_edit() {
        let content = noise(1, 3 << 20);
        assert_eq!(through(&content, &content), 0);
        let mut there = content.clone();
        there.splice(1 << 20..(1 << 20) + 40, *b"another length");
        let asked = through(&content, &there);
        assert!((1..20_000).contains(&asked), "{asked}");
        assert_eq!(through(&content, b""), content.len() as u64);
    }

    #[test]
    fn stretches_are_joined_where_the_file_goes_on() {
        let mut joined = Vec::new();
        let all = [(0, 5, Some(100)), (5, 5, Some(105)), (10, 5, None), (15, 5, None), (20, 5, Some(0)), (25, 5, Some(6))];
        all.into_iter().for_each(|(at, size, there)| join(&mut joined, stretch(at, size, there)));
        let expected = [(0, 10, Some(100)), (10, 10, None), (20, 5, Some(0)), (25, 5, Some(6))];
        assert_eq!(joined, expected.map(|(at, size, there)| stretch(at, size, there)));
        assert_eq!(lacking(&joined), [(10, 10)]);
        assert_eq!(unused(&joined, 120), [(5, 1), (11, 89), (110, 10)]);
        assert_eq!(unused(&[], 0), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_was_edited_comes_out_as_it_should(
            edits in proptest::collection::vec((0..1_500_000_usize, 0..70_000_usize, 0..70_000_usize), 0..12),
            length in 0..1_500_000_usize,
        ) {
            let content = noise(2, length);
            let mut there = content.clone();
            for (number, (at, removed, added)) in (3_u8..).zip(edits) {
                let at = at.min(there.len());
                let end = (at + removed).min(there.len());
                there.splice(at..end, noise(number, added));
            }
            through(&content, &there);
        }
    }
}
