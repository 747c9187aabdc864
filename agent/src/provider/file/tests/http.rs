//! Files whose source is at a web server.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Value;
use direct_puppet_transport::{BodyStream, HttpAnswer, HttpMetadata, HttpSource, TransportError, TransportErrorKind};
use futures::StreamExt as _;

use super::*;

const MD5_OF_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";

/// What one URL answers.
#[derive(Debug, Clone, Default)]
struct Page {
    metadata: HttpMetadata,
    content: &'static str,
    breaks_off: bool,
}

/// A web of pages; what was asked of it is kept.
#[derive(Debug, Clone, Default)]
struct Web {
    pages: Arc<Mutex<BTreeMap<&'static str, Page>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn with(self, url: &'static str, metadata: HttpMetadata, content: &'static str) -> Self {
        self.pages.lock().unwrap().insert(url, Page { metadata, content, breaks_off: false });
        self
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn provider(&self) -> FileProvider {
        FileProvider::new().with_http(self.clone())
    }

    fn page(&self, method: &str, url: &str) -> Result<Option<Page>, TransportError> {
        self.asked.lock().unwrap().push(format!("{method} {url}"));
        if url.contains("//down/") {
            return Err(TransportError::new(TransportErrorKind::Connect, url));
        }
        Ok(self.pages.lock().unwrap().get(url).cloned())
    }
}

#[async_trait]
impl HttpSource for Web {
    async fn metadata(&self, url: &str) -> Result<HttpAnswer<HttpMetadata>, TransportError> {
        Ok(self.page("HEAD", url)?.map_or(HttpAnswer::Refused(404), |page| HttpAnswer::Found(page.metadata)))
    }

    async fn content(&self, url: &str) -> Result<HttpAnswer<(HttpMetadata, BodyStream)>, TransportError> {
        let Some(page) = self.page("GET", url)? else { return Ok(HttpAnswer::Refused(404)) };
        let mut pieces: Vec<Result<Bytes, TransportError>> =
            page.content.as_bytes().chunks(2).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        if page.breaks_off {
            pieces.push(Err(TransportError::new(TransportErrorKind::Closed, url)));
        }
        Ok(HttpAnswer::Found((page.metadata, futures::stream::iter(pieces).boxed())))
    }
}

fn md5(hex: &str) -> HttpMetadata {
    HttpMetadata { md5: Some(hex.to_owned()), ..HttpMetadata::default() }
}

fn modified(seconds: u64) -> HttpMetadata {
    HttpMetadata { last_modified: Some(UNIX_EPOCH + Duration::from_secs(seconds)), ..HttpMetadata::default() }
}

#[tokio::test]
async fn a_file_is_compared_by_the_checksum_that_the_server_tells() {
    let world = World::new();
    let web = Web::default().with("http://x/a", md5(MD5_OF_ABC), "abc");
    let resource = file("/a").with("source", "http://x/a").with("mode", "0640");
    let done = world.converge_by(&web.provider(), &resource).await.unwrap();
    assert_eq!(done, [format!("defined content as '{{md5}}{MD5_OF_ABC}'")]);
    assert_eq!((world.read("/a").as_str(), world.mode("/a")), ("abc", 0o640));
    // The second check asks no more than what is there.
    assert_eq!(web.asked(), ["HEAD http://x/a", "GET http://x/a", "HEAD http://x/a"]);
    assert!(world.store().digests().unwrap().is_empty(), "what was fetched was moved");

    world.write("/a", "other");
    let context = world.context();
    let shared = Arc::new(resource.clone());
    let found = web.provider().check(&context, &shared).await.unwrap().changes;
    let expected = ("content", "{md5}795f3202b17cb6bc3d4b771d8c6c9eaf", format!("{{md5}}{MD5_OF_ABC}"));
    assert_eq!((&*found[0].property, &*found[0].previous, found[0].desired.to_string()), expected);
    world.converge_by(&web.provider(), &resource).await.unwrap();
    assert_eq!(world.read("/a"), "abc");
    // Only attributes: the content is not asked for.
    web.asked();
    world.chmod("/a", 0o600);
    world.converge_by(&web.provider(), &resource).await.unwrap();
    assert_eq!(web.asked(), ["HEAD http://x/a", "HEAD http://x/a"]);
}

