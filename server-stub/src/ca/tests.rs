//! The authority without a server: what it signs, refuses, revokes and renews, by a clock of its own.

mod extensions;

use std::process::Command;
use std::sync::{Arc, Mutex};

use direct_puppet_transport::protocol::Certname;
use rcgen::{CertificateParams, CustomExtension, DnType, SanType};
use rustls::pki_types::pem::PemObject as _;
use time::macros::datetime;

use super::status::Issued;
use super::*;

/// An authority with a clock that stands still until it is set.
pub(super) struct World {
    _dir: tempfile::TempDir,
    pub(super) ca: Arc<Ca>,
    clock: Arc<Mutex<OffsetDateTime>>,
}

impl World {
    pub(super) fn new(options: CaOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Mutex::new(datetime!(2026-01-01 0:00 UTC)));
        let told = Arc::clone(&clock);
        let options = CaOptions { clock: Arc::new(move || *told.lock().unwrap()), ..options };
        let ca = Ca::create(dir.path().join("ca"), &Setup { name: "Puppet CA: test".to_owned() }, options).unwrap();
        Self { _dir: dir, ca: Arc::new(ca), clock }
    }

    fn set(&self, time: OffsetDateTime) {
        *self.clock.lock().unwrap() = time;
    }

    fn signed(&self, name: &str) -> Issued {
        self.ca.issued(&certname(name)).unwrap().unwrap()
    }

    fn state(&self, name: &str) -> Option<String> {
        self.ca.status(&certname(name)).unwrap().map(|status| status.state)
    }
}

pub(super) fn certname(name: &str) -> Certname {
    name.parse().unwrap()
}

/// Makes a request with this subject.
pub(super) fn request(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap().into_bytes()
}

fn everybody() -> CaOptions {
    CaOptions { autosign: Autosign::Everybody, ..CaOptions::default() }
}

#[tokio::test]
async fn a_request_waits_is_signed_revoked_and_cleaned() {
    let world = World::new(CaOptions::default());
    let (name, pem) = (certname("n1.example.com"), request("n1.example.com", |_| {}));
    assert!(!world.ca.submit(&name, &pem).await.unwrap());
    assert!(!world.ca.submit(&name, &pem).await.unwrap(), "the same again is no other");
    assert_eq!(world.state("n1.example.com").as_deref(), Some("requested"));
    let other = world.ca.submit(&name, &request("n1.example.com", |_| {})).await.unwrap_err();
    assert!(matches!(other, CaError::Duplicate { state: "requested", .. }), "{other}");
    world.ca.sign(&name, None).unwrap();
    assert_eq!((world.state("n1.example.com").as_deref(), world.ca.waiting().unwrap()), (Some("signed"), vec![]));
    assert!(world.ca.submit(&name, &pem).await.unwrap(), "it has its certificate already");
    let other = world.ca.submit(&name, &request("n1.example.com", |_| {})).await.unwrap_err();
    assert!(matches!(other, CaError::Duplicate { state: "signed", .. }), "{other}");
    assert!(world.ca.revoke(std::slice::from_ref(&name)).unwrap().is_empty());
    assert_eq!(world.state("n1.example.com").as_deref(), Some("revoked"));
    assert!(matches!(world.ca.submit(&name, &pem).await.unwrap_err(), CaError::Duplicate { state: "revoked", .. }));
    assert!(world.ca.clean(std::slice::from_ref(&name)).unwrap().is_empty());
    assert_eq!(world.state("n1.example.com"), None);
    assert!(!world.ca.submit(&name, &request("n1.example.com", |_| {})).await.unwrap(), "the name can be used again");
    assert_eq!(world.ca.revoke(&[certname("nobody")]).unwrap(), [certname("nobody")]);
}

