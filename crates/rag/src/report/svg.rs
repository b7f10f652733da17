//! Charts as inline SVG. Colours come from the page's style, so that they follow light and dark.
use super::text::seconds;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 42.0;

pub struct Line {
    /// Names a colour of the style: `s0`, `s1`, …
    pub class: String,
    /// One a category, 0 to 1.
    pub values: Vec<f64>,
}

/// Lines over named categories at equal steps; values 0 to 1.
pub fn lines(title: &str, categories: &[String], lines: &[Line]) -> String {
    let x = |i: usize| LEFT + (WIDTH - LEFT - RIGHT) * (i as f64 + 0.5) / categories.len().max(1) as f64;
    let mut out = open(title);
    out.push_str(&grid());
    for (i, category) in categories.iter().enumerate() {
        out.push_str(&text(x(i), HEIGHT - BOTTOM + 20.0, "middle", "tick", category));
    }
    for line in lines {
        let points: Vec<(f64, f64)> = line
            .values
            .iter()
            .enumerate()
            .map(|(i, &value)| (x(i), y(value)))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        out.push_str(&format!(
            "<polyline class=\"line {}\" points=\"{}\"/>",
            line.class,
            path.join(" ")
        ));
        for (x, y) in points {
            out.push_str(&format!(
                "<circle class=\"dot {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>",
                line.class
            ));
        }
    }
    out + "</svg>"
}

pub struct Point {
    /// Written beside it; may be empty.
    pub label: String,
    /// Told when it is pointed at.
    pub title: String,
    pub class: String,
    /// 0 or more.
    pub x: f64,
    /// Mean and interval, 0 to 1.
    pub y: [f64; 3],
}

/// Quality, with its interval, over seconds.
pub fn scatter(title: &str, points: &[Point]) -> String {
    let most = points.iter().map(|point| point.x).fold(0.0, f64::max).max(1e-3);
    let step = nice_step(most);
    let span = (most / step).ceil() * step;
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / span;
    let mut out = open(title);
    out.push_str(&grid());
    for i in 0..=(span / step).round() as usize {
        let at = i as f64 * step;
        let anchor = if i == 0 { "start" } else { "middle" };
        let anchor = if at > 0.97 * span { "end" } else { anchor };
        out.push_str(&text(
            x(at),
            HEIGHT - BOTTOM + 20.0,
            anchor,
            "tick",
            &if i == 0 {
                "0".into()
            } else {
                seconds(at).replace(".00 ", " ")
            },
        ));
    }
    let anchors: Vec<(f64, f64)> = points.iter().map(|point| (x(point.x), y(point.y[0]))).collect();
    let labels = place_labels(points, &anchors);
    for label in &labels {
        let (x, y) = label.at;
        if (label.y - y).abs() > LINE / 2.0 {
            out.push_str(&format!(
                "<line class=\"leader {}\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                label.class,
                label.x,
                label.y - 5.0
            ));
        }
    }
    for point in points {
        let (px, [mean, low, high]) = (x(point.x), point.y.map(y));
        let class = &point.class;
        out.push_str(&format!(
            "<line class=\"whisker {class}\" x1=\"{px:.1}\" x2=\"{px:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
        ));
        out.push_str(&format!(
            "<circle class=\"dot {class}\" cx=\"{px:.1}\" cy=\"{mean:.1}\" r=\"{}\"><title>{}</title></circle>",
            if point.label.is_empty() { 4 } else { 7 },
            super::html::escape(&point.title)
        ));
    }
    for label in labels {
        let anchor = if label.left { "end" } else { "start" };
        out.push_str(&text(label.x, label.y, anchor, "label", label.text));
    }
    out + "</svg>"
}

struct Label<'a> {
    text: &'a str,
    x: f64,
    y: f64,
    left: bool,
    /// Of the point it names.
    at: (f64, f64),
    class: &'a str,
}

/// Left, right, top and bottom.
type Frame = [f64; 4];

/// Of a label, as wide as it is on a phone.
const LETTER: f64 = 9.4;
const LINE: f64 = 18.0;
/// From the middle of a point to its label, and to where a label may begin that is another's.
const GAP: f64 = 11.0;
const DOT: f64 = 8.0;

