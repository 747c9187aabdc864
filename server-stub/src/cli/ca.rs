//! `ca`: the words of `puppetserver ca`, on the directory itself; a running server sees what was done within half a second.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use direct_puppet_agent::fs::write_state;
use direct_puppet_server_stub::Ca;
use direct_puppet_server_stub::ca::{CaOptions, CertificateStatus, Generate, Import, Setup};
use direct_puppet_transport::protocol::Certname;

/// Where Puppet Server 7 and later have the authority.
const DEFAULT_CADIR: &str = "/etc/puppetlabs/puppetserver/ca";

/// Verbs of `ca`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a certificate authority, and with --certname a certificate for this server.
    Setup(SetupArguments),
    /// Take over a certificate authority that was made elsewhere.
    Import(ImportArguments),
    /// List requests that wait; with --all every certificate too.
    List(ListArguments),
    /// Sign requests.
    Sign(SignArguments),
    /// Revoke certificates: a running server refuses them within a second.
    Revoke(Names),
    /// Revoke certificates, and remove them and their requests, so that the names can be used again.
    Clean(Names),
    /// Make keys and certificates here, for nodes that cannot ask.
    Generate(GenerateArguments),
    /// Make certificates anew, for the keys that have them.
    Renew(Names),
}

/// Where the authority is.
#[derive(Debug, Clone, Args)]
pub(super) struct Place {
    /// Directory of the certificate authority
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CADIR)]
    cadir: PathBuf,
}

/// A certificate for this server, with the authority.
#[derive(Debug, Args)]
struct OwnCertificate {
    /// Also make a certificate of this name, which may administrate the authority, and write it into --ssldir
    #[arg(long, value_name = "NAME", requires = "ssldir")]
    certname: Option<Certname>,
    /// Other names by which nodes reach it: puppet, DNS:puppet.example.com, IP:10.0.0.1
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "certname")]
    subject_alt_names: Vec<String>,
    /// Directory with certificates in Puppet's layout
    #[arg(long, value_name = "DIR")]
    ssldir: Option<PathBuf>,
}

/// Arguments of `ca setup`.
#[derive(Debug, Args)]
pub(super) struct SetupArguments {
    #[command(flatten)]
    place: Place,
    /// Name of the authority [default: "Puppet CA: " and this host's name]
    #[arg(long, value_name = "NAME")]
    ca_name: Option<String>,
    #[command(flatten)]
    own: OwnCertificate,
}

/// Arguments of `ca import`.
#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    #[command(flatten)]
    place: Place,
    /// Certificates in PEM: of the authority, and of those above it
    #[arg(long, value_name = "FILE")]
    cert_bundle: PathBuf,
    /// Their revocation lists in PEM
    #[arg(long, value_name = "FILE")]
    crl_chain: PathBuf,
    /// The authority's private key in PEM
    #[arg(long, value_name = "FILE")]
    private_key: PathBuf,
    #[command(flatten)]
    own: OwnCertificate,
}

/// Arguments of `ca list`.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    place: Place,
    /// List certificates too
    #[arg(long, short)]
    all: bool,
    /// List these names only
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    certname: Vec<Certname>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Which certificates.
#[derive(Debug, Args)]
pub(super) struct Names {
    #[command(flatten)]
    place: Place,
    /// Names, with commas between them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    certname: Vec<Certname>,
}

/// Arguments of `ca sign`.
#[derive(Debug, Args)]
pub(super) struct SignArguments {
    #[command(flatten)]
    place: Place,
    /// Names, with commas between them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "all")]
    certname: Vec<Certname>,
    /// Sign every request that waits
    #[arg(long, conflicts_with = "certname")]
    all: bool,
    /// How many seconds the certificates are valid [default: five years]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Sign also what asks for alternative names
    #[arg(long)]
    allow_subject_alt_names: bool,
    /// Sign also what asks for authorization extensions
    #[arg(long)]
    allow_authorization_extensions: bool,
}

/// Arguments of `ca generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    #[command(flatten)]
    place: Place,
    /// Names, with commas between them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    certname: Vec<Certname>,
    /// Other names by which they are reached
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subject_alt_names: Vec<String>,
    /// Let them administrate the authority: pp_cli_auth
    #[arg(long)]
    ca_client: bool,
    /// How many seconds the certificates are valid [default: five years]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Directory with certificates in Puppet's layout, for the keys and certificates
    #[arg(long, value_name = "DIR")]
    ssldir: PathBuf,
}

pub(super) async fn ca(verb: Verb) -> anyhow::Result<u8> {
    tokio::task::spawn_blocking(move || run(verb)).await?
}

fn run(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Setup(arguments) => {
            let name = arguments.ca_name.unwrap_or_else(|| format!("Puppet CA: {}", direct_puppet_agent::system::hostname()));
            let ca = Ca::create(&arguments.place.cadir, &Setup { name }, CaOptions::default())?;
            begun(&ca, arguments.own)
        }
        Verb::Import(arguments) => {
            let ImportArguments { place, cert_bundle: certificates, crl_chain: lists, private_key: key, own } = arguments;
            let ca = Ca::import(&place.cadir, &Import { certificates, lists, key }, CaOptions::default())?;
            begun(&ca, own)
        }
        Verb::List(arguments) => list(&arguments),
        Verb::Sign(arguments) => sign(arguments),
        Verb::Revoke(names) => {
            let unknown = open(&names.place, CaOptions::default())?.revoke(&names.certname)?;
            told(&names.certname, &unknown, "revoked", "no certificate of this name was issued here")
        }
        Verb::Clean(names) => {
            let unknown = open(&names.place, CaOptions::default())?.clean(&names.certname)?;
            told(&names.certname, &unknown, "cleaned", "no certificate and no request of this name is here")
        }
        Verb::Generate(arguments) => {
            let ca = open(&arguments.place, CaOptions::default())?;
            for name in arguments.certname {
                let generate = Generate {
                    name,
                    alternative_names: arguments.subject_alt_names.clone(),
                    is_administrator: arguments.ca_client,
                    ttl: arguments.ttl.map(Duration::from_secs),
                };
                generated(&ca, &generate, &arguments.ssldir)?;
            }
            Ok(0)
        }
        Verb::Renew(names) => {
            let ca = open(&names.place, CaOptions::default())?;
            for name in &names.certname {
                ca.renew(name)?;
                super::print_line(&format!("{name} renewed"));
            }
            Ok(0)
        }
    }
}