#[tokio::test]
async fn hostile_requests_are_refused() {
    let world = World::new(everybody());
    for bad in [
        "Upper.example.com",
        "a..b",
        "../x",
        "a/b",
        "a\0b",
        "ä.example.com",
        "-a",
        "*.example.com",
        "a b",
        "",
        &"a".repeat(300),
        "ca",
    ] {
        let pem = request(bad, |_| {});
        let asked = bad.parse().unwrap_or_else(|_| certname("asked"));
        let error = world.ca.submit(&asked, &pem).await.unwrap_err();
        assert!(matches!(error, CaError::Refused { .. }), "{bad:?} {error}");
    }
    let error = world.ca.submit(&certname("ca"), &request("ca", |_| {})).await.unwrap_err().to_string();
    assert!(error.contains("what the authority itself is called"), "{error}");
    let name = certname("n1");
    let extension = |oid: &[u64], value: &[u8]| CustomExtension::from_oid_content(oid, value.to_vec());
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("another's name", request("n2", |_| {})),
        (
            "an alternative name",
            request("n1", |params| params.subject_alt_names = vec![SanType::DnsName("puppet".try_into().unwrap())]),
        ),
        ("a second common name", request("n1", |params| params.distinguished_name.push(DnType::OrganizationName, "x"))),
        ("to administrate", request("n1", |params| params.custom_extensions = vec![extension(oid::CLI_AUTH, b"\x0c\x04true")])),
        (
            "a role",
            request("n1", |params| {
                params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 34380, 1, 3, 13], b"\x0c\x01a")];
            }),
        ),
        ("to be an authority", request("n1", |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        (
            "what is critical and unknown",
            request("n1", |params| {
                let mut unknown = extension(&[1, 2, 3, 4], b"\x05\x00");
                unknown.set_criticality(true);
                params.custom_extensions = vec![unknown];
            }),
        ),
        ("nothing", Vec::new()),
        ("no PEM", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_vec()),
        ("too much", vec![b'x'; 100_000]),
    ];
    for (what, pem) in &hostile {
        let error = world.ca.submit(&name, pem).await.unwrap_err();
        assert!(matches!(error, CaError::Refused { .. }), "{what}: {error}");
    }
    // A request whose signature is another's.
    let good = request("n1", |_| {});
    let mut broken = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(&good).unwrap().to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let error = world.ca.submit(&name, pem_text("CERTIFICATE REQUEST", &broken).as_bytes()).await.unwrap_err();
    assert!(matches!(error, CaError::Refused { .. }), "{error}");
    assert_eq!(world.ca.statuses().unwrap(), []);
    assert!(world.ca.submit(&name, &good).await.unwrap());
}

#[tokio::test]
async fn no_more_wait_than_are_allowed() {
    let world = World::new(CaOptions { max_waiting: 2, ..CaOptions::default() });
    for name in ["a", "b"] {
        world.ca.submit(&certname(name), &request(name, |_| {})).await.unwrap();
    }
    assert!(matches!(world.ca.submit(&certname("c"), &request("c", |_| {})).await.unwrap_err(), CaError::Full { limit: 2 }));
}

#[tokio::test]
async fn numbers_are_never_given_twice() {
    let world = World::new(everybody());
    let submit = async |name: &str| world.ca.submit(&certname(name), &request(name, |_| {})).await.unwrap();
    assert!(submit("a").await && submit("b").await);
    assert_eq!((world.signed("a").serial, world.signed("b").serial), (vec![2], vec![3]));
    // The file of a backup is too low; what the inventory has counts.
    std::fs::write(world.ca.dir.serial(), "0002").unwrap();
    assert!(submit("c").await);
    assert_eq!(world.signed("c").serial, [4]);
    // Half a line that a crash left swallows no other.
    let torn = std::fs::read_to_string(world.ca.dir.inventory()).unwrap() + "0x00";
    std::fs::write(world.ca.dir.inventory(), torn).unwrap();
    assert!(submit("d").await);
    assert_eq!(inventory::last_serial(&world.ca.dir.inventory_text().unwrap()), Some(5));
    std::fs::write(world.ca.dir.serial(), "zz").unwrap();
    assert!(matches!(world.ca.submit(&certname("e"), &request("e", |_| {})).await.unwrap_err(), CaError::Damaged { .. }));
}

#[tokio::test]
async fn a_renewal_keeps_the_key_and_what_is_revoked_or_replaced_is_not_renewed() {
    let world = World::new(everybody());
    world.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap();
    let first = world.signed("a");
    assert_eq!(world.ca.renew_shown(&first.der).unwrap(), pem_text("CERTIFICATE", &first.der), "it is fresh");
    world.set(datetime!(2030-12-01 0:00 UTC));
    world.ca.renew_shown(&first.der).unwrap();
    let second = world.signed("a");
    assert_eq!((&second.wishes, second.serial.as_slice()), (&first.wishes, &[3][..]));
    assert!(second.not_after > first.not_after);
    // All certificates of the name that are still valid are revoked.
    world.ca.revoke(&[certname("a")]).unwrap();
    for der in [&first.der, &second.der] {
        assert!(matches!(world.ca.renew_shown(der).unwrap_err(), CaError::NotRenewed { .. }));
    }
    let stranger = World::new(everybody());
    stranger.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap();
    assert!(matches!(world.ca.renew_shown(&stranger.signed("a").der).unwrap_err(), CaError::NotRenewed { .. }));
}

