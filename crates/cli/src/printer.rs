//! stdout is data, stderr is talk. The only file that prints (bars are drawn by `watch`).
use crate::args::{Talk, When};
use crate::environment;
use std::io::{self, IsTerminal, Write};

#[derive(Debug, Clone)]
pub struct Printer {
    pub quiet: bool,
    /// Colours on stderr.
    pub style: Style,
    /// Colours on stdout.
    pub data_style: Style,
    /// stderr is a terminal: bars may move.
    pub live: bool,
}

impl Printer {
    pub fn new(talk: &Talk) -> Self {
        let colour = |terminal: bool| match talk.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !environment::no_color(),
        };
        let live = io::stderr().is_terminal();
        let style = Style { on: colour(live) };
        Self {
            quiet: talk.quiet,
            style,
            data_style: Style {
                on: colour(io::stdout().is_terminal()),
            },
            live,
        }
    }

    /// Data: a line on stdout.
    pub fn data(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")
    }

    /// Data without a line end, shown at once (streamed answers).
    pub fn stream(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Talk: a line on stderr, unless quiet.
    pub fn talk(&self, text: &str) {
        if !self.quiet {
            line(text);
        }
    }

    /// Talk without a line end (the `>` of a chat).
    pub fn ask(&self, text: &str) {
        if !self.quiet {
            let mut err = io::stderr().lock();
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
        }
    }

    pub fn warning(&self, text: &str) {
        line(&format!("{} {text}", self.style.yellow_bold("warning:")));
    }

    pub fn error(&self, text: &str) {
        line(text);
    }

    /// One `name  value` of a table of talk; continued lines are indented under the value.
    pub fn row(&self, name: &str, value: &str) {
        self.talk(&row(&self.style, name, value));
    }
}

/// Where stderr itself is gone there is nobody left to tell.
fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

const NAME_WIDTH: usize = 12;

/// `  name        value`, further lines of the value below its first.
pub fn row(style: &Style, name: &str, value: &str) -> String {
    let below = format!("\n{:1$}", "", NAME_WIDTH + 2);
    format!(
        "  {}{}",
        // A longer name still ends before the value.
        style.dim(&format!("{name:<0$} ", NAME_WIDTH - 1)),
        value.replace('\n', &below)
    )
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub on: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }
    pub fn red_bold(self, text: &str) -> String {
        self.paint("1;31", text)
    }
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }
    pub fn yellow_bold(self, text: &str) -> String {
        self.paint("1;33", text)
    }
    pub fn cyan_bold(self, text: &str) -> String {
        self.paint("1;36", text)
    }
}

/// `1234567` as `1.2 M`: at most three digits before the unit.
pub fn count(value: f64) -> String {
    scaled(value, &["", " k", " M", " G", " T"])
}

/// `1.4 GB`.
pub fn bytes(value: u64) -> String {
    scaled(value as f64, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let whole = value.fract() == 0.0 && value < 1000.0;
    for next in units {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if whole || value >= 99.95 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// `42 s`, `7 min 05 s`, `3 h 07 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1 file`, `2 files`.
pub fn plural(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {noun}s", count(number as f64))
    }
}

/// A path or word as a shell takes it.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+~,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(36.0), "36");
        assert_eq!(count(2_100.0), "2.1 k");
        assert_eq!(count(134_515_008.0), "135 M");
        assert_eq!(count(999_960.0), "1.0 M");
        assert_eq!(bytes(1_400_000_000), "1.4 GB");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(duration(7.25), "7.2 s");
        assert_eq!(duration(425.0), "7 min 05 s");
        assert_eq!(duration(11_230.0), "3 h 07 min");
    }

    #[test]
    fn a_long_name_ends_before_its_value() {
        let style = Style { on: false };
        assert_eq!(row(&style, "base", "1 %"), "  base        1 %");
        assert_eq!(row(&style, "base+distractors", "1 %"), "  base+distractors 1 %");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("runs/support"), "runs/support");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
