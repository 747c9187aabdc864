//! Init scripts, commands that the resource gives, and signals.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::parameters::{Enable, Kind};
use super::{Service, processes};
use crate::provider::programs::{Programs, failure};

/// How long a process that was told to end is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Returns whether init scripts are enabled as Debian does it.
pub(super) fn has_update_rc(programs: &Programs<'_>) -> bool {
    programs.has("update-rc.d")
}

impl Service<'_> {
    /// Returns the command that the resource gives for a verb.
    pub(super) fn own_command(&self, verb: &str) -> Option<&str> {
        match verb {
            "start" => self.parameters.start.as_deref(),
            "stop" => self.parameters.stop.as_deref(),
            "status" => self.parameters.status.as_deref(),
            _ => self.parameters.restart.as_deref(),
        }
    }

    /// Runs a command that the resource gives, by a shell.
    pub(super) async fn shell(&self, command: &str) -> Result<(), String> {
        self.programs.answer(&["/bin/sh", "-c", command]).await.map(drop)
    }

    /// Finds the init script: by its name, then with `.sh` behind it.
    fn script(&self) -> Result<String, String> {
        let name = &self.parameters.name;
        let candidates = [name.clone(), format!("{name}.sh")].into_iter();
        let mut paths = candidates.flat_map(|name| self.parameters.path.iter().map(move |path| format!("{path}/{name}")));
        paths
            .find(|path| Path::new(path).is_file())
            .ok_or_else(|| format!("there is no init script {name} in {}", self.parameters.path.join(":")))
    }

    pub(super) async fn script_is_running(&self) -> Result<bool, String> {
        let has_status = self.parameters.has_status;
        let argv: Vec<String> = match (&self.parameters.status, self.kind) {
            (Some(command), _) => ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
            (None, Kind::Debian) if has_status && self.programs.has("service") => {
                ["service", &self.parameters.name, "status"].map(str::to_owned).to_vec()
            }
            (None, Kind::Debian | Kind::Init) if has_status => vec![self.script()?, "status".to_owned()],
            _ => {
                let pattern = self.parameters.pattern.clone();
                let found = tokio::task::spawn_blocking(move || processes::find(&pattern)).await;
                return Ok(found.map_err(|error| error.to_string())??.is_some());
            }
        };
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(self.programs.run(&argv, None).await?.status.success())
    }

    pub(super) async fn script_act(&self, verb: &str) -> Result<(), String> {
        if let Some(command) = self.own_command(verb) {
            return self.shell(command).await;
        }
        match (self.kind, verb) {
            (Kind::Debian | Kind::Init, "restart") if self.parameters.has_restart => {
                self.programs.answer(&[&self.script()?, verb]).await.map(drop)
            }
            (_, "restart") => {
                Box::pin(self.script_act("stop")).await?;
                Box::pin(self.script_act("start")).await
            }
            (Kind::Debian | Kind::Init, _) => self.programs.answer(&[&self.script()?, verb]).await.map(drop),
            (_, "start") => match &self.parameters.binary {
                Some(binary) => self.shell(binary).await,
                None => Err("give start or binary: there is nothing else that could start it".to_owned()),
            },
            _ => self.terminate().await,
        }
    }

    /// Tells the process that matches the pattern to end, and waits for that.
    async fn terminate(&self) -> Result<(), String> {
        let find = || {
            let pattern = self.parameters.pattern.clone();
            async move {
                let found = tokio::task::spawn_blocking(move || processes::find(&pattern)).await;
                found.map_err(|error| error.to_string())?
            }
        };
        let Some(raw) = find().await? else { return Ok(()) };
        let pid = Pid::from_raw(raw).ok_or("the process has no number")?;
        kill_process(pid, Signal::TERM).map_err(|error| format!("process {raw} could not be told to end: {error}"))?;
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        while find().await? == Some(raw) {
            if tokio::time::Instant::now() > deadline {
                return Err(format!("process {raw} still runs {STOP_LIMIT:?} after it was told to end"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Finds out by `invoke-rc.d` whether an init script starts with the system; its statuses are those of `policy-rc.d`.
    pub(super) async fn debian_enabled(&self) -> Result<Enable, String> {
        let argv = ["invoke-rc.d", "--quiet", "--query", &self.parameters.name, "start"];
        let output = self.programs.run(&argv, None).await?;
        Ok(match output.status.code() {
            Some(104 | 106) => Enable::Yes,
            // Forbidden by a policy, or not known: what the links of runlevels say.
            Some(101 | 105) if self.start_links() >= 4 => Enable::Yes,
            Some(_) => Enable::No,
            None => return Err(failure(&argv, &output)),
        })
    }

    /// Counts the runlevels in which the script is started.
    fn start_links(&self) -> usize {
        let name = self.parameters.name.trim_end_matches(".service");
        let etc = self.programs.context.root().path().join("etc");
        let levels = ["0", "1", "2", "3", "4", "5", "6", "S"];
        let is_start = |file: &str| {
            let rest = file.strip_prefix('S').and_then(|rest| rest.get(2..));
            rest == Some(name)
        };
        let links = |level: &str| {
            let entries = std::fs::read_dir(etc.join(format!("rc{level}.d"))).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_str().is_some_and(is_start)).count()
        };
        levels.into_iter().map(links).sum()
    }

    pub(super) async fn debian_set_enabled(&self, enable: Enable) -> Result<(), String> {
        let name = &self.parameters.name;
        if enable == Enable::Yes {
            // Links that say that it is disabled would stay otherwise.
            self.programs.answer(&["update-rc.d", "-f", name, "remove"]).await?;
            return self.programs.answer(&["update-rc.d", name, "defaults"]).await.map(drop);
        }
        self.programs.answer(&["update-rc.d", name, "disable"]).await.map(drop)
    }
}
