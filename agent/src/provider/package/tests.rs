//! The provider against conversations that were recorded, and against the real dpkg in another root.

use std::process::Command;

use super::*;
use crate::apply::error_chain;
use crate::provider::file::tests::World;
use crate::provider::programs::tests::Fakes;

fn package(name: &str) -> Resource {
    Resource::new("Package", name)
}

fn provider(fakes: &Fakes) -> PackageProvider {
    PackageProvider { search: Some(fakes.path()), ..PackageProvider::default() }
}

/// Says what dpkg has of one package.
fn dpkg_status(world: &World, status: &str, version: &str) {
    world.write(
        "/var/lib/dpkg/status",
        format!("Package: web\nStatus: {status}\nVersion: {version}\nArchitecture: amd64\n\n").as_bytes(),
    );
}

async fn found(provider: &PackageProvider, world: &World, resource: Resource) -> Result<Vec<String>, String> {
    let checked = provider.check(&world.context(), &Arc::new(resource)).await;
    let changes = checked.map_err(|error| error_chain(&error))?.changes;
    Ok(changes.into_iter().map(|change| change.wording.unwrap().done).collect())
}

#[tokio::test]
async fn what_dpkg_has_is_read_without_running_it() {
    let (world, fakes) = (World::new(), Fakes::new());
    let (it, apt) = (provider(&fakes), |name: &str| package(name).with("provider", "apt"));
    dpkg_status(&world, "install ok installed", "1.0-1");
    let none = Ok(Vec::new());
    assert_eq!(found(&it, &world, apt("web")).await, none);
    assert_eq!(found(&it, &world, apt("web").with("ensure", "1.0-1")).await, none);
    assert_eq!(found(&it, &world, apt("web").with("ensure", "1.1")).await.unwrap(), ["ensure changed '1.0-1' to '1.1'"]);
    assert_eq!(found(&it, &world, apt("web").with("ensure", "absent")).await.unwrap(), ["removed"]);
    assert_eq!(found(&it, &world, apt("web").with("ensure", "purged")).await.unwrap(), ["purged"]);
    assert_eq!(found(&it, &world, apt("web").with("mark", "hold")).await.unwrap(), ["mark changed 'none' to 'hold'"]);
    assert_eq!(found(&it, &world, apt("db")).await.unwrap(), ["created"]);
    assert_eq!(found(&it, &world, apt("db").with("ensure", "held")).await.unwrap(), ["created"]);
    assert_eq!(found(&it, &world, apt("db").with("ensure", "purged")).await, none);
    dpkg_status(&world, "deinstall ok config-files", "1.0-1");
    assert_eq!(found(&it, &world, apt("web").with("ensure", "absent")).await, none);
    assert_eq!(found(&it, &world, apt("web").with("ensure", "purged")).await.unwrap(), ["purged"]);
    dpkg_status(&world, "hold ok installed", "1.0-1");
    assert_eq!(found(&it, &world, apt("web").with("ensure", "held")).await, none);
    // A dpkg that was interrupted left this.
    world.write("/var/lib/dpkg/updates/0001", "Package: web\nStatus: install ok unpacked\nVersion: 1.1\n");
    assert_eq!(found(&it, &world, apt("web")).await.unwrap(), ["created"]);
    dpkg_status(&world, "install reinstreq half-installed", "1.0-1");
    std::fs::remove_file(world.context().root().path().join("var/lib/dpkg/updates/0001")).unwrap();
    assert!(found(&it, &world, apt("web")).await.unwrap_err().contains("reinstreq"));
    assert_eq!(fakes.calls(), [""; 0]);
}

