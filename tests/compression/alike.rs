//! Large files that no catalog names: what the node has of them is used all the same, and never more than their digest proves.

use direct_puppet_transport::protocol::pack::ZSTD;

use super::*;

const SIZE: usize = 16 << 20;

/// A content, and what a node has instead: some bytes more, fewer and others, at many places.
fn edited(edits: usize) -> (Vec<u8>, Vec<u8>) {
    let content = noise(1, SIZE);
    let mut there = content.clone();
    for edit in 0..edits {
        let at = edit * (SIZE / edits) + 1000 * edit;
        there.splice(at..at + 60, noise(edit as u64 + 2, 60 + (edit % 3) * 20 - 20));
    }
    (content, there)
}

/// Publishes one file; the node has another in its place, and never ran.
async fn with(link: Link, content: &[u8], there: &[u8]) -> (World, Node) {
    let world = World::new(link).await;
    fs::write(world.site.tree().join("large"), content).unwrap();
    world.publish().await;
    let node = world.node("node1");
    fs::create_dir_all(node.path("/srv/tree")).unwrap();
    fs::write(node.path("/srv/tree/large"), there).unwrap();
    (world, node)
}

fn counts(outcome: &Outcome) -> (u64, u64, u64) {
    (outcome.wire.contents_received, outcome.wire.contents_repeated, outcome.wire.contents_pieced)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_no_catalog_names_is_put_together_over_every_link() {
    let (content, there) = edited(16);
    for link in Link::all() {
        let (world, node) = with(link, &content, &there).await;
        let outcome = run(&node, node.transport(), Compression::Always).await;
        assert_eq!(counts(&outcome), (1, 0, 1));
        let wire = outcome.wire.bytes_received + outcome.wire.bytes_sent;
        assert!(wire < 120_000, "{wire} bytes for 16 small edits");
        assert_eq!(
            fetches(&node).iter().map(|fetch| fetch.packed.as_ref().unwrap().part.is_some()).collect::<Vec<_>>(),
            [true; 3]
        );
        assert_same(&world, &node);
        let again = run(&node, node.transport(), Compression::Always).await;
        assert_eq!((again.status, again.wire.contents_requested), (RunStatus::Unchanged, 0));
        // Somebody edits it: the server knows nothing of that either.
        fs::write(node.path("/srv/tree/large"), &there).unwrap();
        let healed = run(&node, node.transport(), Compression::Always).await;
        assert_eq!(counts(&healed), (1, 0, 1));
        assert_same(&world, &node);
        // What does not ask for packs gets it whole, and comes to the same.
        fs::write(node.path("/srv/tree/large"), &there).unwrap();
        let whole = run(&node, node.transport(), Compression::Never).await;
        assert_eq!(counts(&whole), (1, 0, 0));
        assert_same(&world, &node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_is_found_and_what_is_another_file_is_fetched_whole() {
    let content = noise(1, SIZE);
    let moved = [&content[SIZE / 2..], &noise(2, 12_345), &content[..SIZE / 2]].concat();
    let (short, empty, other) = (content[..SIZE * 2 / 3].to_vec(), Vec::new(), noise(3, SIZE));
    let long = [&content[..], &vec![0; SIZE + 1]].concat();
    for (there, pieced, questions) in [(moved, 1, 3), (short, 1, 3), (empty, 0, 0), (long, 0, 0), (other, 0, 1)] {
        let (world, node) = with(Link::memory(), &content, &there).await;
        let outcome = run(&node, node.transport(), Compression::Always).await;
        assert_eq!(counts(&outcome), (1, 0, pieced), "{} bytes", there.len());
        let is_part = |fetch: &Fetch| fetch.packed.as_ref().is_some_and(|packed| packed.part.is_some());
        assert_eq!(fetches(&node).iter().filter(|fetch| is_part(fetch)).count(), questions, "{} bytes", there.len());
        assert_same(&world, &node);
    }
}

/// What the catalog of before names is not there any more: the new content does not fit it, and is put together all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_edited_by_hand_gets_the_next_version_from_its_pieces() {
    let (content, there) = edited(16);
    let (world, node) = with(Link::memory(), &there, b"").await;
    run(&node, node.transport(), Compression::Always).await;
    fs::write(node.path("/srv/tree/large"), [b"by hand", &there[..]].concat()).unwrap();
    fs::write(world.site.tree().join("large"), &content).unwrap();
    world.publish().await;
    let outcome = run(&node, node.transport(), Compression::Always).await;
    assert_eq!(counts(&outcome), (1, 1, 1));
    assert!(outcome.wire.bytes_received < 200_000, "{}", outcome.wire.bytes_received);
    assert_same(&world, &node);
}

/// Of many the largest are asked about, and after a server that does not know of parts was asked once, nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_tell_how_contents_are_cut_is_asked_once() {
    let world = World::new(Link::memory()).await;
    let node = world.node("node1");
    fs::create_dir_all(node.path("/srv/tree")).unwrap();
    for number in 0..5 {
        let content = noise(number, 1 << 20);
        fs::write(world.site.tree().join(format!("large{number}")), &content).unwrap();
        fs::write(node.path(&format!("/srv/tree/large{number}")), [b"edited", &content[..]].concat()).unwrap();
    }
    world.publish().await;
    let (parts, file) = (Arc::default(), PathBuf::new());
    let old = Between { inner: node.transport(), wrong: Wrong::Old, nth: 0, parts, file };
    let outcome = run(&node, old.clone(), Compression::Always).await;
    assert_eq!((counts(&outcome), old.parts.load(Ordering::SeqCst)), ((5, 0, 0), 1));
    assert_same(&world, &node);
}

/// What is between an agent and the server, from this request for a part on.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    /// It does not know of parts.
    Old,
    /// One bit of the answer is another, at this part of it in percent.
    Flip(usize),
    /// The answer breaks off there.
    Break(usize),
    /// Somebody writes into the file before it is answered.
    Meddler,
}

#[derive(Debug, Clone)]
struct Between {
    inner: Logged,
    wrong: Wrong,
    nth: u64,
    parts: Arc<AtomicU64>,
    file: PathBuf,
}

#[async_trait]
impl Transport for Between {
    async fn call(&self, mut request: Request) -> Result<Response, TransportError> {
        let fetch = (request.operation == Operation::Fetch).then(|| codec::decode::<Fetch>(&request.body, u64::MAX).unwrap());
        let is_part = fetch.as_ref().is_some_and(|fetch| fetch.packed.as_ref().is_some_and(|packed| packed.part.is_some()));
        if !is_part || self.parts.fetch_add(1, Ordering::SeqCst) != self.nth {
            return self.inner.call(request).await;
        }
        if matches!(self.wrong, Wrong::Old) {
            let mut fetch = fetch.unwrap();
            fetch.packed.as_mut().unwrap().part = None;
            request.body = codec::encode(&fetch).unwrap().into();
        }
        if matches!(self.wrong, Wrong::Meddler) {
            let file = fs::File::options().write(true).open(&self.file).unwrap();
            file.write_all_at(b"meanwhile", SIZE as u64 / 3).unwrap();
        }
        let response = self.inner.call(request).await?;
        let (Wrong::Flip(percent) | Wrong::Break(percent)) = self.wrong else { return Ok(response) };
        let mut body = response.into_bytes(1 << 30, "").await?.to_vec();
        let at = body.len() * percent / 100;
        let chunks: Vec<Result<bytes::Bytes, TransportError>> = match self.wrong {
            Wrong::Flip(_) => {
                body[at] ^= 0x10;
                vec![Ok(body.into())]
            }
            _ => {
                body.truncate(at);
                vec![Ok(body.into()), Err(TransportError::new(TransportErrorKind::Closed, "the test"))]
            }
        };
        let body = futures::stream::iter(chunks).boxed();
        Ok(Response { status: direct_puppet_transport::Status::Accepted, retry_after: None, length: None, body })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_the_content_is_the_published_one() {
    let (content, there) = edited(16);
    let wrongs =
        [Wrong::Old, Wrong::Flip(10), Wrong::Flip(50), Wrong::Flip(99), Wrong::Break(0), Wrong::Break(60), Wrong::Meddler];
    let mut pieced = 0;
    for wrong in wrongs {
        for nth in 0..3 {
            // The first question comes after the file was looked at.
            let (world, node) = with(Link::memory(), &content, &there).await;
            let file = node.path("/srv/tree/large");
            let between = Between { inner: node.transport(), wrong, nth, parts: Arc::default(), file };
            let outcome = run(&node, between.clone(), Compression::Always).await;
            assert!(between.parts.load(Ordering::SeqCst) > nth, "{wrong:?} {nth}: it was never asked");
            assert_eq!((outcome.wire.contents_received, outcome.status), (1, RunStatus::Changed), "{wrong:?} {nth}");
            let must_fail = matches!(wrong, Wrong::Old | Wrong::Break(_)) || (matches!(wrong, Wrong::Meddler) && nth > 0);
            assert!(!must_fail || outcome.wire.contents_pieced == 0, "{wrong:?} {nth}");
            pieced += outcome.wire.contents_pieced;
            assert_same(&world, &node);
        }
    }
    // A piece that is not recognised is sent.
    assert!(pieced > 0, "one wrong bit makes everything useless");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_make_no_sense_are_refused_and_what_is_not_there_is_missing() {
    let content = noise(1, 2 << 20);
    let (_world, node) = with(Link::memory(), &content, b"").await;
    run(&node, node.transport(), Compression::Always).await;
    let asked = fetches(&node).into_iter().next().unwrap();
    let client = direct_puppet_transport::Client::new(node.transport());
    let ask = async |stretches: Vec<(u64, u64)>, grain| {
        let mut fetch = asked.clone();
        let packed = fetch.packed.as_mut().unwrap();
        assert_eq!(packed.encodings, [ZSTD]);
        packed.part = Some(direct_puppet_transport::protocol::Part { stretches, grain });
        let mut stream = client.fetch(&fetch).await.map_err(|error| error.to_string())?;
        let mut events = Vec::new();
        while let Some(event) = stream.next().await.map_err(|error| error.to_string())? {
            events.push(event);
        }
        Ok::<_, String>(events)
    };
    for wrong in [vec![], vec![(0, 0)], vec![(5, 10), (7, 10)], vec![(u64::MAX, 10)], vec![(0, 1 << 40)]] {
        let refused = ask(wrong.clone(), None).await;
        assert!(refused.as_ref().is_err_and(|reason| reason.contains("bad_request")), "{wrong:?}: {refused:?}");
    }
    let beyond = ask(vec![(0, 10), ((2 << 20) - 5, 10)], None).await.unwrap();
    assert!(format!("{beyond:?}").contains("Missing"), "{beyond:?}");
    let there = ask(vec![(0, 10), ((2 << 20) - 10, 10)], None).await.unwrap();
    let data: Vec<u8> = there
        .iter()
        .flat_map(|event| match event {
            direct_puppet_transport::protocol::frame::FetchEvent::Data(data) => data.to_vec(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(data, [&content[..10], &content[content.len() - 10..]].concat());
}
