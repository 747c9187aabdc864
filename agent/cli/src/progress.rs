//! Progress bars for scan and fetch, on a terminal only.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use direct_puppet_agent::{Agent, Phase, RunEvent};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

/// The bar of this process.
static BARS: Mutex<Bars> = Mutex::new(Bars { is_wanted: false, bar: None });

/// What is drawn.
struct Bars {
    /// A run goes on that may draw.
    is_wanted: bool,
    bar: Option<(&'static str, ProgressBar)>,
}

/// A task that draws; when dropped it draws no more, and nothing of it is left on the terminal.
#[derive(Debug)]
pub(crate) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Draws the events of `agent`, if standard error is a terminal and text is printed.
    pub(crate) fn start<T: direct_puppet_transport::Transport>(agent: &Agent<T>, is_json: bool) -> Self {
        if is_json || !io::stderr().is_terminal() {
            return Self(None);
        }
        let mut events = agent.events();
        bars().is_wanted = true;
        Self(Some(tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    RunEvent::Scanned { files, total } if total > 0 => bars().draw("scan", files, total),
                    RunEvent::Fetched { bytes, total_bytes, .. } if total_bytes > 0 => bars().draw("fetch", bytes, total_bytes),
                    RunEvent::Phase(Phase::Apply) => bars().clear(),
                    RunEvent::Finished(_) => break,
                    _ => {}
                }
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
            let mut bars = bars();
            bars.is_wanted = false;
            bars.clear();
        }
    }
}

fn bars() -> MutexGuard<'static, Bars> {
    BARS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints while no bar is on the terminal: it comes back below with the next step. What prints must not call this itself.
pub(crate) fn without_bar<R>(print: impl FnOnce() -> R) -> R {
    let mut bars = bars();
    bars.clear();
    print()
}

/// Standard error, without a bar where something is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        without_bar(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Bars {
    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn draw(&mut self, what: &'static str, done: u64, total: u64) {
        if !self.is_wanted {
            return;
        }
        if self.bar.as_ref().is_some_and(|(drawn, _)| *drawn != what) {
            self.clear();
        }
        let (_, bar) = self.bar.get_or_insert_with(|| (what, bar(what, total)));
        bar.set_position(done);
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = if what == "fetch" {
        "{prefix:>5} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}"
    } else {
        "{prefix:>5} [{bar:40}] {pos}/{len} files"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_after_the_run_and_nothing_is_left() {
        let mut bars = Bars { is_wanted: true, bar: None };
        bars.draw("scan", 1, 2);
        bars.draw("fetch", 1, 2);
        let (drawn, bar) = bars.bar.as_ref().map(|(drawn, bar)| (*drawn, bar.clone())).unwrap();
        assert_eq!(drawn, "fetch");
        bars.is_wanted = false;
        bars.clear();
        assert!(bar.is_finished() && bars.bar.is_none());
        bars.draw("scan", 2, 2);
        assert!(bars.bar.is_none());
    }
}
