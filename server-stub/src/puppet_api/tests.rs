//! The API without a socket: who may ask for what, what is refused, and the shapes of answers.

mod answers;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::Peer;
use futures::TryStreamExt as _;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value as Json, json};

use super::PuppetRoutes;
use crate::listen::{RouteBody, Routes as _};
use crate::publish::PublishRequest;
use crate::store::{FileStore, SharedStore};
use crate::{AdminRoutes, Server, ServerOptions, Sharing, Staging};

const SITE: &str = "\
nodes:
  - match: \"*\"
    classes: [base]
classes:
  base:
    - file: /etc/motd
      content: \"{{ node }} runs {{ facts.kernel }}\\n\"
    - file: /etc/key
      content: hush
      sensitive: [content]
    - file: /etc/app
      source: puppet:///modules/app/a b
    - file: /srv/app
      source: puppet:///modules/app/tree
      recurse: true
";

/// What agents say they take.
const ACCEPTED: &str = "application/vnd.puppet.rich+json, application/json, text/pson";

/// A server with one environment, and its API.
struct World {
    dir: tempfile::TempDir,
    server: Arc<Server>,
    routes: PuppetRoutes,
}

impl World {
    async fn new() -> Self {
        Self::new_with(|_, _| {}).await
    }

    /// A server of the staging directory in `of`, with its data below `dir`.
    fn open(of: &Path, dir: tempfile::TempDir, change: impl FnOnce(&Path, &mut ServerOptions)) -> Self {
        let mut options = ServerOptions::new(dir.path().join("data"), Staging::Environments(of.join("staging")));
        change(of, &mut options);
        let server = Server::open(options).unwrap();
        let routes = PuppetRoutes::new(Arc::clone(&server), Arc::new(AdminRoutes::new(Arc::clone(&server), Vec::new())));
        Self { dir, server, routes }
    }

    /// `change` is given the directory of this world.
    async fn new_with(change: impl FnOnce(&Path, &mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let of = dir.path().to_owned();
        let world = Self::open(&of, dir, change);
        world.stage("site.yaml", SITE);
        world.stage("modules/app/files/a b", "abc");
        world.stage("modules/app/files/tree/one", "one");
        world.stage("modules/app/files/tree/.git/x", "x");
        world.stage("modules/app/lib/facter/a.rb", "# a\n");
        world.stage("modules/lib/lib/facter/a.rb", "# another\n");
        world.stage("modules/lib/lib/facter/b.rb", "# b\n");
        world.stage("modules/app/manifests/init.pp", "secret of the code");
        std::os::unix::fs::symlink("one", world.environment().join("modules/app/files/tree/link")).unwrap();
        std::os::unix::fs::symlink("../manifests/init.pp", world.environment().join("modules/app/files/out")).unwrap();
        world.publish().await;
        world
    }

    fn environment(&self) -> PathBuf {
        self.dir.path().join("staging/environments/production")
    }

    fn stage(&self, path: &str, content: &str) {
        let path = self.environment().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn publish(&self) {
        assert_eq!(self.server.publish(PublishRequest::default()).await.unwrap()[0].error, None);
    }

    async fn send(&self, peer: &Peer, request: Request<Bytes>) -> (StatusCode, Bytes) {
        let response = self.routes.route(peer, request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = match body {
            RouteBody::Whole(bytes) => bytes,
            RouteBody::Stream { length, body } => {
                let bytes = body.try_collect::<Vec<Bytes>>().await.unwrap().concat();
                assert_eq!(bytes.len() as u64, length);
                bytes.into()
            }
        };
        (parts.status, body)
    }

    async fn get(&self, name: &str, path: &str) -> (StatusCode, Bytes) {
        self.send(&node(name), request(Method::GET, path).body(Bytes::new()).unwrap()).await
    }

    /// Returns JSON that must come.
    async fn json(&self, name: &str, path: &str) -> Json {
        let (status, body) = self.get(name, path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    async fn catalog(&self, name: &str, form: String) -> (StatusCode, Bytes) {
        let request = request(Method::POST, &format!("/puppet/v3/catalog/{name}?environment=production"));
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(&node(name), request.body(form.into()).unwrap()).await
    }

    fn compiles(&self) -> u64 {
        self.server.nodes().unwrap().iter().map(|node| node.compiles).sum()
    }
}

/// Has a server share the store in a directory.
fn share(name: &str) -> impl FnOnce(&Path, &mut ServerOptions) {
    let name = name.parse().unwrap();
    move |dir, options| {
        let files = FileStore::open(&dir.join("shared")).unwrap();
        let store = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::new(files) };
        options.sharing = Some(Sharing { store, name });
    }
}

async fn set_rollout(world: &World, pause: Option<&str>) {
    let rollout = crate::rollout::RolloutRequest {
        pause: pause.map(str::to_owned),
        resume: pause.is_none(),
        ..crate::rollout::RolloutRequest::default()
    };
    let server = Arc::clone(&world.server);
    tokio::task::spawn_blocking(move || server.set_rollout(&rollout, "test").unwrap()).await.unwrap();
}

fn node(name: &str) -> Peer {
    Peer::certificate(name.parse().unwrap())
}

fn request(method: Method, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path).header(ACCEPT, ACCEPTED)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The form of a node with these facts.
fn form_with(facts: &Json) -> String {
    let facts = encoded(&encoded(&facts.to_string()));
    format!(
        "environment=production&facts_format=application%2Fjson&facts={facts}&static_catalog=true&checksum_type=sha256.sha384.md5&\
         transaction_uuid=44cad4be-a049-4feb-9a03-87cd5f8d8884"
    )
}

fn form(name: &str) -> String {
    form_with(&json!({ "name": name, "values": { "kernel": "Linux" }, "timestamp": "now", "expiration": "later" }))
}
