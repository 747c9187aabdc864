//! What a certificate says of its node, from `csr_attributes.yaml` to the code that is compiled.

use direct_puppet_tests::binaries::run;

use super::programs::{Served, told};
use super::*;

const SITE: &str = "\
node 'n1.example.com' {
  file { '/motd': content => \"${trusted['extensions']['pp_role']} of ${trusted['domain']}\\n\" }
}
node 'stock.example.com' { notify { \"role ${trusted['extensions']['pp_role']}\": } }
";

/// A server with code of Puppet's, which needs its library.
fn served() -> Option<Served> {
    let mut ruby = Command::new("ruby");
    if !ruby.args(["-e", "require 'puppet'"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: ruby has no Puppet library here (Debian package puppet-agent)");
        return None;
    }
    let served = Served::new(&["--autosign", "true"]);
    let environment = served.dir.path().join("site/environments/production");
    fs::remove_file(environment.join("site.yaml")).unwrap();
    fs::create_dir(environment.join("manifests")).unwrap();
    fs::write(environment.join("manifests/site.pp"), SITE).unwrap();
    verb(&served, &["publish"]);
    Some(served)
}

fn verb(served: &Served, arguments: &[&str]) {
    let output = served.serving.verb(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_role_that_is_asked_for_is_in_the_catalog_and_another_has_it_compiled_anew() {
    let Some(served) = served() else { return };
    let (node, attributes) = ("n1.example.com", served.file("csr_attributes.yaml"));
    let fingerprint = served.fingerprint();
    let enrol_and_run = |role: &str| {
        fs::write(&attributes, format!("extension_requests:\n  pp_role: {role}\n")).unwrap();
        let enrolment = ["--csr-attributes", &attributes, "--ca-fingerprint", &fingerprint, "--waitforcert", "0"];
        let (code, text) = served.node(node, &[&["run"][..], &enrolment].concat());
        assert!(code == Some(0) || code == Some(2), "{text}");
        fs::read_to_string(served.dir.path().join("roots/n1.example.com/motd")).unwrap()
    };
    assert_eq!(enrol_and_run("web"), "web of example.com\n");
    assert_eq!(served.ca(&["clean", "--certname", node]).0, Some(0));
    assert_eq!(served.node(node, &["ssl", "clean"]).0, Some(0));
    // Unlike a changed fact: what was compiled for the certificate before is not for this one.
    assert_eq!(enrol_and_run("db"), "db of example.com\n");
}

/// Puppet's own agent, unmodified.
#[test]
fn a_stock_agent_gets_what_its_certificate_says() {
    let Some(served) = served() else { return };
    if !Command::new("puppet").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: no puppet here (Debian package puppet-agent)");
        return;
    }
    let confdir = served.dir.path().join("stock/confdir");
    fs::create_dir_all(&confdir).unwrap();
    fs::write(confdir.join("csr_attributes.yaml"), "extension_requests:\n  pp_role: web\n").unwrap();
    let puppet = |verb: &[&str]| {
        let mut command = Command::new("puppet");
        command.args(verb).args(["--color=false", "--server=localhost", "--certname=stock.example.com", "--waitforcert=0"]);
        let port = served.serving.urls[0].rsplit_once(':').unwrap().1;
        command.arg(format!("--serverport={port}")).env("LC_ALL", "C.UTF-8").env_remove("GEM_HOME");
        for name in ["confdir", "vardir", "rundir", "logdir", "publicdir", "ssldir"] {
            command.arg(format!("--{name}")).arg(served.dir.path().join("stock").join(name));
        }
        told(&run(command))
    };
    let (code, text) = puppet(&["ssl", "bootstrap"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = puppet(&["agent", "--test"]);
    assert!(code == Some(2) && text.contains("role web"), "{text}");
}
