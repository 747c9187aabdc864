//! The goals table: rows, what they are judged by, and how they are printed.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize};

use crate::measure::{Basis, Sample, Series};

/// What a figure is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Milliseconds,
    Bytes,
    Count,
}

/// A figure with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantity {
    /// NaN, null in JSON, where there is none.
    #[serde(deserialize_with = "nan_if_null")]
    pub(crate) value: f64,
    pub(crate) unit: Unit,
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// What is wanted of a ratio or of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Shown only.
    None,
}

/// What became of a goal. Only [`Verdict::Met`] is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    NotMet,
    /// It could not be measured here.
    Gap,
    /// There is no goal.
    Shown,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The heading of the path that it belongs to.
    pub(crate) path: String,
    pub(crate) ours: String,
    pub(crate) figure: Option<Quantity>,
    /// Wall time of the same turns, where the ratio is one of CPU time; CPU time where it is one of wall time.
    pub(crate) beside: Option<Quantity>,
    pub(crate) other: Option<String>,
    pub(crate) other_figure: Option<Quantity>,
    pub(crate) other_beside: Option<Quantity>,
    pub(crate) basis: Option<Basis>,
    /// Ours for each unit of the other's; where more is better, the other way round.
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Goal,
    pub(crate) verdict: Verdict,
    /// Why it is not met, or why there is no figure.
    pub(crate) reason: Option<String>,
    /// Every turn, for whoever wants to look closer.
    pub(crate) samples: Vec<Sample>,
    pub(crate) other_samples: Vec<Sample>,
}

/// The rows of one path.
#[derive(Debug)]
pub(crate) struct Rows {
    path: &'static str,
    pub(crate) rows: Vec<Row>,
}

impl Rows {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self { path, rows: Vec::new() }
    }

    /// Adds a row that compares two series: ours costs so many times the other's. `reason` is why, where the goal is not met.
    pub(crate) fn ratio(&mut self, ours: &Series, other: &Series, basis: Basis, goal: Goal, reason: &str) {
        self.compared(ours, other, basis, ours.ratio_to(other, basis), goal, reason);
    }

    /// As [`Rows::ratio`], where the goal is how many times faster than the other ours is.
    pub(crate) fn speed(&mut self, ours: &Series, other: &Series, basis: Basis, goal: Goal, reason: &str) {
        self.compared(ours, other, basis, other.ratio_to(ours, basis), goal, reason);
    }

    fn compared(&mut self, ours: &Series, other: &Series, basis: Basis, ratio: Option<f64>, goal: Goal, reason: &str) {
        let beside = if basis == Basis::Cpu { Basis::Wall } else { Basis::Cpu };
        let milliseconds = |series: &Series, basis: Basis| {
            let value = series.median(|sample| sample.of(basis)).filter(|value| *value > 0.0)?;
            Some(Quantity { value, unit: Unit::Milliseconds })
        };
        let mut row = self.row(&ours.name, goal);
        (row.figure, row.beside) = (milliseconds(ours, basis), milliseconds(ours, beside));
        (row.other_figure, row.other_beside) = (milliseconds(other, basis), milliseconds(other, beside));
        (row.other, row.basis, row.ratio) = (Some(other.name.clone()), Some(basis), ratio);
        (row.samples, row.other_samples) = (ours.samples.clone().unwrap_or_default(), other.samples.clone().unwrap_or_default());
        self.judge(row, ratio, reason, ours.samples.as_ref().err(), other.samples.as_ref().err());
    }

    /// Adds a row that compares two figures.
    pub(crate) fn figures(&mut self, ours: Named<'_>, other: Named<'_>, unit: Unit, goal: Goal, reason: &str) {
        let quantity = |named: &Named<'_>| named.1.as_ref().ok().map(|value| Quantity { value: *value, unit });
        let ratio = ours.1.as_ref().ok().zip(other.1.as_ref().ok()).map(|(ours, other)| ours / other);
        let mut row = self.row(ours.0, goal);
        (row.figure, row.other_figure) = (quantity(&ours), quantity(&other));
        (row.other, row.ratio) = (Some(other.0.to_owned()), ratio);
        self.judge(row, ratio, reason, ours.1.as_ref().err(), other.1.as_ref().err());
    }

    /// Adds a row whose goal is a figure.
    pub(crate) fn limit(&mut self, ours: Named<'_>, unit: Unit, goal: Goal, reason: &str) {
        let mut row = self.row(ours.0, goal);
        row.figure = ours.1.as_ref().ok().map(|value| Quantity { value: *value, unit });
        self.judge(row, ours.1.as_ref().ok().copied(), reason, ours.1.as_ref().err(), None);
    }

    fn row(&self, ours: &str, goal: Goal) -> Row {
        Row {
            path: self.path.to_owned(),
            ours: ours.to_owned(),
            figure: None,
            beside: None,
            other: None,
            other_figure: None,
            other_beside: None,
            basis: None,
            ratio: None,
            goal,
            verdict: Verdict::Gap,
            reason: None,
            samples: Vec::new(),
            other_samples: Vec::new(),
        }
    }

    /// Ours that fails is a goal not met; a peer that is missing or broken is a gap, and never a pass.
    fn judge(&mut self, mut row: Row, judged: Option<f64>, reason: &str, failed: Option<&String>, missing: Option<&String>) {
        (row.verdict, row.reason) = match (failed, missing, judged) {
            (Some(failed), _, _) if failed.starts_with("gap: ") => (Verdict::Gap, Some(failed["gap: ".len()..].to_owned())),
            (Some(failed), _, _) => (Verdict::NotMet, Some(format!("failed: {failed}"))),
            (None, Some(missing), _) => (Verdict::Gap, Some(missing.clone())),
            (None, None, None) => (Verdict::Gap, Some("no figure".to_owned())),
            (None, None, Some(_)) if row.goal == Goal::None => (Verdict::Shown, None),
            (None, None, Some(judged)) if row.goal.is_met_by(judged) => (Verdict::Met, None),
            (None, None, Some(_)) => (Verdict::NotMet, Some(reason.to_owned()).filter(|reason| !reason.is_empty())),
        };
        self.rows.push(row);
    }
}

