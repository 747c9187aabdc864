//! Runs of the real agent.

use std::fs;
use std::path::Path;

use crate::world::{World, has_puppet, read};

/// The environment: what the agent manages lies below `root`.
fn site(root: &Path) -> Vec<(&'static str, String)> {
    let root = root.display();
    let manifest = format!(
        "node 'n1.example.com' {{ include app }}\nnode default {{ include missing }}\nclass app {{
  file {{ '{root}': ensure => directory }}
  file {{ '{root}/plain': source => 'puppet:///modules/app/plain', mode => '0640' }}
  file {{ '{root}/tree': ensure => directory, recurse => true, source => 'puppet:///modules/app/tree' }}
  file {{ '{root}/both': ensure => directory, recurse => true, sourceselect => all,
    source => ['puppet:///modules/app/more', 'puppet:///modules/app/tree'] }}
  file {{ '{root}/first': source => ['puppet:///modules/app/nowhere', 'puppet:///modules/app/name with space & %23'] }}
  file {{ '{root}/md5': source => 'puppet:///modules/app/plain', checksum => md5 }}
  file {{ '{root}/text': content => epp('app/text.epp') }}
  file {{ '{root}/secret': content => Sensitive(\"hush\\n\"), mode => '0600' }}
  file {{ '{root}/bytes': content => Binary('/wA=') }}
  file {{ '{root}/later': content => Deferred('upcase', ['later']) }}
  exec {{ '/usr/bin/touch {root}/refreshed': refreshonly => true, subscribe => File['{root}/plain'] }}
}}
"
    );
    vec![
        ("manifests/site.pp", manifest),
        (
            "modules/app/templates/text.epp",
            "<%= $facts['kernel'] %> <%= $facts['app_shape'] %> <%= $facts['app_static'] %>\n".to_owned(),
        ),
        ("modules/app/files/plain", "plain\n".to_owned()),
        ("modules/app/files/name with space & %23", "odd name\n".to_owned()),
        ("modules/app/files/tree/a", "tree a\n".to_owned()),
        ("modules/app/files/tree/b/ä", "tree b\n".to_owned()),
        ("modules/app/files/more/a", "more a\n".to_owned()),
        ("modules/app/lib/facter/app_shape.rb", "Facter.add(:app_shape) { setcode { 'round' } }\n".to_owned()),
        ("modules/app/facts.d/app.txt", "app_static=yes\n".to_owned()),
    ]
}

async fn staged(root: &Path, world: &World) {
    let files = site(root);
    world.stage(&files.iter().map(|(path, content)| (*path, content.as_str())).collect::<Vec<_>>());
    std::os::unix::fs::symlink("b/ä", world.environment().join("modules/app/files/tree/link")).unwrap();
    world.publish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_run_no_change_drift_noop_cached_and_new_code() {
    if !has_puppet() {
        return;
    }
    let mut world = World::new().await;
    let agent = world.agent("n1.example.com");
    let root = world.dir.path().join("root");
    staged(&root, &world).await;

    let (status, text) = agent.run(&[]).await;
    assert_eq!(status, 2, "{text}");
    assert_eq!(
        (read(&root.join("plain")), read(&root.join("tree/a")), read(&root.join("tree/b/ä"))),
        ("plain\n".to_owned(), "tree a\n".to_owned(), "tree b\n".to_owned())
    );
    assert_eq!(fs::read_link(root.join("tree/link")).unwrap(), Path::new("b/ä"));
    assert_eq!((read(&root.join("both/a")), read(&root.join("both/b/ä"))), ("more a\n".to_owned(), "tree b\n".to_owned()));
    assert_eq!((read(&root.join("first")), read(&root.join("md5"))), ("odd name\n".to_owned(), "plain\n".to_owned()));
    assert_eq!((read(&root.join("text")), read(&root.join("later"))), ("Linux round yes\n".to_owned(), "LATER".to_owned()));
    assert_eq!((read(&root.join("secret")), fs::read(root.join("bytes")).unwrap()), ("hush\n".to_owned(), vec![0xff, 0]));
    assert!(root.join("refreshed").exists() && !text.contains("hush"), "{text}");
    assert_eq!(world.compiles(), 1);

    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, text.contains("changed")), (0, false), "{text}");

    fs::write(root.join("plain"), "drift\n").unwrap();
    fs::remove_file(root.join("tree/b/ä")).unwrap();
    let (status, text) = agent.run(&["--noop"]).await;
    assert_eq!((status, read(&root.join("plain")).as_str()), (0, "drift\n"), "{text}");
    assert!(text.contains("noop"), "{text}");
    let (status, text) = agent.run(&[]).await;
    assert_eq!(
        (status, read(&root.join("plain")).as_str(), read(&root.join("tree/b/ä")).as_str()),
        (2, "plain\n", "tree b\n"),
        "{text}"
    );
    assert!(text.contains("(corrective)"), "{text}");

    // New code reaches a cached catalog no sooner than asked for, and the old contents are still there.
    world.stage(&[("modules/app/files/plain", "new\n")]);
    world.publish().await;
    fs::write(root.join("plain"), "drift\n").unwrap();
    let (status, text) = agent.run(&["--use_cached_catalog"]).await;
    assert_eq!((status, read(&root.join("plain")).as_str()), (2, "plain\n"), "{text}");
    assert_eq!(world.compiles(), 1, "nothing but new code that is asked for compiles");
    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, read(&root.join("plain")).as_str(), world.compiles()), (2, "new\n", 2), "{text}");

    // Changed facts alone compile nothing.
    let (status, text) = agent.run(&["--noop"]).await;
    assert_eq!((status, world.compiles()), (0, 2), "{text}");

    let reports = world.reports();
    let statuses: Vec<&str> = reports.iter().map(|report| report["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["changed", "unchanged", "unchanged", "changed", "changed", "changed", "unchanged"]);
    let drift = &reports[3];
    assert_eq!(
        (&drift["corrective_change"], &drift["host"], &reports[2]["noop"]),
        (&true.into(), &"n1.example.com".into(), &true.into())
    );
    assert_eq!(reports[4]["cached_catalog_status"], "explicitly_requested");
    assert_eq!(reports[4]["code_id"], reports[0]["code_id"]);
    let node = world.server.nodes().unwrap().remove(0);
    assert_eq!((node.code_id.unwrap().to_string(), node.compiles), (reports[6]["code_id"].as_str().unwrap().to_owned(), 2));
    assert!(reports.iter().all(|report| report["catalog_id"].is_string()), "{reports:#?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_and_code_that_does_not_compile() {
    if !has_puppet() {
        return;
    }
    let mut world = World::new().await;
    let (agent, other) = (world.agent("n1.example.com"), world.agent("n2.example.com"));
    let root = world.dir.path().join("root");
    staged(&root, &world).await;
    assert_eq!(agent.run(&[]).await.0, 2);
    world.stop().await;
    fs::write(root.join("text"), "drift\n").unwrap();
    let (status, text) = agent.run_once(&["--usecacheonfailure"]).await;
    // The catalog is there, and the report cannot be sent.
    assert!(text.contains("Using cached catalog") && read(&root.join("text")).starts_with("Linux"), "{status} {text}");
    world.start().await;

    let (status, text) = other.run(&[]).await;
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("Could not find class ::missing") && text.contains("manifests/site.pp:2:"), "{text}");
    let (status, text) = other.run(&["--environment", "nowhere"]).await;
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("nowhere"), "{text}");
    world.stop().await;
}

