//! A real Puppet Server of Debian's package, with directories, certificates and a port of its own: nothing of an installed one is touched.
//!
//! It is set up as its documentation says for static catalogs: `environment_timeout = unlimited`, and commands that name a version of the code
//! and print a file of it, here the cheapest there can be (`echo` and `cat`; sites run git). One JRuby and 1 GiB of heap are the package's
//! own settings on two cores. Reports, PuppetDB, the access log and its own authority are off.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::Method;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::measure::Sample;
use crate::paths::free_address;
use crate::peers::{copy, find, peer, prepare};
use crate::programs::check_ins::SERVER_NAME;
use crate::requests::{Client, Question};
use crate::serving::{Serving, thread_cpu_ms};

/// Where the package has its configuration, of which the rules of access, the routes and the list of services are taken as they are.
const PACKAGE: &str = "/etc/puppet/puppetserver";

/// The program; with the arguments it is the command of the package's unit.
const JAR: &str = "/usr/share/puppetserver/puppetserver.jar";
const JAVA: [&str; 4] =
    ["-Xms1g", "-Xmx1g", "-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger", "-Djruby.lib=/usr/share/jruby/lib"];

/// The service of the authority, and the one in its place where another is the authority.
const AUTHORITY: &str = "puppetlabs.services.ca.certificate-authority-service/certificate-authority-service";
const NO_AUTHORITY: &str = "puppetlabs.services.ca.certificate-authority-disabled-service/certificate-authority-disabled-service";

/// How long it may take to start; on a machine with load it is some minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server that answers an agent of Puppet; it is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) serving: Serving,
    pub(crate) client: Client,
    /// When it was executed.
    pub(crate) begun: Instant,
    /// Removed after it has ended.
    #[expect(dead_code, reason = "it is held")]
    pub(crate) dir: Option<TempDir>,
}

impl Running {
    /// Returns the CPU time of all its processes, and the time since it was executed.
    pub(crate) fn so_far(&self) -> anyhow::Result<Sample> {
        let wall_ms = self.begun.elapsed().as_secs_f64() * 1e3;
        // The account of all is kept in ticks of ten milliseconds, which is more than a start may take.
        let cpu_ms = self.serving.tree_cpu_ms()?.max(thread_cpu_ms(self.serving.id())?);
        Ok(Sample { cpu_ms, wall_ms, max_rss_bytes: 0 })
    }
}

/// Starts a Puppet Server that has the environment `production` and certificates from `ssldir`, and waits until it says that it runs.
pub(crate) fn start(bench: &Bench, environment: &Path, ssldir: &Path) -> anyhow::Result<Running> {
    find("puppetserver")?;
    let java = find("java")?;
    let dir = bench.scratch("puppet-server")?;
    for below in ["conf", "conf.d", "services.d", "run", "log", "var"] {
        fs::create_dir(dir.path().join(below))?;
    }
    copy(environment, &dir.path().join("code/environments/production"))?;
    copy(ssldir, &dir.path().join("ssl"))?;
    let address: SocketAddr = free_address()?.parse()?;
    configure(dir.path(), address)?;
    let client = Client::new(&dir.path().join("ssl"), address)?;
    let mut command = Command::new(java);
    command.args(JAVA).args(["-jar", JAR, "--config", "conf.d", "--bootstrap-config", "services.d"]);
    command.args(["--restart-file", "run/restart"]).current_dir(dir.path());
    command.env("LC_ALL", "C.UTF-8").stderr(fs::File::create(dir.path().join("log/stderr"))?);
    let begun = Instant::now();
    let serving = Serving::start_slow(&mut command, PATIENCE, || is_running(&client)).with_context(|| why_not(dir.path()))?;
    Ok(Running { serving, client, begun, dir: Some(dir) })
}

/// Whether a server says that it runs: Puppet's, and ours.
pub(crate) fn is_running(client: &Client) -> bool {
    let path = "/status/v1/simple/server".to_owned();
    let headers = vec![("accept", "text/plain".to_owned())];
    let question = Question { method: Method::GET, path, headers, body: bytes::Bytes::new() };
    client.ask(&question).is_ok_and(|answer| answer.starts_with(b"running"))
}