/// Beside its point or, where that would cover a point or another label, the nearest line above or below.
fn place_labels<'a>(points: &'a [Point], anchors: &[(f64, f64)]) -> Vec<Label<'a>> {
    let mut taken: Vec<Frame> = anchors
        .iter()
        .map(|(x, y)| [x - DOT, x + DOT, y - DOT, y + DOT])
        .collect();
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| !points[i].label.is_empty()).collect();
    order.sort_by(|&a, &b| anchors[a].1.total_cmp(&anchors[b].1));
    let mut labels = Vec::new();
    for i in order {
        let width = LETTER * points[i].label.chars().count() as f64;
        let (at_x, at_y) = anchors[i];
        let place = |(left, y): (bool, f64)| {
            let x = if left { at_x - GAP } else { at_x + GAP };
            let begin = if left { x - width } else { x };
            (left, x, y + 5.0, [begin, begin + width, y - LINE / 2.0, y + LINE / 2.0])
        };
        let lines = (0..12).flat_map(|step| {
            let away = LINE * f64::from(step);
            [
                (false, at_y - away),
                (true, at_y - away),
                (false, at_y + away),
                (true, at_y + away),
            ]
        });
        let free = |(_, _, _, frame): &(bool, f64, f64, Frame)| {
            let inside = frame[0] >= 0.0 && frame[1] <= WIDTH && frame[2] >= 0.0 && frame[3] <= HEIGHT - BOTTOM;
            inside && !taken.iter().any(|other| covers(other, frame))
        };
        let (left, x, y, frame) = lines.map(place).find(free).unwrap_or_else(|| place((false, at_y)));
        taken.push(frame);
        labels.push(Label {
            text: &points[i].label,
            x,
            y,
            left,
            at: anchors[i],
            class: &points[i].class,
        });
    }
    labels
}

fn covers(a: &Frame, b: &Frame) -> bool {
    a[0] < b[1] && b[0] < a[1] && a[2] < b[3] && b[2] < a[3]
}

/// 1, 2 or 5 times a power of ten, so that about four fit.
fn nice_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| most / step <= 5.0)
        .unwrap_or(10.0 * power)
}

fn y(value: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value.clamp(0.0, 1.0))
}

fn open(title: &str) -> String {
    let title = super::html::escape(title);
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">")
}

fn grid() -> String {
    let row = |share: f64| {
        let at = y(share);
        let line = format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/>",
            WIDTH - RIGHT
        );
        line + &text(LEFT - 8.0, at + 5.0, "end", "tick", &format!("{:.0}", 100.0 * share))
    };
    [0.0, 0.25, 0.5, 0.75, 1.0].into_iter().map(row).collect()
}

fn text(x: f64, y: f64, anchor: &str, class: &str, content: &str) -> String {
    let content = super::html::escape(content);
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([nice_step(3.9), nice_step(0.45), nice_step(17.0)], [1.0, 0.1, 5.0]);
    }

    #[test]
    fn labels_cover_neither_points_nor_each_other() {
        let point = |label: &str| Point {
            label: label.into(),
            title: String::new(),
            class: String::new(),
            x: 0.0,
            y: [0.5; 3],
        };
        let points = ["base", "rag", "tuned", "hybrid"].map(point);
        let frame = |label: &Label| {
            let width = LETTER * label.text.len() as f64;
            let begin = if label.left { label.x - width } else { label.x };
            [
                begin,
                begin + width,
                label.y - 5.0 - LINE / 2.0,
                label.y - 5.0 + LINE / 2.0,
            ]
        };
        for anchors in [
            [(100.0, 100.0), (104.0, 101.0), (110.0, 103.0), (120.0, 100.0)],
            [(100.0, 100.0); 4],
            [(444.0, 14.0), (440.0, 18.0), (438.0, 22.0), (430.0, 20.0)],
            [(44.0, 258.0), (44.0, 258.0), (60.0, 250.0), (62.0, 258.0)],
            [(100.0, 100.0), (180.0, 100.0), (260.0, 100.0), (340.0, 100.0)],
        ] {
            let labels = place_labels(&points, &anchors);
            let dots = anchors.map(|(x, y)| [x - 7.0, x + 7.0, y - 7.0, y + 7.0]);
            for (i, label) in labels.iter().enumerate() {
                let here = frame(label);
                let others = labels[..i].iter().map(frame).chain(dots);
                assert!(here[0] >= 0.0 && here[1] <= WIDTH, "{anchors:?}");
                assert!(
                    others.into_iter().all(|other| !covers(&other, &here)),
                    "{} {anchors:?}",
                    label.text
                );
            }
        }
        // Where there is room, beside the point.
        let labels = place_labels(&points[..1], &[(100.0, 100.0)]);
        assert_eq!((labels[0].x, labels[0].y, labels[0].left), (111.0, 105.0, false));
    }
}
