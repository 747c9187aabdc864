//! The real programs: an authority that is made, served and worked on by hand, and nodes that enrol at it.

use std::ffi::OsString;
use std::process::{Output, Stdio};

use direct_puppet_tests::binaries::{binaries, run};
use direct_puppet_tests::serving::Serving;
use direct_puppet_tests::site::Site;

use super::*;

/// A server that is the authority of its site.
pub(super) struct Served {
    pub(super) serving: Serving,
    pub(super) dir: TempDir,
}

impl Served {
    pub(super) fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let site = Site::new(&dir.path().join("site"));
        site.manifest(
            "nodes:\n  - match: \"*\"\n    classes: [base]\nclasses:\n  base:\n    - file: /motd\n      content: \"hello\\n\"\n",
        );
        let (cadir, ssldir) = (path("ca"), path("ssl"));
        let own = ["--certname", "localhost", "--subject-alt-names", "localhost,IP:127.0.0.1", "--ssldir", &ssldir];
        let mut setup = Command::new(&binaries().server);
        setup.args(["ca", "setup", "--cadir", &cadir]).args(own);
        assert!(run(setup).status.success());
        let mut all = vec!["--ssldir", &ssldir, "--certname", "localhost", "--cadir", &cadir];
        all.extend(options);
        let all: Vec<OsString> = all.into_iter().map(Into::into).collect();
        let serving = Serving::listening(dir.path(), &site, &["https://127.0.0.1:0"], &all);
        let published = serving.verb(&["publish"]);
        assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
        Self { serving, dir }
    }

    pub(super) fn ca(&self, verb: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(&binaries().server);
        command.arg("ca").args(verb).arg("--cadir").arg(self.dir.path().join("ca"));
        told(&run(command))
    }

    pub(super) fn node(&self, node: &str, arguments: &[&str]) -> (Option<i32>, String) {
        told(&run(self.node_command(node, arguments)))
    }

    fn node_command(&self, node: &str, arguments: &[&str]) -> Command {
        let root = self.dir.path().join("roots").join(node);
        fs::create_dir_all(&root).unwrap();
        let mut command = Command::new(&binaries().agent);
        command.args(arguments).args(["--server", &self.serving.urls[0], "--node", node, "--root"]).arg(root);
        command.arg("--ssldir").arg(self.ssldir(node)).stdin(Stdio::null());
        command
    }

    fn ssldir(&self, node: &str) -> PathBuf {
        self.dir.path().join("nodes").join(node)
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn count(&self, below: &str) -> usize {
        fs::read_dir(self.dir.path().join("ca").join(below)).unwrap().count()
    }

    pub(super) fn fingerprint(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("ca/ca_crt.pem")).unwrap();
        direct_puppet_transport::enrol::fingerprint(&text).unwrap()
    }
}