/// Returns the first error that it has logged; those that follow come from it.
fn why_not(dir: &Path) -> String {
    let said = ["log/puppetserver.log", "log/stderr"].map(|log| fs::read_to_string(dir.join(log)).unwrap_or_default());
    let mut lines = said.iter().flat_map(|log| log.lines());
    let first = lines.find(|line| line.contains("ERROR") || line.contains("rror:") || line.contains("Exception"));
    format!("Puppet Server did not start: {}", first.unwrap_or("it logged no error"))
}

fn configure(dir: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let (at, port) = (dir.display(), address.port());
    // It runs as whoever runs this.
    let (user, group) = (prepare(peer("id")?.arg("-un"))?, prepare(peer("id")?.arg("-gn"))?);
    let (user, group) = (String::from_utf8_lossy(&user).trim().to_owned(), String::from_utf8_lossy(&group).trim().to_owned());
    let settings = format!(
        "[main]\ncertname = {SERVER_NAME}\nserver = {SERVER_NAME}\nconfdir = {at}/conf\ncodedir = {at}/code\nvardir = {at}/var\n\
         ssldir = {at}/ssl\nrundir = {at}/run\nlogdir = {at}/log\ncertificate_revocation = false\nenvironment_timeout = unlimited\n\
         [server]\nstatic_catalogs = true\nstoreconfigs = false\nreports = none\nuser = {user}\ngroup = {group}\n"
    );
    fs::write(dir.join("conf/puppet.conf"), settings)?;
    let services = format!(
        "global: {{ logging-config: {at}/logback.xml }}\n\
         webserver: {{ client-auth: want, ssl-host: 127.0.0.1, ssl-port: {port}, ssl-cert: {at}/ssl/certs/{SERVER_NAME}.pem,\n\
           ssl-key: {at}/ssl/private_keys/{SERVER_NAME}.pem, ssl-ca-cert: {at}/ssl/certs/ca.pem }}\n\
         jruby-puppet: {{ ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby], gem-home: {at}/var/jruby-gems,\n\
           gem-path: [{at}/var/jruby-gems, /usr/lib/puppetserver/vendored-jruby-gems], max-active-instances: 1,\n\
           server-conf-dir: {at}/conf, server-code-dir: {at}/code, server-var-dir: {at}/var, server-run-dir: {at}/run,\n\
           server-log-dir: {at}/log }}\n\
         versioned-code: {{ code-id-command: {at}/code-id, code-content-command: {at}/code-content }}\n\
         product: {{ check-for-updates: false }}\n"
    );
    fs::write(dir.join("conf.d/all.conf"), services)?;
    let logging = format!(
        "<configuration><appender name=\"F\" class=\"ch.qos.logback.core.FileAppender\"><file>{at}/log/puppetserver.log</file>\
         <encoder><pattern>%d %p %m%n</pattern></encoder></appender><root level=\"warn\"><appender-ref ref=\"F\"/></root></configuration>\n"
    );
    fs::write(dir.join("logback.xml"), logging)?;
    script(&dir.join("code-id"), "echo bench1")?;
    script(&dir.join("code-content"), &format!("exec cat '{at}/code/environments/'\"$1/$3\""))?;
    for name in ["auth.conf", "metrics.conf", "web-routes.conf"] {
        take(&format!("conf.d/{name}"), dir, |text| text)?;
    }
    take("services.d/bootstrap.cfg", dir, |text| text)?;
    take("services.d/ca.cfg", dir, |text| {
        let active = text.lines().filter(|line| !line.starts_with('#'));
        active.map(|line| if line.trim() == AUTHORITY { NO_AUTHORITY } else { line }).collect::<Vec<_>>().join("\n") + "\n"
    })
}

fn script(path: &Path, command: &str) -> anyhow::Result<()> {
    fs::write(path, format!("#!/bin/sh\n{command}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Takes a file of the package.
fn take(name: &str, dir: &Path, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    let path = Path::new(PACKAGE).join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("{}, of the package puppetserver", path.display()))?;
    Ok(fs::write(dir.join(name), change(text))?)
}
