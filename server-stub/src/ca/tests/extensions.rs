//! What a request says beside the name.

use super::*;

#[tokio::test]
async fn extensions_of_a_request_are_in_its_certificate_and_stay_when_it_is_renewed() {
    let extension =
        |below: &[u64], value: &[u8]| CustomExtension::from_oid_content(&[&oid::REGISTERED[..8], below].concat(), value.to_vec());
    // A role, one of the site's own, and a role for authorization.
    let (role, own, authorization) = (&[1, 13][..], &[2, 1, 1][..], &[3, 13][..]);
    let asked = |name: &str, all: &[&[u64]]| {
        let all = all.iter().map(|below| extension(below, b"\x0c\x03web")).collect();
        request(name, |params| params.custom_extensions = all)
    };
    let found = |world: &World, name: &str| {
        let der = world.signed(name).der;
        let shown = crate::listen::ClientCertificate::of(&der).unwrap();
        shown.extensions.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let world = World::new(everybody());
    assert!(world.ca.submit(&certname("n1"), &asked("n1", &[role, own])).await.unwrap());
    let expected = ["1.3.6.1.4.1.34380.1.2.1.1=web", "pp_role=web"];
    assert_eq!(found(&world, "n1"), expected);
    world.set(datetime!(2030-12-01 0:00 UTC));
    let first = world.signed("n1");
    world.ca.renew_shown(&first.der).unwrap();
    assert!(world.signed("n1").serial != first.serial && found(&world, "n1") == expected);
    let refused = world.ca.submit(&certname("n2"), &asked("n2", &[role, authorization])).await.unwrap_err().to_string();
    assert!(refused.contains("pp_auth_role") && refused.contains("--allow-authorization-extensions"), "{refused}");
    assert_eq!(world.state("n2"), None);
    let world = World::new(CaOptions { allow_authorization_extensions: true, ..everybody() });
    assert!(world.ca.submit(&certname("n2"), &asked("n2", &[role, authorization])).await.unwrap());
    assert_eq!(found(&world, "n2"), ["pp_auth_role=web", "pp_role=web"]);
}