pub(super) fn told(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[test]
fn a_node_enrols_runs_and_is_refused_within_a_second_of_its_revocation() {
    let served = Served::new(&[]);
    let node = "n1.example.com";
    let (code, text) = served.node(node, &["run"]);
    assert!(code == Some(1) && text.contains("n1.example.com has no certificate") && text.contains("ssl bootstrap"), "{text}");
    let (code, text) = served.node(node, &["ssl", "bootstrap", "--ca-fingerprint", &served.fingerprint(), "--waitforcert", "0"]);
    assert!(code == Some(1) && text.contains("ca sign --certname n1.example.com"), "{text}");
    // Both sides show the same fingerprint of the request.
    let (_, shown) = served.node(node, &["ssl", "show"]);
    assert!(shown.contains("requested (SHA256)"), "{shown}");
    assert!(served.ca(&["list"]).1.contains(shown.trim()));
    // It waits for its signature, and runs with it.
    let mut waiting =
        served.node_command(node, &["run", "--waitforcert", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(waiting.try_wait().unwrap(), None);
    assert_eq!(served.ca(&["sign", "--certname", node]), (Some(0), "n1.example.com signed\n".to_owned()));
    let status = waiting.wait().unwrap();
    assert!([0, 2].contains(&status.code().unwrap()), "{status}");
    assert_eq!(fs::read_to_string(served.dir.path().join("roots/n1.example.com/motd")).unwrap(), "hello\n");
    assert_eq!(served.node(node, &["ssl", "verify"]).0, Some(0));
    assert_eq!(served.ca(&["revoke", "--certname", node]).0, Some(0));
    std::thread::sleep(Duration::from_secs(1));
    let revoked = "this node's certificate has been revoked";
    // As when the server is away, what the node has is applied.
    let (_, text) = served.node(node, &["run"]);
    assert!(text.contains(revoked) && text.contains("using the cached catalog"), "{text}");
    let (code, text) = served.node(node, &["ssl", "renew"]);
    assert!(code == Some(1) && text.contains(revoked), "{text}");
    // With a new key it is let in again, once the name is free.
    assert_eq!(served.node(node, &["ssl", "clean"]).0, Some(0));
    let (code, text) = served.node(node, &["ssl", "bootstrap", "--waitforcert", "0"]);
    assert!(code == Some(1) && text.contains("another key") && text.contains("ca clean --certname n1.example.com"), "{text}");
    assert_eq!(served.ca(&["clean", "--certname", node]).0, Some(0));
    assert_eq!(served.node(node, &["ssl", "bootstrap", "--waitforcert", "0"]).0, Some(1));
    assert_eq!(served.ca(&["sign", "--all"]).0, Some(0));
    let (code, text) = served.node(node, &["run", "--waitforcert", "0"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_request_that_the_authority_lost_is_handed_in_again() {
    let served = Served::new(&[]);
    let node = "n1.example.com";
    let arguments = ["run", "--ca-fingerprint", &served.fingerprint(), "--waitforcert", "1"];
    let mut waiting = served.node_command(node, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let request = served.dir.path().join("ca/requests/n1.example.com.pem");
    let is_there = |process: &mut std::process::Child| {
        for _ in 0..300 {
            assert_eq!(process.try_wait().unwrap(), None, "it waits");
            if request.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{} did not come", request.display());
    };
    is_there(&mut waiting);
    let first = fs::read(&request).unwrap();
    fs::remove_file(&request).unwrap();
    is_there(&mut waiting);
    assert_eq!(fs::read(&request).unwrap(), first, "it is the same request");
    assert_eq!(served.ca(&["sign", "--certname", node]).0, Some(0));
    let status = waiting.wait().unwrap();
    assert!([0, 2].contains(&status.code().unwrap()), "{status}");
}

#[test]
fn nothing_is_trusted_or_sent_unless_the_authority_is_the_one_that_was_named() {
    let served = Served::new(&["--autosign", "true"]);
    let other = Served::new(&[]);
    let (wrong, own) = (other.fingerprint(), served.fingerprint());
    let authority = other.file("ca/ca_crt.pem");
    let absent = served.file("absent.pem");
    for (trust, expected) in [
        (&[][..], "--trust-on-first-use"),
        (&["--ca-fingerprint", &wrong], "not the one that was given"),
        (&["--ca-fingerprint", ""], "not the one that was given"),
        (&["--ca-file", &absent], "absent.pem is not there"),
        (&["--ca-file", &authority], "could not prove identity"),
    ] {
        for verb in [&["ssl", "bootstrap"][..], &["run"]] {
            let node = "n1.example.com";
            let all: Vec<&str> = verb.iter().chain(trust).chain(&["--waitforcert", "0"]).copied().collect();
            let (code, text) = served.node(node, &all);
            assert!(code == Some(1) && text.contains(expected), "{all:?}: {text}");
            assert_eq!((served.count("requests"), served.count("signed")), (0, 1), "{all:?}: something was asked for");
            for kind in ["private_keys", "certificate_requests"] {
                let file = served.ssldir(node).join(kind).join("n1.example.com.pem");
                assert!(!file.exists(), "{all:?}: {} is there", file.display());
            }
            // An authority that was given is kept; the others are not.
            assert_eq!(served.ssldir(node).join("certs/ca.pem").exists(), trust.contains(&authority.as_str()), "{all:?}");
        }
    }
    assert_eq!(served.node("n1.example.com", &["ssl", "clean", "--localca"]).0, Some(0));
    let (code, text) = served.node("n1.example.com", &["run", "--trust-on-first-use"]);
    assert!(code.is_some_and(|code| [0, 2].contains(&code)) && text.contains(&own), "{code:?}: {text}");
    // Also with a certificate, another authority than the one that is named is none to talk to.
    let (code, text) = served.node("n1.example.com", &["run", "--ca-fingerprint", &wrong]);
    assert!(code == Some(1) && text.contains("ssl clean --localca"), "{text}");
}

#[test]
fn a_run_renews_a_certificate_that_ends_soon() {
    // One that is valid for half a minute is always in its last third, for it reaches a day back; it counts as new for three seconds.
    let served = Served::new(&["--autosign", "true", "--ca-ttl", "30"]);
    let node = "n1.example.com";
    let certificate = served.ssldir(node).join("certs/n1.example.com.pem");
    let (code, text) = served.node(node, &["ssl", "bootstrap", "--trust-on-first-use"]);
    assert_eq!(code, Some(0), "{text}");
    let first = fs::read(&certificate).unwrap();
    std::thread::sleep(Duration::from_millis(4500));
    let (code, text) = served.node(node, &["run"]);
    assert!([Some(0), Some(2)].contains(&code), "{text}");
    assert_ne!(fs::read(&certificate).unwrap(), first);
    assert_eq!(served.node(node, &["ssl", "verify"]).0, Some(0));
}

#[test]
fn what_is_refused_or_wrong_is_told_with_what_to_do() {
    let served = Served::new(&[]);
    let authority = served.file("ca/ca_crt.pem");
    let trust = ["--ca-file", authority.as_str(), "--waitforcert", "0"];
    let bootstrap = |node: &str, more: &[&str]| served.node(node, &[&["ssl", "bootstrap"][..], &trust, more].concat());
    let (code, text) = bootstrap("n1.example.com", &["--dns-alt-names", "puppet"]);
    assert!(code == Some(1) && text.contains("--allow-subject-alt-names"), "{text}");
    assert!(served.node("n1.example.com", &["ssl", "show"]).1.contains("no certificate and no request"));
    assert_eq!(bootstrap("n1.example.com", &[]).0, Some(1));
    // Somebody else asks for the same name.
    fs::remove_dir_all(served.ssldir("n1.example.com")).unwrap();
    let (code, text) = bootstrap("n1.example.com", &[]);
    assert!(code == Some(1) && text.contains("ca clean --certname n1.example.com"), "{text}");
    fs::create_dir_all(served.dir.path().join("nodes")).unwrap();
    fs::write(served.ssldir("n2.example.com"), "").unwrap();
    let (code, text) = bootstrap("n2.example.com", &[]);
    assert!(code == Some(1) && text.contains("nodes/n2.example.com"), "{text}");
    for (verb, expected) in [
        (&["setup"][..], "ca_key.pem is there already"),
        (&["sign", "--certname", "nobody"], "no certificate request for nobody waits"),
        (&["revoke", "--certname", "nobody"], "nobody: no certificate of this name"),
        (&["clean", "--certname", "nobody"], "nobody: no certificate and no request"),
        (&["renew", "--certname", "nobody"], "no certificate for nobody"),
        (&["list", "--certname", "nobody"], "no certificate and no request of nobody"),
    ] {
        let (code, text) = served.ca(verb);
        assert!(code == Some(1) && text.contains(expected), "{verb:?}: {text}");
    }
    let url = served.serving.urls[0].clone();
    let Served { serving, dir } = served;
    drop(serving);
    let mut command = Command::new(&binaries().agent);
    command.args(["ssl", "bootstrap", "--server", &url, "--node", "n3.example.com", "--ca-file"]).arg(&authority);
    command.arg("--ssldir").arg(dir.path().join("nodes/n3.example.com"));
    let (code, text) = told(&run(command));
    assert!(code == Some(1) && text.contains(&format!("{url} could not connect")), "{text}");
}