#[tokio::test]
async fn clocks_and_lists_that_ended() {
    let world = World::new(everybody());
    assert!(!world.ca.refresh_list().unwrap());
    // The list ends in less than a month: it is made anew, with all that it had.
    world.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap();
    world.ca.revoke(&[certname("a")]).unwrap();
    world.set(datetime!(2030-12-20 0:00 UTC));
    assert!(world.ca.refresh_list().unwrap() && !world.ca.refresh_list().unwrap());
    assert_eq!(world.state("a").as_deref(), Some("revoked"));
    // Years after its end too.
    world.set(datetime!(2038-01-01 0:00 UTC));
    assert!(world.ca.refresh_list().unwrap());
    // A clock outside of the authority's own time signs nothing; the request waits.
    let pem = request("b", |_| {});
    for time in [datetime!(1996-01-01 0:00 UTC), datetime!(2050-01-01 0:00 UTC)] {
        world.set(time);
        assert!(matches!(world.ca.submit(&certname("b"), &pem).await.unwrap_err(), CaError::Clock { .. }));
    }
    // No certificate outlives the authority.
    world.set(datetime!(2040-12-01 0:00 UTC));
    world.ca.submit(&certname("b"), &pem).await.unwrap();
    assert!(world.signed("b").not_after <= world.ca.signer().unwrap().not_after);
}

/// An authority as `puppetserver ca setup` makes it: RSA, a root and an intermediate, keys in the old form; made and checked with openssl.
#[tokio::test]
async fn an_authority_of_puppet_works_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"set -e
openssl genrsa -traditional -out root.key 2048; openssl genrsa -traditional -out ca.key 2048
openssl req -x509 -new -key root.key -subj "/CN=Puppet Root CA: abc" -days 3650 -out root.pem -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -new -key ca.key -subj "/CN=Puppet CA: abc" -out ca.csr
printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > ext
openssl x509 -req -in ca.csr -CA root.pem -CAkey root.key -set_serial 2 -days 3650 -extfile ext -out ca.pem
touch index; printf '01' > number
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=3650\ncrl_extensions=x\n[x]\nauthorityKeyIdentifier=keyid\n' > conf
openssl ca -config conf -gencrl -keyfile root.key -cert root.pem -out root.crl; openssl ca -config conf -gencrl -keyfile ca.key -cert ca.pem -out ca.crl
cat ca.pem root.pem > bundle.pem; cat ca.crl root.crl > lists.pem
"#;
    let Ok(made) = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output() else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| dir.path().join(name);
    let import = Import { certificates: file("bundle.pem"), lists: file("lists.pem"), key: file("ca.key") };
    // Without the root no client takes what it signs; what is refused leaves nothing behind.
    let lacking = Import { certificates: file("ca.pem"), ..import.clone() };
    let error = Ca::import(file("ca"), &lacking, everybody()).unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("no certificate of \"Puppet Root CA: abc\""), "{error}");
    assert!(!file("ca").exists());
    let ca = Arc::new(Ca::import(file("ca"), &import, everybody()).unwrap());
    for name in ["a", "b"] {
        assert!(ca.submit(&certname(name), &request(name, |_| {})).await.unwrap());
    }
    ca.revoke(&[certname("b")]).unwrap();
    let verify = |name: &str| {
        let mut command = Command::new("openssl");
        command.args(["verify", "-crl_check_all", "-x509_strict", "-CAfile"]).arg(file("ca/ca_crt.pem"));
        command.arg("-CRLfile").arg(file("ca/ca_crl.pem")).arg(file(&format!("ca/signed/{name}.pem")));
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let (good, bad) = (verify("a"), verify("b"));
    assert!(good.contains(": OK") && bad.contains("revoked"), "{good}\n{bad}");
    // Opened where it is, as a server does.
    assert!(Ca::open(file("ca"), CaOptions::default()).is_ok());
    assert!(matches!(
        Ca::create(file("ca"), &Setup { name: "x".to_owned() }, CaOptions::default()).unwrap_err(),
        CaError::Exists { .. }
    ));
    assert!(matches!(Ca::open(file("none"), CaOptions::default()).unwrap_err(), CaError::Absent { .. }));
}

#[tokio::test]
async fn requests_with_weak_keys_or_signatures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(everybody());
    let make = |size: &str, digest: &str| {
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-subj", "/CN=n1", "-keyout", "key.pem", "-newkey", size, digest]);
        command.current_dir(dir.path()).output().map(|made| made.stdout)
    };
    let Ok(good) = make("rsa:2048", "-sha256") else { return };
    for (size, digest) in [("rsa:2048", "-sha1"), ("rsa:1024", "-sha256"), ("rsa:1024", "-sha1")] {
        let error = world.ca.submit(&certname("n1"), &make(size, digest).unwrap()).await.unwrap_err();
        assert!(matches!(error, CaError::Refused { .. }), "{size} {digest}: {error}");
        let is_short = error.to_string().contains("its RSA key has 1024 bits, and must have 2048 or more");
        assert_eq!(is_short, size == "rsa:1024", "{size} {digest}: {error}");
    }
    assert!(world.ca.submit(&certname("n1"), &good).await.unwrap());
}