#[tokio::test]
async fn apt_is_called_as_it_should_be() {
    let (world, fakes) = (World::new(), Fakes::new());
    let status = world.context().root().path().join("var/lib/dpkg/status");
    let set = |words: &str| format!("printf 'Package: web\\nStatus: {words}\\nVersion: 2.0\\n' > {}", status.display());
    dpkg_status(&world, "install ok installed", "1.0");
    fakes.add("apt-cache", "printf 'web:\\n  Installed: 1.0\\n  Candidate: 2.0\\n'");
    fakes.add("apt-get", &format!("[ \"$DEBIAN_FRONTEND\" = noninteractive ] || exit 9\n{}", set("install ok installed")));
    fakes.add("dpkg", &format!("cat; {}", set("hold ok installed")));
    let latest = package("web").with("provider", "apt").with("ensure", "latest").with("install_options", "-V");
    let done = world.converge_by(&provider(&fakes), &latest).await.unwrap();
    assert_eq!(done, ["ensure changed '1.0' to '2.0'"]);
    let begin = "apt-get -q -y -o DPkg::Lock::Timeout=120";
    let keep = "-o DPkg::Options::=--force-confold";
    assert_eq!(
        fakes.calls(),
        ["apt-cache policy -- web".to_owned(), format!("{begin} {keep} -V install web"), "apt-cache policy -- web".to_owned()]
    );
    let held = package("web").with("provider", "apt").with("mark", "hold");
    assert_eq!(world.converge_by(&provider(&fakes), &held).await.unwrap(), ["mark changed 'none' to 'hold'"]);
    assert_eq!(fakes.calls(), ["dpkg --set-selections"]);
    // What is held is brought to another version, and held again.
    dpkg_status(&world, "hold ok installed", "1.0");
    let version =
        package("web").with("provider", "apt").with("ensure", "2.0").with("mark", "hold").with("configfiles", "replace");
    world.converge_by(&provider(&fakes), &version).await.unwrap();
    let replace = "-o DPkg::Options::=--force-confnew";
    let options = "--allow-downgrades --allow-change-held-packages";
    assert_eq!(fakes.calls(), [format!("{begin} {replace} {options} install web=2.0"), "dpkg --set-selections".to_owned()]);
    fakes.add("apt-get", "echo 'E: dpkg was interrupted, run dpkg --configure -a'; exit 100");
    let error = world.converge_by(&provider(&fakes), &package("web").with("provider", "apt").with("ensure", "absent")).await;
    assert!(error.as_ref().is_err_and(|error| error.contains("once by hand") && error.contains("exit status: 100")), "{error:?}");
    fakes.add("apt-get", "exit 0");
    let error = world.converge_by(&provider(&fakes), &package("web").with("provider", "apt").with("ensure", "3.0")).await;
    assert!(error.as_ref().is_err_and(|error| error.contains("yet there is")), "{error:?}");
    // Held back by what others depend on: apt ends well.
    dpkg_status(&world, "install ok installed", "1.0");
    let error = world.converge_by(&provider(&fakes), &latest).await;
    assert!(error.as_ref().is_err_and(|error| error.contains("yet there is")), "{error:?}");
    fakes.add("apt-cache", "printf 'web:\\n  Candidate: (none)\\n'");
    assert!(found(&provider(&fakes), &world, latest).await.unwrap_err().contains("apt-get update"));
}

