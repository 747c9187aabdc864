//! Who may ask for what, over real connections.

use std::process::Command;

use direct_puppet_tests::authority::VALID;

use crate::world::World;

/// Paths of every kind, with who may have them: the node `n1`, another node.
const PATHS: [(&str, &str, bool, bool); 12] = [
    ("GET", "/puppet/v3/node/n1.example.com", true, false),
    ("GET", "/puppet/v3/catalog/n1.example.com", true, false),
    ("POST", "/puppet/v3/catalog/n1.example.com", true, false),
    ("PUT", "/puppet/v3/facts/n1.example.com", true, false),
    ("PUT", "/puppet/v3/report/n1.example.com", true, false),
    ("GET", "/puppet/v3/file_metadata/modules/app/plain", true, true),
    ("GET", "/puppet/v3/file_metadatas/plugins", true, true),
    ("GET", "/puppet/v3/file_content/modules/app/plain", true, true),
    ("GET", "/puppet/v3/static_file_content/modules/app/files/plain", true, true),
    ("HEAD", "/puppet/v3/file_bucket_file/md5/d41d8cd98f00b204e9800998ecf8427e", true, true),
    ("GET", "/puppet/v3/environments", true, true),
    ("GET", "/status/v1/simple/server", true, true),
];

/// Asks with curl; returns the status, 0 where there came none.
async fn ask(world: &World, method: &str, path: &str, identity: Option<(&str, &str)>, body: Option<&str>) -> u16 {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--max-time",
        "60",
        "-H",
        "Accept: application/json",
    ]);
    match method {
        "HEAD" => command.arg("--head"),
        method => command.args(["--request", method]),
    };
    command.arg("--cacert").arg(world.authority.ssldir().join("certs/ca.pem"));
    if let Some((certificate, key)) = identity {
        command.args(["--cert", certificate, "--key", key]);
    }
    if let Some(file) = body {
        command.args(["-H", "Content-Type: application/json", "--data-binary", &format!("@{file}")]);
    }
    command.arg(format!("https://localhost:{}{path}?environment=production", world.address.port()));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("LEFT OUT: no curl here");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_times_every_identity_over_tls() {
    if !has_curl() {
        return;
    }
    let mut world = World::new().await;
    world.stage(&[
        ("site.yaml", "nodes:\n  - match: \"*\"\n    classes: []\nclasses: {}\n"),
        ("modules/app/files/plain", "plain\n"),
    ]);
    world.publish().await;
    let mut identity = |name: &str| {
        let (files, _) = world.authority.issue(name, name, VALID);
        (files.certificate.display().to_string(), files.key.display().to_string())
    };
    let (own, other) = (identity("n1.example.com"), identity("n2.example.com"));
    let mut stranger = direct_puppet_tests::authority::Authority::new();
    let (files, _) = stranger.issue("n1.example.com", "n1.example.com", VALID);
    let of_another = (files.certificate.display().to_string(), files.key.display().to_string());
    for (method, path, for_own, for_other) in PATHS {
        for (who, is_allowed) in [(&own, for_own), (&other, for_other)] {
            let status = ask(&world, method, path, Some((&who.0, &who.1)), None).await;
            assert_eq!(status != 403, is_allowed, "{method} {path}: {status}");
            assert_ne!(status, 0, "{method} {path}");
        }
        for who in [None, Some((of_another.0.as_str(), of_another.1.as_str()))] {
            // Who shows no certificate, or one of another authority, does not get as far as HTTP.
            assert_eq!(ask(&world, method, path, who, None).await, 0, "{method} {path} by {who:?}");
        }
    }
    assert_eq!(world.compiles(), 0);

    // Too long is said, with how long it may be known before a byte is kept.
    let long = world.dir.path().join("long");
    let limits = [("PUT", "/puppet/v3/facts/n1.example.com", 16 << 20), ("POST", "/puppet/v3/catalog/n1.example.com", 32 << 20)];
    for (method, path, limit) in limits {
        std::fs::write(&long, vec![b' '; limit + 1]).unwrap();
        let status = ask(&world, method, path, Some((&own.0, &own.1)), Some(&long.display().to_string())).await;
        assert_eq!(status, 413, "{method} {path}");
    }
    world.stop().await;
}