#[tokio::test]
async fn a_policy_program_is_asked_once_and_decides_though_the_peer_has_gone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (policy, asked) = (dir.path().join("policy"), dir.path().join("asked"));
    let script = format!("#!/bin/sh\necho \"$1\" >> {}\nsleep 0.3\n[ \"$1\" = good ]\n", asked.display());
    std::fs::write(&policy, script).unwrap();
    std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::new(CaOptions { autosign: Autosign::File(policy), ..CaOptions::default() });
    let bad = request("bad", |_| {});
    for _ in 0..3 {
        assert!(!world.ca.submit(&certname("bad"), &bad).await.unwrap());
    }
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "bad\n");
    // Another request in its place is another question.
    world.ca.forget(&certname("bad"), false).unwrap();
    assert!(!world.ca.submit(&certname("bad"), &request("bad", |_| {})).await.unwrap());
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "bad\nbad\n");
    let (name, good) = (certname("good"), request("good", |_| {}));
    let gone = tokio::time::timeout(std::time::Duration::from_millis(100), world.ca.submit(&name, &good)).await;
    assert!(gone.is_err());
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        if world.state("good").as_deref() == Some("signed") {
            return;
        }
    }
    panic!("it was not signed");
}

#[tokio::test]
async fn no_more_are_decided_on_at_once_than_may_be() {
    let world = World::new(everybody());
    let others = u32::try_from(issue::SUBMITTED_AT_ONCE).unwrap();
    let taken = Arc::clone(&world.ca.submissions).acquire_many_owned(others).await.unwrap();
    tokio::time::pause();
    let error = world.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap_err();
    assert!(matches!(error, CaError::Busy { limit: 16 }), "{error}");
    tokio::time::resume();
    drop(taken);
    assert!(world.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap());
}

#[tokio::test]
async fn an_authority_that_was_used_elsewhere_gives_none_of_its_numbers_again() {
    let used = World::new(everybody());
    let file = |name: &str| used.ca.path().join(name);
    let import = Import { certificates: file("ca_crt.pem"), lists: file("ca_crl.pem"), key: file("ca_key.pem") };
    let dir = tempfile::tempdir().unwrap();
    let serial = |into: &str| {
        let ca = Ca::import(dir.path().join(into), &import, everybody()).unwrap();
        let turn = ca.dir.turn().unwrap();
        ca.dir.take_serial(&turn).unwrap()
    };
    let (one, other) = (serial("one"), serial("other"));
    assert!(one != other && [one, other].iter().all(|serial| (1 << 62..1 << 63).contains(serial)), "{one:x} {other:x}");
}

#[tokio::test]
async fn a_life_without_end_ends_with_the_authority_and_what_is_revoked_waits_for_nothing() {
    let world = World::new(CaOptions { allow_duplicate_certs: true, ..CaOptions::default() });
    let name = certname("a");
    world.ca.submit(&name, &request("a", |_| {})).await.unwrap();
    world.ca.sign(&name, Some(std::time::Duration::from_secs(u64::MAX))).unwrap();
    assert_eq!(world.signed("a").not_after, world.ca.signer().unwrap().not_after);
    for waiting in ["a", "new"] {
        world.ca.submit(&certname(waiting), &request(waiting, |_| {})).await.unwrap();
    }
    assert_eq!(world.ca.revoke(&[name, certname("new")]).unwrap(), [certname("new")]);
    assert_eq!(world.ca.waiting().unwrap(), [certname("new")]);
}

#[test]
fn a_list_under_a_name_that_is_not_the_authoritys_is_not_made() {
    let world = World::new(CaOptions::default());
    let mut signer = world.ca.signer().unwrap();
    let last = signer.subject.len() - 1;
    signer.subject[last] ^= 1;
    let path = world.ca.dir.lists();
    let made = Lists::none().revoking(&[], &signer, &path, world.ca.now());
    assert!(matches!(made, Err(CaError::Damaged { .. })));
}

#[tokio::test]
async fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(everybody());
    for dir in ["", "signed", "requests", "private"] {
        chown(world.ca.path().join(dir), Some(4711), Some(4712)).unwrap();
    }
    for file in [".lock", "inventory.txt"] {
        std::fs::remove_file(world.ca.path().join(file)).unwrap();
    }
    world.ca.submit(&certname("a"), &request("a", |_| {})).await.unwrap();
    world.ca.revoke(&[certname("a")]).unwrap();
    for file in [".lock", "inventory.txt", "serial", "ca_crl.pem", "signed/a.pem"] {
        let found = std::fs::metadata(world.ca.path().join(file)).unwrap();
        assert_eq!((found.uid(), found.gid()), (4711, 4712), "{file}");
    }
}