#[tokio::test]
async fn neighbours_are_installed_in_one_transaction() {
    let (world, fakes) = (World::new(), Fakes::new());
    let status = world.context().root().path().join("var/lib/dpkg/status");
    world.write("/var/lib/dpkg/status", "Package: old\nStatus: install ok installed\nVersion: 1\n\n");
    let install = format!(
        "for word in \"$@\"; do case $word in -*|install|DPkg*|bad) ;; *) printf 'Package: %s\\nStatus: install ok installed\\nVersion: 1\\n\\n' $word >> {}; esac; done\n\
         case \"$*\" in *bad*) echo 'E: bad is broken'; exit 100; esac",
        status.display()
    );
    fakes.add("apt-get", &install);
    let it = provider(&fakes);
    let apt = |name: &str| package(name).with("provider", "apt");
    let all =
        [apt("a"), apt("old"), apt("b"), apt("c").with("install_options", "-V"), apt("d").with("ensure", "absent"), apt("e")];
    let shared: Vec<Arc<Resource>> = all.iter().cloned().map(Arc::new).collect();
    it.together(&shared);
    let mut done = Vec::new();
    for resource in &shared {
        let changes = it.check(&world.context(), resource).await.unwrap().changes;
        assert!(it.apply(&world.context(), resource, &changes).await.unwrap().failures.is_empty(), "{resource:?}");
        done.extend(changes.iter().map(|change| format!("{} {}", change.resource, change.wording.as_ref().unwrap().done)));
        assert_eq!(it.check(&world.context(), resource).await.unwrap().changes, []);
    }
    assert_eq!(done, ["Package[a] created", "Package[b] created", "Package[c] created", "Package[e] created"]);
    let begin = "apt-get -q -y -o DPkg::Lock::Timeout=120 -o DPkg::Options::=--force-confold";
    // None is stepped over that has a call of its own: who comes after it may need it.
    let calls = [format!("{begin} install a b"), format!("{begin} -V install c"), format!("{begin} install e")];
    assert_eq!(fakes.calls(), calls);
    // A transaction that fails is made again one by one, and only what is broken fails.
    world.write("/var/lib/dpkg/status", "");
    fakes.add("apt-get", &install.replace("*) printf", "*) case \"$*\" in *bad*) continue; esac; printf"));
    let shared: Vec<Arc<Resource>> = ["a", "bad", "b"].map(apt).into_iter().map(Arc::new).collect();
    it.together(&shared);
    let mut failed = Vec::new();
    for resource in &shared {
        let changes = it.check(&world.context(), resource).await.unwrap().changes;
        let applied = it.apply(&world.context(), resource, &changes).await.unwrap();
        failed.extend(applied.failures.into_values());
    }
    assert!(failed.len() == 1 && failed[0].contains("bad is broken"), "{failed:?}");
    let calls = fakes.calls();
    let tail = |call: &String| call.rsplit_once("install ").unwrap().1.to_owned();
    assert_eq!(calls.iter().map(tail).collect::<Vec<_>>(), ["a bad b", "a", "bad", "b"]);
    // What a transaction that fails has done all the same is told, and not done again.
    world.write("/var/lib/dpkg/status", "");
    fakes.add("apt-get", &install);
    it.together(&shared);
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for resource in &shared {
        let changes = it.check(&world.context(), resource).await.unwrap().changes;
        told.extend(changes.iter().map(|change| change.resource.to_string()));
        let applied = it.apply(&world.context(), resource, &changes).await.unwrap();
        failed.extend(applied.failures.into_values());
    }
    assert_eq!((told, failed.len()), (["a", "bad", "b"].map(|name| format!("Package[{name}]")).to_vec(), 1), "{failed:?}");
    assert_eq!(fakes.calls().iter().map(tail).collect::<Vec<_>>(), ["a bad b", "bad"]);
}

/// Programs that keep the version of one package in a file, `version`.
fn fake_rpm(fakes: &Fakes) {
    fakes.add("rpm", "if [ \"$1\" = -e ]; then rm version; exit; fi\n[ -e version ] && { cat version; exit 0; }\necho \"package web is not installed\"\nexit 1");
}

