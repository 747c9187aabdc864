//! Progress bars for scan and fetch, on a terminal only.

use std::io::IsTerminal as _;

use direct_puppet_agent::{Agent, RunEvent};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

/// A task that draws; aborted when dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Draws the events of `agent`, if standard error is a terminal and text is printed.
    pub(crate) fn start<T: direct_puppet_transport::Transport>(agent: &Agent<T>, is_json: bool) -> Self {
        if is_json || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let mut events = agent.events();
        Self(Some(tokio::spawn(async move {
            let mut bar: Option<(&'static str, ProgressBar)> = None;
            while let Some(event) = events.next().await {
                match event {
                    RunEvent::Scanned { files, total } if total > 0 => draw(&mut bar, "scan", files, total),
                    RunEvent::Fetched { bytes, total_bytes, .. } if total_bytes > 0 => {
                        draw(&mut bar, "fetch", bytes, total_bytes);
                    }
                    RunEvent::Finished(_) => break,
                    _ => {}
                }
            }
            if let Some((_, bar)) = bar {
                bar.finish_and_clear();
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

fn draw(bar: &mut Option<(&'static str, ProgressBar)>, what: &'static str, done: u64, total: u64) {
    if bar.as_ref().is_none_or(|(drawn, _)| *drawn != what) {
        if let Some((_, old)) = bar.take() {
            old.finish_and_clear();
        }
        let template = if what == "fetch" {
            "{prefix:>5} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}"
        } else {
            "{prefix:>5} [{bar:40}] {pos}/{len} files"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        *bar = Some((what, ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(what)));
    }
    if let Some((_, bar)) = bar {
        bar.set_position(done);
    }
}
