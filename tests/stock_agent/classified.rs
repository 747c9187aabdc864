//! A node classifier that puts nodes into another environment than they ask for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use direct_puppet_server_stub::compile::{AutomaticCompiler, PuppetCompiler, PuppetOptions};

use super::world::{World, has_puppet, read};

#[tokio::test(flavor = "multi_thread")]
async fn agents_change_to_the_environment_that_a_classifier_says() {
    if !has_puppet() {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let program = tools.path().join("enc");
    fs::write(&program, "#!/bin/sh\necho 'environment: blue'\necho 'parameters: {mode: 0640}'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut world = World::with(|options| {
        let defaults = PuppetOptions::new(PuppetOptions::dir_in(&options.data_dir));
        let puppet = PuppetOptions { classifier: Some(program.clone()), ..defaults };
        options.compiler = Arc::new(AutomaticCompiler::new(PuppetCompiler::new(puppet)));
    })
    .await;
    let file = tools.path().join("managed");
    let code = |colour: &str| format!("file {{ '{}': content => \"{colour} ${{mode}}\\n\" }}\n", file.display());
    world.stage(&[("manifests/site.pp", &code("red")), ("../blue/manifests/site.pp", &code("blue"))]);
    world.publish().await;
    let agent = world.agent("n1.example.com");
    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, read(&file).as_str()), (2, "blue 416\n"), "{text}");
    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, world.compiles()), (0, 1), "{text}");
    // Another answer counts with new code.
    fs::write(&program, "#!/bin/sh\necho 'environment: production'\necho 'parameters: {mode: 0640}'\n").unwrap();
    world.stage(&[("../blue/manifests/site.pp", &code("new blue")), ("manifests/site.pp", &code("new red"))]);
    world.publish().await;
    let (status, text) = agent.run(&[]).await;
    assert_eq!((status, read(&file).as_str()), (2, "new red 416\n"), "{text}");
    world.stop().await;
}
