//! systemd, through `systemctl`.

use super::parameters::Enable;
use super::{Service, scripts};
use crate::provider::programs::failure;

/// Bytes of the journal that an error repeats.
const MAX_JOURNAL_BYTES: usize = 4096;

impl Service<'_> {
    async fn systemctl(&self, arguments: &[&str]) -> Result<String, String> {
        let argv = [&["systemctl"], arguments, &["--", &self.parameters.name]].concat();
        self.programs.answer(&argv).await
    }

    pub(super) async fn systemd_is_active(&self) -> Result<bool, String> {
        let argv = ["systemctl", "is-active", "--", self.parameters.name.as_str()];
        let output = self.programs.run(&argv, None).await?;
        // Whatever else it says: a unit that is not known is not running. A systemd that cannot be asked is another matter.
        let text = output.text();
        if text.contains("Failed to connect to bus") || text.contains("not been booted with systemd") {
            return Err(failure(&argv, &output));
        }
        Ok(output.status.success())
    }

    /// Finds out whether the service starts with the system; `None` when that cannot be changed, as for a static unit.
    pub(super) async fn systemd_enabled(&self) -> Result<Option<Enable>, String> {
        let argv = ["systemctl", "is-enabled", "--", self.parameters.name.as_str()];
        let output = self.programs.run(&argv, None).await?;
        let said = String::from_utf8_lossy(output.stdout()).trim().to_owned();
        let wants_mask = self.parameters.enable == Some(Enable::Masked);
        Ok(match said.as_str() {
            "masked" | "masked-runtime" => Some(if wants_mask { Enable::Masked } else { Enable::No }),
            "static" => wants_mask.then_some(Enable::Yes),
            "indirect" => wants_mask.then_some(Enable::No),
            // An init script that systemd runs: older versions say nothing of it.
            "" if !output.status.success() && scripts::has_update_rc(&self.programs) => Some(self.debian_enabled().await?),
            _ if output.status.success() => Some(Enable::Yes),
            _ => Some(Enable::No),
        })
    }

    pub(super) async fn systemd_set_enabled(&self, enable: Enable) -> Result<(), String> {
        match enable {
            Enable::Yes => {
                self.systemctl(&["unmask"]).await?;
                self.systemctl(&["enable"]).await.map(drop)
            }
            Enable::No => self.systemctl(&["disable"]).await.map(drop),
            Enable::Masked => {
                // One that does not exist can be masked, but not disabled.
                if self.systemctl(&["cat"]).await.is_ok() {
                    self.systemctl(&["disable"]).await?;
                }
                self.systemctl(&["mask"]).await.map(drop)
            }
        }
    }

    async fn reload_if_needed(&self) -> Result<(), String> {
        let needed = self.systemctl(&["show", "--property=NeedDaemonReload"]).await.unwrap_or_default();
        if needed.trim().ends_with("=yes") {
            self.programs.answer(&["systemctl", "daemon-reload"]).await?;
        }
        Ok(())
    }

    /// Does what changes whether the service runs: `start`, `stop`, `restart`. What the journal says of a failure is told.
    pub(super) async fn systemd_act(&self, verb: &str) -> Result<(), String> {
        if verb != "stop" {
            self.reload_if_needed().await?;
        }
        let own = self.own_command(verb);
        let done = match own {
            Some(command) => self.shell(command).await,
            None => {
                if verb == "start" {
                    self.systemctl(&["unmask"]).await?;
                }
                self.systemctl(&[verb]).await.map(drop)
            }
        };
        let Err(reason) = done else { return Ok(()) };
        let journal = ["journalctl", "-n", "50", "--since", "5 minutes ago", "-u", &self.parameters.name, "--no-pager"];
        let said = self.programs.answer(&journal).await.unwrap_or_default();
        let mut from = said.len().saturating_sub(MAX_JOURNAL_BYTES);
        while !said.is_char_boundary(from) {
            from += 1;
        }
        let said = said[from..].trim();
        Err(if said.is_empty() { reason } else { format!("{reason}; the journal says: {said}") })
    }
}