fn open(place: &Place, options: CaOptions) -> anyhow::Result<Ca> {
    Ok(Ca::open(&place.cadir, options)?)
}

/// Tells that an authority is there, and makes this server's certificate.
fn begun(ca: &Ca, own: OwnCertificate) -> anyhow::Result<u8> {
    super::print_line(&format!("certificate authority is in {}", ca.path().display()));
    if let (Some(name), Some(ssldir)) = (own.certname, own.ssldir) {
        let names = if own.subject_alt_names.is_empty() { vec!["puppet".to_owned()] } else { own.subject_alt_names };
        let generate = Generate { name, alternative_names: names, is_administrator: true, ttl: None };
        generated(ca, &generate, &ssldir)?;
    }
    Ok(0)
}

/// Makes a key and a certificate, and writes them where Puppet has them.
fn generated(ca: &Ca, generate: &Generate, ssldir: &Path) -> anyhow::Result<()> {
    let name = &generate.name;
    let path = |below: &str| ssldir.join(below).join(format!("{name}.pem"));
    if path("private_keys").exists() {
        bail!("{} is there already: nothing is overwritten; move it away first", path("private_keys").display());
    }
    for (below, mode) in [("", 0o771), ("certs", 0o755), ("public_keys", 0o755), ("private_keys", 0o750)] {
        use std::os::unix::fs::DirBuilderExt as _;
        let dir = ssldir.join(below);
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&dir);
        made.with_context(|| format!("could not make {}", dir.display()))?;
    }
    let made = ca.generate(generate)?;
    write_state(&path("private_keys"), made.key.as_bytes(), 0o600)?;
    write_state(&path("public_keys"), made.public_key.as_bytes(), 0o644)?;
    write_state(&path("certs"), made.certificate.as_bytes(), 0o644)?;
    for (from, to) in [("ca_crt.pem", "certs/ca.pem"), ("ca_crl.pem", "crl.pem")] {
        let (from, to) = (ca.path().join(from), ssldir.join(to));
        if !to.exists() {
            let content = std::fs::read(&from).with_context(|| format!("could not read {}", from.display()))?;
            write_state(&to, &content, 0o644)?;
        }
    }
    super::print_line(&format!(
        "{name} has its key in {} and its certificate in {}",
        path("private_keys").display(),
        path("certs").display()
    ));
    Ok(())
}

fn list(arguments: &ListArguments) -> anyhow::Result<u8> {
    let mut found = open(&arguments.place, CaOptions::default())?.statuses()?;
    let is_named = |status: &CertificateStatus| arguments.certname.iter().any(|name| name.as_str() == status.name);
    if arguments.certname.is_empty() {
        found.retain(|status| arguments.all || status.state == "requested");
    } else {
        found.retain(is_named);
    }
    let missing = arguments.certname.iter().filter(|name| !found.iter().any(|status| status.name == name.as_str()));
    let missing: Vec<&str> = missing.map(Certname::as_str).collect();
    if arguments.json {
        super::print_json(&found)?;
    } else {
        for status in &found {
            let names = if status.subject_alt_names.is_empty() {
                String::new()
            } else {
                format!(" alt names: {}", status.subject_alt_names.join(", "))
            };
            let extensions: String =
                status.authorization_extensions.iter().map(|(name, value)| format!(" {name}: {value}")).collect();
            super::print_line(&format!("{} {} (SHA256) {}{names}{extensions}", status.name, status.state, status.fingerprint));
        }
    }
    match missing.as_slice() {
        [] => Ok(0),
        missing => bail!("no certificate and no request of {} is here: \"ca list --all\" shows all that are", missing.join(", ")),
    }
}

fn sign(arguments: SignArguments) -> anyhow::Result<u8> {
    let options = CaOptions {
        allow_subject_alt_names: arguments.allow_subject_alt_names,
        allow_authorization_extensions: arguments.allow_authorization_extensions,
        ..CaOptions::default()
    };
    let ca = open(&arguments.place, options)?;
    let names = if arguments.all { ca.waiting()? } else { arguments.certname };
    let mut code = 0;
    for name in &names {
        match ca.sign(name, arguments.ttl.map(Duration::from_secs)) {
            Ok(()) => super::print_line(&format!("{name} signed")),
            Err(error) => {
                super::complain(&format!("{:#}", anyhow::Error::from(error)));
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Tells what came of names; exit code 1 when one is unknown.
fn told(names: &[Certname], unknown: &[Certname], done: &str, why: &str) -> anyhow::Result<u8> {
    for name in names.iter().filter(|name| !unknown.contains(name)) {
        super::print_line(&format!("{name} {done}"));
    }
    for name in unknown {
        super::complain(&format!("{name}: {why}"));
    }
    Ok(u8::from(!unknown.is_empty()))
}