#[tokio::test]
async fn yum_and_dnf_by_recorded_conversations() {
    for (program, update, level) in [("yum", "update", "0"), ("dnf", "upgrade", "1")] {
        let (world, fakes) = (World::new(), Fakes::new());
        fake_rpm(&fakes);
        fakes.add(
            program,
            "case \"$*\" in\n*check-update*) grep -q '3.0' version && exit 0; echo 'web.x86_64  0:3.0-1  base'; exit 100;;\n\
             *web-2.0*) echo 'web 0 2.0 1 x86_64' > version;;\n*install*) echo 'web 0 1.0 1 x86_64' > version;;\n\
             *erase*) rm version;;\n*) echo 'web 0 3.0 1 x86_64' > version;;\nesac",
        );
        let (it, web) = (provider(&fakes), || package("web").with("provider", program).with("allow_virtual", false));
        let ours = |calls: Vec<String>| calls.into_iter().filter(|call| call.starts_with(program)).collect::<Vec<_>>();
        let begin = format!("{program} -d 0 -e {level} -y");
        assert_eq!(world.converge_by(&it, &web()).await.unwrap(), ["created"]);
        assert_eq!(ours(fakes.calls()), [format!("{begin} install web")]);
        assert_eq!(world.converge_by(&it, &web().with("ensure", "latest")).await.unwrap(), ["ensure changed '1.0-1' to '3.0-1'"]);
        assert!(fakes.calls().contains(&format!("{begin} {update} web")));
        assert_eq!(world.converge_by(&it, &web().with("ensure", "2.0")).await.unwrap(), ["ensure changed '3.0-1' to '2.0'"]);
        assert_eq!(ours(fakes.calls()), [format!("{begin} downgrade web-2.0")]);
        assert_eq!(world.converge_by(&it, &web().with("ensure", "absent")).await.unwrap(), ["removed"]);
        assert!(fakes.calls().contains(&"rpm -e web".to_owned()));
        world.converge_by(&it, &web()).await.unwrap();
        fakes.calls();
        assert_eq!(world.converge_by(&it, &web().with("ensure", "purged")).await.unwrap(), ["purged"]);
        assert_eq!(ours(fakes.calls()), [format!("{program} -y erase web")]);
    }
}

#[tokio::test]
async fn rpm_by_recorded_conversations() {
    let (world, fakes) = (World::new(), Fakes::new());
    fakes.add("rpm", "case \"$*\" in\n-i*|-U*) cp file version;;\n*-p*) cat file;;\n*) [ -e version ] && exec cat version; echo 'package web is not installed'; exit 1;;\nesac");
    fakes.write("file", "web 1 2.0 3 noarch\n");
    let web = || package("web").with("provider", "rpm").with("source", "/tmp/web.rpm");
    assert_eq!(world.converge_by(&provider(&fakes), &web()).await.unwrap(), ["created"]);
    assert!(fakes.calls().contains(&"rpm -i /tmp/web.rpm".to_owned()));
    fakes.write("file", "web 1 2.0 4 noarch\n");
    let latest = web().with("ensure", "latest").with("install_options", "--nodeps");
    assert_eq!(world.converge_by(&provider(&fakes), &latest).await.unwrap(), ["ensure changed '1:2.0-3' to '1:2.0-4'"]);
    assert!(fakes.calls().contains(&"rpm -U --oldpackage --nodeps /tmp/web.rpm".to_owned()));
    // A database that cannot be read is no package that is absent.
    fakes.add("rpm", "echo 'error: cannot open Packages database' >&2; exit 1");
    assert!(found(&provider(&fakes), &world, web()).await.unwrap_err().contains("cannot open"));
}

