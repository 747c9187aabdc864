//! At our own server, by nothing but Puppet's API.

use super::world::World;
use super::{Node, away, five_runs};

const SITE: &str = "nodes:
  - match: \"*\"
    classes: [app]
classes:
  app:
    - file: /motd
      source: puppet:///modules/app/motd
    - file: /copy
      source: puppet:///modules/app/motd
    - file: /tree
      ensure: directory
      recurse: true
      source: puppet:///modules/app/tree
";

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_by_the_api_of_puppet() {
    let mut world = World::new().await;
    world.stage(&[("site.yaml", SITE), ("modules/app/files/motd", "hello\n"), ("modules/app/files/tree/a", "a\n")]);
    world.publish().await;
    world.authority.install("n1.example.com", "n1.example.com");
    let node = Node {
        server: format!("puppet://localhost:{}", world.address.port()),
        certname: "n1.example.com".to_owned(),
        environment: "production".to_owned(),
        ssldir: world.authority.ssldir().to_owned(),
        dir: world.dir.path().join("node"),
    };
    five_runs(&node).await;
    let reports = world.reports();
    let statuses: Vec<&str> = reports.iter().map(|report| report["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["changed", "unchanged", "unchanged", "changed", "changed"]);
    assert!(reports.iter().all(|report| report["code_id"] == reports[0]["code_id"] && report["host"] == "n1.example.com"));
    let live = world.server.nodes().unwrap().remove(0).code_id.unwrap().to_string();
    assert_eq!(reports[4]["code_id"], live.as_str(), "a run with the cached catalog knows what the server called the code");
    assert_eq!(world.compiles(), 1);

    // A name that is not the certificate's is refused, and the error says what to do.
    let other = Node { certname: "n2.example.com".to_owned(), dir: world.dir.path().join("other"), ..copy(&node) };
    std::fs::create_dir_all(other.dir.join("root")).unwrap();
    let refused = other.run(&[]).await;
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("n2.example.com") && refused.text.contains("ssl bootstrap"), "{}", refused.text);

    world.stop().await;
    away(&node).await;
}

fn copy(node: &Node) -> Node {
    Node {
        server: node.server.clone(),
        certname: node.certname.clone(),
        environment: node.environment.clone(),
        ssldir: node.ssldir.clone(),
        dir: node.dir.clone(),
    }
}
