//! Pictures of figures, as SVG that is readable on light and on dark pages.

/// A picture beside the page.
pub(super) struct Chart {
    /// The name of its file, without the end.
    pub(super) name: &'static str,
    /// What it shows, for who cannot see it.
    pub(super) words: String,
    pub(super) svg: String,
}

/// A bar for each thing, in groups.
pub(super) struct Bar {
    pub(super) label: String,
    /// The parts that it is made of, by the number of their colour.
    pub(super) parts: Vec<f64>,
    /// What stands behind it.
    pub(super) figure: String,
}

/// One line over the number of something, both logarithmic.
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
/// The room for labels at the left of bars, and for figures at their right.
const LABELS: f64 = 190.0;
const FIGURES: f64 = 130.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;
/// What is drawn of lines, and the room around it.
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const BOTTOM: f64 = 48.0;
/// How near to each other two labels may be.
const APART: f64 = 16.0;

/// Colours for both kinds of page. The background is drawn too: a page may be dark where the reader's system is not.
const STYLE: &str = "<style>\
.back{fill:#ffffff}.ink{fill:#1f2328}.grid{stroke:#d1d9e0}\
.c0{fill:#0969da;stroke:#0969da}.c1{fill:#bc4c00;stroke:#bc4c00}.c2{fill:#1a7f37;stroke:#1a7f37}\
.c3{fill:#8250df;stroke:#8250df}.c4{fill:#59636e;stroke:#59636e}.line{fill:none;stroke-width:2}.bar{stroke:none}\
@media (prefers-color-scheme: dark){.back{fill:#0d1117}.ink{fill:#f0f6fc}.grid{stroke:#3d444d}\
.c0{fill:#58a6ff;stroke:#58a6ff}.c1{fill:#f0883e;stroke:#f0883e}.c2{fill:#3fb950;stroke:#3fb950}\
.c3{fill:#bc8cff;stroke:#bc8cff}.c4{fill:#9198a1;stroke:#9198a1}.line{fill:none}.bar{stroke:none}}\
</style>";

/// Bars from one line; `kinds` names the colours of their parts, if there are several.
pub(super) fn bars(title: &str, kinds: &[&str], bars: &[Bar]) -> String {
    let whole = |bar: &Bar| bar.parts.iter().sum::<f64>();
    let longest = bars.iter().map(whole).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - FIGURES) / longest;
    let mut body = String::new();
    let mut y = TOP;
    if kinds.len() > 1 {
        let mut x = LABELS;
        for (number, kind) in kinds.iter().enumerate() {
            body += &format!(
                "<rect class=\"bar {}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\"/>\n",
                colour(number),
                y - 11.0
            );
            body += &words(x + 18.0, y, "start", kind);
            x += 160.0;
        }
        y += ROW;
    }
    for bar in bars {
        body += &words(LABELS - 10.0, y, "end", &bar.label);
        let mut x = LABELS;
        for (number, part) in bar.parts.iter().enumerate() {
            let width = part * scale;
            body += &format!(
                "<rect class=\"bar {}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\"/>\n",
                colour(number),
                y - 13.0
            );
            x += width;
        }
        body += &words(x + 8.0, y, "start", &bar.figure);
        y += ROW;
    }
    page(title, y, &body)
}

/// Lines whose axes are both logarithmic; `unit` writes a figure at the left.
pub(super) fn lines(title: &str, below: &str, unit: fn(f64) -> String, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let numbers = points().map(|(x, _)| x.log10());
    let (left, right) =
        numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let [bottom, top] = decades(points().map(|(_, y)| y));
    let at = |x: f64, y: f64| {
        let part = |value: f64, from: f64, to: f64| (value.log10() - from) / (to - from).max(1e-9);
        let across = LEFT + part(x, left, right) * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - part(y, bottom, top) * (HEIGHT - BOTTOM - TOP))
    };
    let [start, end] = [10f64.powf(left), 10f64.powf(right)];
    let mut body = String::new();
    for decade in whole(bottom, top) {
        let (x, y) = at(start, 10f64.powf(decade));
        body += &rule(x, y, at(end, 1.0).0, y);
        body += &words(x - 8.0, y + 4.0, "end", &unit(10f64.powf(decade)));
    }
    let mut numbers: Vec<f64> = points().map(|(x, _)| x).collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.dedup();
    for number in numbers {
        let (x, y) = at(number, 10f64.powf(bottom));
        body += &rule(x, y, x, TOP);
        body += &words(x, y + 20.0, "middle", &number.to_string());
    }
    body += &words(LEFT, HEIGHT - 8.0, "start", below);
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let way: Vec<String> = line.points.iter().map(|(x, y)| at(*x, *y)).map(pair).collect();
        let class = colour(number);
        body += &format!("<polyline class=\"{class} line\" points=\"{}\"/>\n", way.join(" "));
        for (x, y) in line.points.iter().map(|(x, y)| at(*x, *y)) {
            body += &format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n");
        }
        ends.extend(line.points.last().map(|(x, y)| (at(*x, *y).1, number)));
    }
    ends.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = f64::MIN;
    for (y, number) in ends {
        let y = y.max(free);
        free = y + APART;
        let label = lines.get(number).map_or("", |line| line.label.as_str());
        let class = colour(number);
        body += &format!(
            "<text class=\"{class} bar\" x=\"{}\" y=\"{:.1}\">{}</text>\n",
            WIDTH - RIGHT + 10.0,
            y + 4.0,
            escaped(label)
        );
    }
    page(title, HEIGHT, &body)
}

fn page(title: &str, height: f64, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n<title>{title}</title>\n{STYLE}\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"ink\" x=\"12\" y=\"20\" font-weight=\"600\">{title}</text>\n{body}</svg>\n"
    )
}

fn words(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = escaped(text);
    format!(
        "<text class=\"ink\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

fn rule(x: f64, y: f64, to_x: f64, to_y: f64) -> String {
    format!(
        "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\"/>\n"
    )
}

fn colour(number: usize) -> &'static str {
    ["c0", "c1", "c2", "c3", "c4"].into_iter().cycle().nth(number).unwrap_or("c0")
}

fn pair((x, y): (f64, f64)) -> String {
    format!("{x:.1},{y:.1}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The powers of ten around some figures.
fn decades(figures: impl Iterator<Item = f64>) -> [f64; 2] {
    let logs: Vec<f64> = figures.filter(|figure| *figure > 0.0).map(f64::log10).collect();
    let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if least > most { [0.0, 1.0] } else { [least.floor(), most.ceil().max(least.floor() + 1.0)] }
}

/// The whole numbers from one to another.
fn whole(from: f64, to: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(from), |number| Some(number + 1.0))
        .take_while(move |number| *number <= to + 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_closed_and_escaped() {
        let bar = Bar { label: "a < b".into(), parts: vec![1.0, 2.0], figure: "3 & 4".into() };
        let svg = bars("bars", &["one", "two"], &[bar]);
        assert!(svg.contains("a &lt; b") && svg.contains("3 &amp; 4"), "{svg}");
        let line = Line { label: "check".into(), points: vec![(50.0, 0.1), (200.0, 0.4)] };
        let svg = lines("lines", "instances", |figure| format!("{figure} s"), &[line]);
        for shape in ["<svg", "<text", "<title"] {
            let end = shape.replace('<', "</");
            assert_eq!(
                svg.matches(&format!("{shape} ")).count()
                    + svg.matches(&format!("{shape}>")).count(),
                svg.matches(&format!("{end}>")).count(),
                "{svg}"
            );
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
