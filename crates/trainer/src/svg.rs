//! The loss curve of a run as one SVG file: no dependency, readable on light and dark pages.
use std::fmt::Write;

type Points<'a> = &'a [(f64, f64)];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 44.0;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 15px; font-weight: 600; fill: #1f2328 }
.grid { stroke: #d0d7de; stroke-width: 1 }
.train { stroke: #218bff } .eval { stroke: #e16f24 } .mean { stroke: #0550ae }
path { fill: none; stroke-width: 2; stroke-linejoin: round } .train { stroke-width: 1.2; opacity: .5 }
circle { fill: #e16f24; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d } .mean { stroke: #79c0ff }
}";

/// Loss over steps: every training step faintly, its running mean, and the evaluations with their points.
pub fn loss_curve(title: &str, train: Points, eval: Points) -> String {
    let scale = Scale::over(train, eval);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"24\">{title}</text>\n",
        title = escaped(title)
    );
    axes(&mut svg, &scale);
    legend(&mut svg, eval);
    let mean = running_mean(train);
    for (class, points) in [("train", train), ("mean", mean.as_slice()), ("eval", eval)] {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{}\"/>", scale.path(points));
    }
    for (x, y) in scale.placed(eval) {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    svg + "</svg>\n"
}

fn axes(svg: &mut String, scale: &Scale) {
    for value in scale.y_ticks() {
        let y = scale.y(value);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            short(value)
        );
    }
    for value in scale.x_ticks() {
        let (x, y) = (scale.x(value), HEIGHT - BOTTOM + 18.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            short(value)
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">step</text>",
        HEIGHT - 8.0
    );
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\">loss, nats per learned token</text>",
        TOP - 14.0
    );
}

fn legend(svg: &mut String, eval: Points) {
    let entries = [("mean", "train"), ("eval", "evaluation")];
    for (i, (class, name)) in entries
        .into_iter()
        .take(if eval.is_empty() { 1 } else { 2 })
        .enumerate()
    {
        let x = WIDTH - RIGHT - 170.0 + 80.0 * i as f64;
        let y = TOP - 18.0;
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{x} {y}h18\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + 24.0,
            y + 4.0
        );
    }
}

/// Data to picture coordinates.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn over(train: Points, eval: Points) -> Self {
        let finite = || train.iter().chain(eval).filter(|(_, y)| y.is_finite());
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            })
        };
        let x = range(&mut finite().map(|(x, _)| *x));
        let y = range(&mut finite().map(|(_, y)| *y));
        if x.0 > x.1 {
            return Self {
                x: (0.0, 1.0),
                y: (0.0, 1.0),
            };
        }
        let step = nice_step(y.1 - y.0);
        let (low, high) = ((y.0 / step).floor() * step, (y.1 / step).ceil() * step);
        Self {
            x: (x.0.min(0.0), x.1.max(1.0)),
            y: (low, if high > low { high } else { low + step }),
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn placed<'a>(&'a self, points: Points<'a>) -> impl Iterator<Item = (f64, f64)> + 'a {
        points
            .iter()
            .filter(|(_, y)| y.is_finite())
            .map(|(x, y)| (self.x(*x), self.y(*y)))
    }

    fn path(&self, points: Points) -> String {
        let part = |(i, (x, y)): (usize, (f64, f64))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        self.placed(points).enumerate().map(part).collect()
    }

    fn x_ticks(&self) -> Vec<f64> {
        ticks(self.x).into_iter().filter(|x| x.fract() == 0.0).collect()
    }

    fn y_ticks(&self) -> Vec<f64> {
        ticks(self.y)
    }
}

fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let step = nice_step(high - low);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// 1, 2 or 5 times a power of ten, for about five ticks.
fn nice_step(span: f64) -> f64 {
    let rough = if span > 0.0 { span / 5.0 } else { 0.2 };
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|f| f * power >= rough)
        .unwrap_or(10.0);
    factor * power
}

/// Over the last twentieth of the run, so that the trend shows through the noise of single batches.
fn running_mean(points: Points) -> Vec<(f64, f64)> {
    let window = (points.len() / 20).max(1);
    let mean = |i: usize| {
        let part = &points[(i + 1).saturating_sub(window)..=i];
        (
            points[i].0,
            part.iter().map(|(_, y)| y).sum::<f64>() / part.len() as f64,
        )
    };
    (0..points.len()).map(mean).collect()
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_every_point_inside_the_picture() {
        let train: Vec<_> = (1..=100).map(|i| (i as f64, 3.0 / (i as f64).sqrt())).collect();
        let eval = [(0.0, 3.5), (50.0, 0.6), (100.0, 0.4)];
        let svg = loss_curve("a < b & c", &train, &eval);
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("prefers-color-scheme"));
        assert_eq!(svg.matches("<circle").count(), 3);
        let scale = Scale::over(&train, &eval);
        for (x, y) in scale.placed(&train).chain(scale.placed(&eval)) {
            assert!(
                (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                "{x} {y}"
            );
        }
    }

    #[test]
    fn survives_nothing_one_point_and_not_a_number() {
        for train in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0)]] {
            let svg = loss_curve("t", train, &[]);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks((0.0, 1.0)), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(nice_step(37.0), 10.0);
    }
}