#[tokio::test]
async fn gem_and_pip_by_recorded_conversations() {
    let (world, fakes) = (World::new(), Fakes::new());
    fakes.add("gem", "case \"$*\" in\n*--remote*) echo 'web (2.0)';;\nlist*) cat version; true;;\nuninstall*) rm version;;\n*-v*) echo 'web (1.0)' > version;;\n*) echo 'web (2.0, 1.0)' > version;;\nesac 2>/dev/null");
    let gem = || package("web").with("provider", "gem");
    let it = provider(&fakes);
    assert_eq!(world.converge_by(&it, &gem().with("ensure", "1.0")).await.unwrap(), ["created"]);
    assert!(fakes.calls().contains(&"gem install -v 1.0 --no-document web".to_owned()));
    let latest = gem().with("ensure", "latest").with("source", "https://gems.example.com");
    assert_eq!(world.converge_by(&it, &latest).await.unwrap(), ["ensure changed '1.0' to '2.0'"]);
    assert!(fakes.calls().contains(&"gem install --no-document --source https://gems.example.com web".to_owned()));
    assert_eq!(world.converge_by(&it, &gem().with("ensure", "absent")).await.unwrap(), ["removed"]);
    assert!(fakes.calls().contains(&"gem uninstall --executables --all web".to_owned()));
    fakes.add("gem", "case \"$*\" in list*) ;; *) echo 'ERROR:  Could not find'; esac");
    assert!(world.converge_by(&it, &gem()).await.unwrap_err().contains("Could not find"));

    fakes.add("pip3", "case \"$*\" in\nfreeze*) cat version; true;;\n*dev0*) echo 'ERROR: no such (from versions: 1.0, 2.0)'; exit 1;;\nuninstall*) rm version;;\n*==1.0*) echo 'My_Web==1.0' > version;;\n*) echo 'My_Web==2.0' > version;;\nesac 2>/dev/null");
    let pip = || package("my-web").with("provider", "pip3");
    assert_eq!(world.converge_by(&it, &pip().with("ensure", "1.0")).await.unwrap(), ["created"]);
    assert!(fakes.calls().contains(&"pip3 install -q my-web==1.0".to_owned()));
    assert_eq!(world.converge_by(&it, &pip().with("ensure", "latest")).await.unwrap(), ["ensure changed '1.0' to '2.0'"]);
    assert!(fakes.calls().contains(&"pip3 install -q --upgrade my-web".to_owned()));
    assert_eq!(world.converge_by(&it, &pip().with("ensure", "absent")).await.unwrap(), ["removed"]);
    assert!(fakes.calls().contains(&"pip3 uninstall -y -q my-web".to_owned()));
    assert_eq!(world.converge_by(&it, &pip().with("ensure", ">=1.0 <2.0")).await.unwrap(), ["created"]);
    assert!(fakes.calls().contains(&"pip3 install -q my-web==1.0".to_owned()), "the highest version in the range");
    assert_eq!(world.converge_by(&it, &pip().with("ensure", "absent")).await.unwrap(), ["removed"]);
}

#[tokio::test]
async fn the_package_manager_of_the_system() {
    let (world, fakes) = (World::new(), Fakes::new());
    fakes.add("dnf", "");
    let context = world.context();
    let it = PackageProvider { search: fakes.path().split(':').next().map(str::to_owned), ..PackageProvider::default() };
    let programs = it.programs(&context);
    for (os_release, kind) in [
        ("ID=debian\n", Some(Kind::Apt)),
        ("NAME=x\nID=pop\nID_LIKE=\"ubuntu debian\"\n", Some(Kind::Apt)),
        ("ID=\"rhel\"\nID_LIKE=\"fedora\"\n", Some(Kind::Dnf)),
    ] {
        assert_eq!(Kind::of_system(os_release, &programs), kind, "{os_release}");
    }
    let (empty, none) = (Fakes::new(), World::new());
    let it = PackageProvider { search: empty.path().split(':').next().map(str::to_owned), ..PackageProvider::default() };
    assert!(found(&it, &none, package("web")).await.unwrap_err().contains("give provider"));
}

