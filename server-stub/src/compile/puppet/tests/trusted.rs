//! What code sees in `trusted`.

use super::*;

#[test]
fn what_a_certificate_says_is_in_trusted() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let site = "$all = $trusted['extensions'].map |$name, $value| { \"${name}=${value}\" }.join(' ')\n\
                notify { 'all': message => $all }\n\
                notify { 'who': message => \"${trusted['authenticated']} ${trusted['hostname']} ${trusted['domain']}\" }\n\
                notify { 'role': message => lookup('role') }\n";
    let code = world.code(&[
        ("manifests/site.pp", site),
        (
            "hiera.yaml",
            "version: 5\nhierarchy:\n  - name: role\n    paths: ['%{trusted.extensions.pp_role}.yaml', 'none.yaml']\n",
        ),
        ("data/web.yaml", "role: a web server\n"),
        ("data/none.yaml", "role: nothing\n"),
    ]);
    let confdir = world.dir.path().join("confdir");
    std::fs::create_dir(&confdir).unwrap();
    let mapping = "oid_mapping:\n  1.3.6.1.4.1.34380.1.2.1:\n    shortname: rack\n    longname: The rack\n";
    std::fs::write(confdir.join("custom_trusted_oid_mapping.yaml"), mapping).unwrap();
    let compiler = PuppetCompiler::new(PuppetOptions { confdir: Some(confdir), ..world.options() });
    let pairs = [("pp_role", "web"), ("1.3.6.1.4.1.34380.1.2.1", "r7"), ("1.3.6.1.4.1.34380.1.2.2", "\u{e4} \"q\"\n")];
    let extensions = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let asked = CompileRequest { extensions, ..request(&code, "n1.lab.example.com") };
    let catalog = compiler.compile(&asked).unwrap().catalog;
    assert_eq!(message(&catalog, "all"), "rack=r7 1.3.6.1.4.1.34380.1.2.2=\u{e4} \"q\"\n pp_role=web");
    assert_eq!(message(&catalog, "who"), "remote n1 lab.example.com");
    assert_eq!(message(&catalog, "role"), "a web server");
    // Whose certificate says nothing has none of it, whatever was compiled before; and no fact stands in for it.
    let facts = BTreeMap::from([("trusted".to_owned(), "x".into()), ("extensions".to_owned(), "x".into())]);
    let catalog = compiler.compile(&CompileRequest { facts, ..request(&code, "n2") }).unwrap().catalog;
    assert_eq!((message(&catalog, "all"), message(&catalog, "role")), (String::new(), "nothing".to_owned()));
}