#[tokio::test]
async fn without_a_checksum_the_time_counts_and_without_that_the_content() {
    let world = World::new();
    let web = Web::default().with("http://x/a", modified(784_111_777), "old").with("http://x/b", HttpMetadata::default(), "bee");
    let (timed, untold) = (file("/a").with("source", "http://x/a"), file("/b").with("source", "http://x/b"));
    world.write("/a", "newer than its source");
    assert_eq!(world.converge_by(&web.provider(), &timed).await.unwrap(), [""; 0]);
    let web = web.with("http://x/a", modified(4_102_444_800), "newest");
    let (context, shared) = (world.context(), Arc::new(timed));
    let change = web.provider().check(&context, &shared).await.unwrap().changes.remove(0);
    assert_eq!(&*change.desired, "{mtime}2100-01-01 00:00:00 UTC");
    assert!(change.previous.starts_with("{mtime}20"), "{}", change.previous);
    web.provider().apply(&context, &shared, &[change]).await.unwrap();
    assert_eq!(world.read("/a"), "newest");

    web.asked();
    world.converge_by(&web.provider(), &untold).await.unwrap();
    assert_eq!(world.read("/b"), "bee");
    assert_eq!(world.converge_by(&web.provider(), &untold).await.unwrap(), [""; 0]);
    // A server that gives time and checksum is asked for the time where that is wanted.
    let both = HttpMetadata { last_modified: modified(784_111_777).last_modified, ..md5(MD5_OF_ABC) };
    let web = web.with("http://x/c", both, "abc");
    world.write("/c", "newer");
    let by_time = file("/c").with("source", "http://x/c").with("checksum", "mtime");
    assert_eq!(world.converge_by(&web.provider(), &by_time).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn who_has_the_checksum_value_asks_nobody() {
    let world = World::new();
    let web = Web::default().with("https://x/a", HttpMetadata::default(), "abc");
    let resource = file("/a").with("source", "https://x/a").with("checksum", "md5").with("checksum_value", MD5_OF_ABC);
    world.converge_by(&web.provider(), &resource).await.unwrap();
    assert_eq!((world.read("/a").as_str(), web.asked()), ("abc", vec!["GET https://x/a".to_owned()]));
    let web = web.with("https://x/a", HttpMetadata::default(), "forged");
    world.write("/a", "drift");
    let error = world.converge_by(&web.provider(), &resource).await.unwrap_err();
    assert!(error.contains("does not have its checksum_value"), "{error}");
    assert_eq!(world.read("/a"), "drift");
}

#[tokio::test]
async fn the_first_source_that_is_there_counts() {
    let world = World::new();
    let web = Web::default().with("http://x/b", md5(MD5_OF_ABC), "abc");
    let sources = |all: &[&str]| file("/a").with("source", all.iter().map(|&text| Value::from(text)).collect::<Vec<_>>());
    world.converge_by(&web.provider(), &sources(&["http://x/none", "http://x/b"])).await.unwrap();
    assert_eq!(world.read("/a"), "abc");
    world.write("/local", "here");
    world.converge_by(&web.provider(), &sources(&["/local", "http://x/b"])).await.unwrap();
    assert_eq!(world.read("/a"), "here");
    let error = world.converge_by(&web.provider(), &sources(&["http://x/1?key=secret", "http://x/2"])).await.unwrap_err();
    assert!(error.ends_with("none of its sources exists: http://x/1 answered 404, http://x/2 answered 404"), "{error}");
    let error = world.converge_by(&web.provider(), &sources(&["http://down/1", "http://x/b"])).await.unwrap_err();
    assert!(error.contains("could not get http://down/1: call to http://down/1 could not connect"), "{error}");
    let error = world.converge_by(&FileProvider::new(), &sources(&["http://x/b"])).await.unwrap_err();
    assert!(error.contains("AgentBuilder::http_source"), "{error}");
    assert_eq!(world.read("/a"), "here");
}

#[tokio::test]
async fn what_is_not_what_was_told_is_not_used() {
    let world = World::new();
    world.write("/a", "kept");
    let web = Web::default().with("http://x/a", md5(MD5_OF_ABC), "forged");
    let resource = file("/a").with("source", "http://x/a");
    let error = world.converge_by(&web.provider(), &resource).await.unwrap_err();
    assert!(error.contains("and is to have {md5}900150983cd24fb0d6963f7d28e17f72: it is not used"), "{error}");
    let page = Page { metadata: md5(MD5_OF_ABC), content: "ab", breaks_off: true };
    web.pages.lock().unwrap().insert("http://x/a", page);
    let error = world.converge_by(&web.provider(), &resource).await.unwrap_err();
    assert!(error.contains("was cut off"), "{error}");
    assert_eq!((world.read("/a").as_str(), world.store().digests().unwrap().len()), ("kept", 0));
    // A secret source is not told.
    for (source, said) in [("http://down/hunter2", "could not get its source"), ("http://x/hunter2", "which are secret")] {
        let secret = file("/a").with("source", Value::Sensitive(Box::new(source.into())));
        let error = world.converge_by(&web.provider(), &secret).await.unwrap_err();
        assert!(!error.contains("hunter2") && error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_content_that_was_only_compared_does_not_stay_in_the_store() {
    let mut world = World::new();
    let web = Web::default().with("http://x/a", HttpMetadata::default(), "abc");
    let shared = Arc::new(file("/a").with("source", "http://x/a"));
    let asked = ["HEAD http://x/a", "GET http://x/a"];
    // It is the same.
    world.write("/a", "abc");
    assert_eq!(world.converge_by(&web.provider(), &shared).await.unwrap(), [""; 0]);
    assert_eq!((web.asked(), world.store().digests().unwrap().len()), (asked.map(str::to_owned).to_vec(), 0));
    // It is another one, and nothing is to be done.
    world.write("/a", "drift");
    world.set_noop();
    let found = web.provider().check(&world.context(), &shared).await.unwrap().changes;
    assert_eq!(found.len(), 1);
    assert_eq!((web.asked(), world.store().digests().unwrap().len()), (asked.map(str::to_owned).to_vec(), 0));
    // What was there before, for somebody else, stays.
    world.store().put_bytes(b"abc").unwrap();
    web.provider().check(&world.context(), &shared).await.unwrap();
    assert_eq!((web.asked(), world.store().digests().unwrap().len()), (asked.map(str::to_owned).to_vec(), 1));
    // A file that is not to be replaced is not even asked for.
    let left = Arc::new(file("/a").with("source", "http://x/a").with("replace", false));
    assert_eq!(web.provider().check(&world.context(), &left).await.unwrap().changes.len(), 0);
    assert_eq!((web.asked(), world.read("/a").as_str()), (vec![], "drift"));
}

#[tokio::test]
async fn what_is_to_go_needs_no_server() {
    let world = World::new();
    world.write("/a", "x");
    let resource = file("/a").with("source", "http://down/a").with("ensure", "absent");
    world.converge_by(&Web::default().provider(), &resource).await.unwrap();
    assert!(!world.exists("/a"));
    let ahead = Web::default().provider().check_files(&world.context(), &Arc::new(file("/a").with("source", "http://x/a")));
    assert!(ahead.is_none(), "a server is asked in the resource's turn");
}
