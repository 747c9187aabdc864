//! Contenders that run in turns, A B A B, so that what else the machine does hits all of them alike.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// What one turn cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// User and system time of the process and of all that it waited for.
    pub(crate) cpu_ms: f64,
    pub(crate) wall_ms: f64,
    /// Peak memory of the largest process.
    pub(crate) max_rss_bytes: u64,
}

/// What a ratio is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Basis {
    Cpu,
    Wall,
}

impl Sample {
    pub(crate) const fn of(&self, basis: Basis) -> f64 {
        match basis {
            Basis::Cpu => self.cpu_ms,
            Basis::Wall => self.wall_ms,
        }
    }
}

/// Something that can be run again and again.
pub(crate) struct Contender<'a> {
    name: String,
    turn: Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    /// Returns a contender that measures itself.
    pub(crate) fn new(name: impl Into<String>, turn: impl FnMut() -> anyhow::Result<Sample> + 'a) -> Self {
        Self { name: name.into(), turn: Box::new(turn) }
    }

    /// Returns a contender that is a whole process; what `make` does beside making the command is not measured. `exit_code` is the one
    /// of success.
    pub(crate) fn process(
        name: impl Into<String>,
        exit_code: i32,
        mut make: impl FnMut() -> anyhow::Result<Command> + 'a,
    ) -> Self {
        Self::new(name, move || whole_process(&make()?, exit_code))
    }
}

/// How often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) count: usize,
    /// One more turn before, which is not counted.
    pub(crate) warm_up: bool,
}

/// What a contender's turns cost, or why there is no figure.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) samples: Result<Vec<Sample>, String>,
}

impl Series {
    /// Returns the median of one figure.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.as_ref().ok()?.iter().map(figure).collect())
    }

    /// Returns the median, over the rounds, of what this costs for each unit that the other costs.
    pub(crate) fn ratio_to(&self, other: &Self, basis: Basis) -> Option<f64> {
        let (ours, theirs) = (self.samples.as_ref().ok()?, other.samples.as_ref().ok()?);
        median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.of(basis) / theirs.of(basis)).collect())
    }
}

/// Runs all contenders in turns. One that fails is left out from then on.
pub(crate) fn in_turns(rounds: Rounds, mut contenders: Vec<Contender<'_>>) -> Vec<Series> {
    let mut series: Vec<Series> =
        contenders.iter().map(|contender| Series { name: contender.name.clone(), samples: Ok(Vec::new()) }).collect();
    for round in 0..rounds.count + usize::from(rounds.warm_up) {
        let is_counted = round > 0 || !rounds.warm_up;
        for (contender, series) in contenders.iter_mut().zip(&mut series) {
            let Ok(samples) = &mut series.samples else { continue };
            match (contender.turn)() {
                Ok(sample) if is_counted => samples.push(sample),
                Ok(_) => {}
                Err(error) => series.samples = Err(format!("{error:#}")),
            }
        }
    }
    series
}

/// Returns the median; of an even number the mean of the two in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.retain(|number| number.is_finite());
    numbers.sort_by(f64::total_cmp);
    let upper = *numbers.get(numbers.len() / 2)?;
    let lower = numbers[(numbers.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Runs a command to its end through a small process of this program, whose only child it is: the kernel's account of children is then
/// that of the command alone, and peak memory is not that of whoever made it.
pub(crate) fn whole_process(command: &Command, exit_code: i32) -> anyhow::Result<Sample> {
    let mut once = Command::new(std::env::current_exe().context("this program's own path")?);
    once.arg("once").arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => once.env(name, value),
            None => once.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        once.current_dir(dir);
    }
    let output = once.stdin(Stdio::null()).output().context("measuring process")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).with_context(|| said.trim().to_owned())?;
    if report.code != Some(exit_code) {
        let program = command.get_program().to_string_lossy().into_owned();
        let ended = report.code.map_or_else(|| "was killed".to_owned(), |code| format!("ended with exit code {code}"));
        bail!("{program} {ended}: {}", said.trim().lines().last().unwrap_or("it said nothing"));
    }
    Ok(report.sample)
}

/// What the measuring process prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) sample: Sample,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sample(cpu_ms: f64) -> Sample {
        Sample { cpu_ms, wall_ms: cpu_ms * 2.0, max_rss_bytes: 1 }
    }

    fn series(cpu_ms: &[f64]) -> Series {
        Series { name: "x".to_owned(), samples: Ok(cpu_ms.iter().copied().map(sample).collect()) }
    }

    #[test]
    fn a_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![f64::NAN, 1.0, f64::INFINITY]), Some(1.0));
    }

    #[test]
    fn a_ratio_is_made_round_by_round_so_that_a_slow_minute_does_not_count() {
        // The machine was ten times slower in the last two rounds.
        let (ours, theirs) = (series(&[1.0, 10.0, 10.0]), series(&[2.0, 20.0, 20.0]));
        assert_eq!(ours.ratio_to(&theirs, Basis::Cpu), Some(0.5));
        assert_eq!(ours.ratio_to(&theirs, Basis::Wall), Some(0.5));
        let missing = Series { name: "y".to_owned(), samples: Err("not installed".to_owned()) };
        assert_eq!(ours.ratio_to(&missing, Basis::Cpu), None);
    }

    #[test]
    fn contenders_take_turns_and_one_that_fails_is_left_out_with_its_reason() {
        let order = std::cell::RefCell::new(Vec::new());
        let contenders = vec![
            Contender::new("a", || {
                order.borrow_mut().push('a');
                Ok(sample(1.0))
            }),
            Contender::new("b", || {
                order.borrow_mut().push('b');
                if order.borrow().len() > 3 { bail!("broken") } else { Ok(sample(2.0)) }
            }),
        ];
        let series = in_turns(Rounds { count: 2, warm_up: true }, contenders);
        assert_eq!(order.into_inner(), ['a', 'b', 'a', 'b', 'a']);
        assert_eq!(series[0].samples.as_ref().unwrap().len(), 2);
        assert_eq!(series[1].samples, Err("broken".to_owned()));
    }
}