#[tokio::test]
async fn the_real_dpkg_in_another_root() {
    if !rustix::process::geteuid().is_root() || Command::new("dpkg-deb").arg("--version").output().is_err() {
        println!("LEFT OUT: the real dpkg, which needs root and Debian");
        return;
    }
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let build = |version: &str| {
        let tree = dir.path().join(version);
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/dpt.conf"), version).unwrap();
        std::fs::write(tree.join("DEBIAN/conffiles"), "/etc/dpt.conf\n").unwrap();
        let control =
            format!("Package: dpt\nVersion: {version}\nArchitecture: all\nMaintainer: m <m@example.com>\nDescription: test\n");
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let file = dir.path().join(format!("{version}.deb"));
        let built = Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(&tree).arg(&file).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        file.to_str().unwrap().to_owned()
    };
    let (first, second) = (build("1.0"), build("2.0"));
    world.write("/var/lib/dpkg/status", "");
    world.mkdir("/var/lib/dpkg/updates");
    world.mkdir("/var/lib/dpkg/info");
    let it = PackageProvider::default();
    let dpt = |source: &str| package("dpt").with("provider", "dpkg").with("source", source);
    assert_eq!(world.converge_by(&it, &dpt(&first)).await.unwrap(), ["created"]);
    assert_eq!(world.read("/etc/dpt.conf"), "1.0");
    assert_eq!(world.converge_by(&it, &dpt(&first).with("ensure", "held")).await.unwrap(), ["mark changed 'none' to 'hold'"]);
    let latest = dpt(&second).with("ensure", "latest");
    assert_eq!(world.converge_by(&it, &latest).await.unwrap(), ["ensure changed '1.0' to '2.0'"]);
    assert_eq!(world.converge_by(&it, &dpt(&second).with("mark", "hold")).await.unwrap(), [""; 0], "it is still held");
    assert_eq!(world.converge_by(&it, &dpt(&second).with("mark", "none")).await.unwrap(), ["mark changed 'hold' to 'none'"]);
    assert_eq!(
        world.converge_by(&it, &package("dpt").with("provider", "dpkg").with("ensure", "absent")).await.unwrap(),
        ["removed"]
    );
    assert!(world.exists("/etc/dpt.conf"));
    assert_eq!(
        world.converge_by(&it, &package("dpt").with("provider", "dpkg").with("ensure", "purged")).await.unwrap(),
        ["purged"]
    );
    assert!(!world.exists("/etc/dpt.conf"));
    let error = world.converge_by(&it, &dpt("/nonexistent.deb")).await.unwrap_err();
    assert!(error.contains("dpkg ended with") && error.contains("nonexistent"), "{error}");
    let error = world.converge_by(&it, &Resource::new("Package", "dpt").with("provider", "apt")).await.unwrap_err();
    assert!(error.contains("inside that root"), "{error}");
}

#[tokio::test]
async fn ranges_stand_for_the_highest_version_in_them() {
    let (world, fakes) = (World::new(), Fakes::new());
    let status = world.context().root().path().join("var/lib/dpkg/status");
    dpkg_status(&world, "install ok installed", "1.0-1");
    fakes.add("apt-cache", "printf ' web | 2.0-1 | x\\n web | 1.10-1 | x\\n web | 1.9-1 | x\\n'");
    fakes.add(
        "apt-get",
        &format!(
            "for last; do :; done; printf 'Package: web\\nStatus: install ok installed\\nVersion: %s\\n' ${{last#web=}} > {}",
            status.display()
        ),
    );
    let web = |ensure: &str| package("web").with("provider", "apt").with("ensure", ensure);
    let it = provider(&fakes);
    assert_eq!(world.converge_by(&it, &web(">=1.0 <2.0~")).await.unwrap(), [""; 0]);
    assert_eq!(world.converge_by(&it, &web(">1.0-1 <2.0")).await.unwrap(), ["ensure changed '1.0-1' to '>1.0-1 <2.0'"]);
    assert!(fakes.calls().iter().any(|call| call.ends_with("install web=1.10-1")));
    assert!(world.converge_by(&it, &web(">3")).await.unwrap_err().contains("no version that could be installed is in >3"));
    fake_rpm(&fakes);
    fakes.add(
        "dnf",
        "case \"$*\" in\n*list*) printf 'Available Packages\\nweb.noarch 0:1.2-1 base\\nweb.noarch 1.3-1 base\\n';;\n\
        *web-1.3-1*) echo 'web 0 1.3 1 noarch' > version;;\nesac",
    );
    assert_eq!(
        world.converge_by(&it, &package("web").with("provider", "dnf").with("ensure", ">1.2-1")).await.unwrap(),
        ["created"]
    );
}
