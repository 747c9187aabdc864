//! Growth plots: lines on logarithmic scales, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Room around the plane for labels: left, right, top, bottom.
const ROOM: [f64; 4] = [70.0, 150.0, 40.0, 50.0];
/// Colours that can be told apart, also by those who see few of them (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Both more than zero.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
}

/// A logarithmic scale over whole decades.
struct Scale {
    from: i32,
    to: i32,
    start: f64,
    end: f64,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let most = values.fold(f64::NEG_INFINITY, f64::max).log10().ceil();
        // Every figure of this program is within these decades.
        let decade = |at: f64| (-30..=30).find(|decade| f64::from(*decade) >= at).unwrap_or(0);
        let (from, to) = (decade(least), decade(most));
        Self { from, to: to.max(from + 1), start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.from..=self.to).map(|decade| 10_f64.powi(decade))
    }
}

impl Plot<'_> {
    /// Draws lines; `None` when there is no point.
    pub(crate) fn draw(&self, lines: &[Line]) -> Option<String> {
        let lines: Vec<Line> = lines.iter().map(Line::drawable).filter(|line| !line.points.is_empty()).collect();
        let points = lines.iter().flat_map(|line| line.points.iter().copied());
        points.clone().next()?;
        let x = Scale::over(points.clone().map(|point| point.0), ROOM[0], WIDTH - ROOM[1]);
        let y = Scale::over(points.map(|point| point.1), HEIGHT - ROOM[3], ROOM[2]);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}",
            text(WIDTH / 2.0, 22.0, "middle", self.title)
        );
        for value in x.decades() {
            line(&mut svg, (x.at(value), y.start), (x.at(value), y.end));
            svg += &text(x.at(value), y.start + 18.0, "middle", &short(value));
        }
        for value in y.decades() {
            line(&mut svg, (x.start, y.at(value)), (x.end, y.at(value)));
            svg += &text(x.start - 8.0, y.at(value) + 4.0, "end", &short(value));
        }
        svg += &text(f64::midpoint(x.start, x.end), HEIGHT - 12.0, "middle", self.x);
        svg += &text(x.start, ROOM[2] - 8.0, "end", self.y);
        for (number, drawn) in lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let at: Vec<String> = drawn.points.iter().map(|point| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1))).collect();
            let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", at.join(" "));
            for point in &at {
                let (cx, cy) = point.split_once(',').unwrap_or_default();
                let _ = writeln!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>");
            }
            let height = ROOM[2] + 16.0 * (f64::from(u32::try_from(number).unwrap_or(0)) + 1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                x.end + 10.0,
                height - 9.0
            );
            svg += &text(x.end + 25.0, height, "start", &drawn.name);
        }
        Some(svg + "</svg>\n")
    }
}

impl Line {
    /// A logarithm has no place for zero.
    fn drawable(&self) -> Self {
        let is_drawable = |point: &(f64, f64)| point.0.is_normal() && point.0 > 0.0 && point.1.is_normal() && point.1 > 0.0;
        Self { name: self.name.clone(), points: self.points.iter().copied().filter(is_drawable).collect() }
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>\n")
}

/// Returns a decade for people.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} M", value / 1e6),
        _ if value >= 1e3 => format!("{} k", value / 1e3),
        _ => format!("{}", (value * 1e9).round() / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT: Plot<'static> = Plot { title: "a < b", x: "files", y: "ms" };

    #[test]
    fn a_line_that_grows_in_proportion_is_straight() {
        let line = Line { name: "ours".to_owned(), points: vec![(1e3, 1.0), (1e4, 10.0), (1e5, 100.0)] };
        let svg = PLOT.draw(&[line]).unwrap();
        // 420 wide over two decades, 310 high over two.
        assert!(svg.contains("points=\"70.0,350.0 280.0,195.0 490.0,40.0\""), "{svg}");
        assert!(svg.contains(">a &lt; b</text>"), "{svg}");
        assert!(svg.contains(">10 k</text>") && !svg.contains(">0.1</text>"), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn what_a_logarithm_has_no_place_for_is_left_out() {
        let line = |points| Line { name: "ours".to_owned(), points };
        assert_eq!(PLOT.draw(&[]), None);
        assert_eq!(PLOT.draw(&[line(vec![(0.0, 1.0), (1.0, f64::NAN), (1.0, -1.0)])]), None);
        let svg = PLOT.draw(&[line(vec![(1.0, 0.5), (10.0, 0.0)]), line(Vec::new())]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert_eq!(svg.matches("<polyline").count(), 1);
    }
}