/// A type that exists only in Ruby: it keeps a file with a word in it.
const WORD: &str = "Puppet::Type.newtype(:app_word) do
  newparam(:path, namevar: true)
  newproperty(:word) do
    def retrieve
      File.exist?(resource[:path]) ? File.read(resource[:path]) : :absent
    end

    def set(value)
      File.write(resource[:path], value)
    end
  end
end
";

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_at_the_server_and_a_type_that_comes_with_its_module() {
    if !has_puppet() {
        return;
    }
    let mut world = World::new().await;
    let agent = world.agent("n1.example.com");
    let root = world.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("kept"), "before\n").unwrap();
    let manifest = format!(
        "filebucket {{ 'main': path => false, server => 'localhost', port => {} }}
file {{ '{root}/kept': content => \"after\\n\", backup => 'main' }}
app_word {{ '{root}/word': word => 'hello' }}
",
        world.address.port(),
        root = root.display()
    );
    world.stage(&[("manifests/site.pp", manifest.as_str()), ("modules/app/lib/puppet/type/app_word.rb", WORD)]);
    world.publish().await;
    let (status, text) = agent.run(&[]).await;
    assert_eq!(
        (status, read(&root.join("kept")), read(&root.join("word"))),
        (2, "after\n".to_owned(), "hello".to_owned()),
        "{text}"
    );
    let mut held = Vec::new();
    for node in fs::read_dir(world.dir.path().join("data/nodes")).unwrap() {
        for entry in fs::read_dir(node.unwrap().path().join("bucket")).into_iter().flatten() {
            held.push(read(&entry.unwrap().path()));
        }
    }
    assert_eq!(held, ["before\n"], "{text}");
    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, world.compiles()), (0, 1), "{text}");
    world.stop().await;
}