/// A figure and what it is of, or why there is none. A reason that begins with "gap: " is one that lies outside of ours.
pub(crate) type Named<'a> = (&'a str, Result<f64, String>);

impl Goal {
    fn is_met_by(self, judged: f64) -> bool {
        match self {
            Self::AtMost(limit) => judged <= limit,
            Self::AtLeast(limit) => judged >= limit,
            Self::None => false,
        }
    }
}

impl Row {
    fn goal_text(&self) -> String {
        let number = |limit: f64| match self.figure {
            // A goal without another is one of the figure itself.
            Some(Quantity { unit, .. }) if self.other.is_none() => quantity(Quantity { value: limit, unit }),
            _ if limit < 0.01 => format!("1/{:.0}", 1.0 / limit),
            _ => format!("{limit} ×"),
        };
        match self.goal {
            Goal::AtMost(limit) => format!("≤ {}", number(limit)),
            Goal::AtLeast(limit) => format!("≥ {}", number(limit)),
            Goal::None => String::new(),
        }
    }

    fn ratio_text(&self) -> String {
        match self.ratio {
            Some(ratio) if ratio < 0.01 => format!("1/{:.0}", 1.0 / ratio),
            Some(ratio) if ratio < 10.0 => format!("{ratio:.2}"),
            Some(ratio) => format!("{ratio:.0}"),
            None => String::new(),
        }
    }

    const fn verdict_text(&self) -> &'static str {
        match self.verdict {
            Verdict::Met => "met",
            Verdict::NotMet => "**not met**",
            Verdict::Gap => "**gap**",
            Verdict::Shown => "",
        }
    }

    fn cells(&self) -> [String; 7] {
        let both = |first: Option<Quantity>, second: Option<Quantity>| match (self.basis, first, second) {
            (_, None, _) => "–".to_owned(),
            (_, Some(first), _) if first.value.is_nan() => "–".to_owned(),
            (Some(Basis::Cpu), Some(first), Some(second)) => format!("{} CPU, {} wall", quantity(first), quantity(second)),
            (Some(Basis::Cpu), Some(first), None) => format!("{} CPU", quantity(first)),
            (Some(Basis::Wall), Some(first), Some(second)) => format!("{} wall, {} CPU", quantity(first), quantity(second)),
            (_, Some(first), _) => quantity(first),
        };
        [
            self.ours.clone(),
            both(self.figure, self.beside),
            self.other.clone().unwrap_or_default(),
            if self.other.is_some() { both(self.other_figure, self.other_beside) } else { String::new() },
            self.ratio_text(),
            self.goal_text(),
            self.verdict_text().to_owned(),
        ]
    }
}

/// Returns a figure for people, with three digits that count.
fn quantity(Quantity { value, unit }: Quantity) -> String {
    let scaled = |value: f64, unit: &str| {
        let digits = if value >= 99.95 || value == value.round() { 0 } else { usize::from(value < 9.995) + 1 };
        format!("{value:.digits$} {unit}")
    };
    match unit {
        Unit::Milliseconds if value >= 1000.0 => scaled(value / 1e3, "s"),
        Unit::Milliseconds if value >= 1.0 => scaled(value, "ms"),
        Unit::Milliseconds => scaled(value * 1e3, "µs"),
        Unit::Bytes if value >= 1024.0 * 1024.0 => scaled(value / (1024.0 * 1024.0), "MiB"),
        Unit::Bytes if value >= 1024.0 => scaled(value / 1024.0, "KiB"),
        Unit::Bytes => scaled(value, "B"),
        Unit::Count => scaled(value, "").trim_end().to_owned(),
    }
}

/// Returns the table in Markdown, a part for each path, each with the reasons of its rows.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for part in rows.chunk_by(|a, b| a.path == b.path) {
        let path = part.first().map_or("", |row| &row.path);
        let _ = writeln!(text, "## {path}\n");
        text.push_str(&table(part));
    }
    text
}

/// Returns the table of one path, with the reasons of its rows.
pub(crate) fn table(part: &[Row]) -> String {
    let mut text = String::from("| Ours | | Against | | Ratio | Goal | |\n|---|---|---|---|---:|---|---|\n");
    for row in part {
        let _ = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text.push('\n');
    for row in part {
        if let Some(reason) = &row.reason {
            let other = row.other.as_ref().map(|other| format!(" against {other}")).unwrap_or_default();
            let _ = writeln!(text, "- {}{other}: {reason}.", row.ours);
        }
    }
    if part.iter().any(|row| row.reason.is_some()) {
        text.push('\n');
    }
    text
}

/// Returns how many goals there are, and how many are met.
pub(crate) fn score(rows: &[Row]) -> (usize, usize) {
    let goals = rows.iter().filter(|row| row.verdict != Verdict::Shown);
    (goals.clone().count(), goals.filter(|row| row.verdict == Verdict::Met).count())
}

#[cfg(test)]
mod tests;
