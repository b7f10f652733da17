//! What to do about it, in one line: which arm to ship, or what is missing to tell.
use crate::eval::arm::Arm;
use crate::eval::settings::Eval;
use crate::metrics::Metric;
use crate::results::{ArmSummary, Contrast, Finding};
use crate::stats::Estimate;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    ShownBetter,
    NotShown,
    Worse,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    /// The arm to ship as things are known.
    pub ship: Arm,
    pub line: String,
    /// More that the contrasts show, a sentence each.
    pub notes: Vec<String>,
}

impl Verdict {
    /// For scripts: 0 shown better, 3 not shown, 4 worse.
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::ShownBetter => 0,
            Outcome::NotShown => 3,
            Outcome::Worse => 4,
        }
    }
}

/// Judges `eval.candidate` against `eval.baseline`, or finds the arm to ship among the named ones.
pub fn verdict(arms: &[ArmSummary], contrasts: &[Contrast], settings: &Eval) -> Verdict {
    let overall: Vec<&Contrast> = contrasts.iter().filter(|contrast| contrast.stratum.is_none()).collect();
    let judging = Judging {
        arms,
        overall,
        settings,
    };
    match Arm::parse(&settings.candidate) {
        Some(candidate) => judging.candidate(candidate),
        None => judging.best(),
    }
}

struct Judging<'a> {
    arms: &'a [ArmSummary],
    overall: Vec<&'a Contrast>,
    settings: &'a Eval,
}

/// One contrast read from the side of `arm`.
struct Seen<'a> {
    arm: Arm,
    other: Arm,
    contrast: &'a Contrast,
    turned: bool,
}

impl Seen<'_> {
    fn finding(&self) -> Finding {
        match (self.contrast.shown, self.turned) {
            (Finding::NotShown, _) => Finding::NotShown,
            (Finding::Better, false) | (Finding::Worse, true) => Finding::Better,
            _ => Finding::Worse,
        }
    }

    fn difference(&self) -> (f64, f64, f64) {
        let Estimate { mean, low, high, .. } = self.contrast.difference;
        if self.turned {
            (-mean, -high, -low)
        } else {
            (mean, low, high)
        }
    }

    /// `+12.0 points [3.1, 20.4]`.
    fn points(&self) -> String {
        let (mean, low, high) = self.difference();
        format!(
            "{:+.1} points [{:+.1}, {:+.1}]",
            100.0 * mean,
            100.0 * low,
            100.0 * high
        )
    }

    fn sample(&self) -> String {
        let Estimate { n, clusters, .. } = self.contrast.difference;
        format!("{n} questions in {clusters} clusters")
    }
}

impl<'a> Judging<'a> {
    fn seen(&self, arm: Arm, other: Arm) -> Option<Seen<'a>> {
        self.overall.iter().find_map(|&contrast| {
            let turned = contrast.first == other && contrast.second == arm;
            let straight = contrast.first == arm && contrast.second == other;
            (straight || turned).then_some(Seen {
                arm,
                other,
                contrast,
                turned,
            })
        })
    }

    /// The arms one would ship, the simplest first.
    fn named(&self) -> Vec<Arm> {
        Arm::NAMED.into_iter().filter(|&arm| self.mean(arm).is_some()).collect()
    }

    fn mean(&self, arm: Arm) -> Option<f64> {
        let summary = self.arms.iter().find(|summary| summary.arm == arm)?;
        Some(summary.scores.get(&self.settings.metric)?.mean)
    }

    fn finding(&self, arm: Arm, other: Arm) -> Option<Finding> {
        Some(self.seen(arm, other)?.finding())
    }

    fn metric(&self) -> &'static str {
        match self.settings.metric {
            Metric::Right => "right answers",
            other => other.label(),
        }
    }

    fn best(&self) -> Verdict {
        let named = self.named();
        let Some(&base) = named.first() else {
            return self.nothing(self.arms.first().map_or(Arm::BASE, |summary| summary.arm));
        };
        let others: Vec<Arm> = named[1..].to_vec();
        let shown = |wanted: Finding| {
            others
                .iter()
                .copied()
                .filter(move |&arm| self.finding(arm, base) == Some(wanted))
        };
        let better: Vec<Arm> = shown(Finding::Better).collect();
        let unbeaten = |arm: &Arm| {
            better
                .iter()
                .all(|&rival| self.finding(rival, *arm) != Some(Finding::Better))
        };
        if let Some(&ship) = better.iter().find(|arm| unbeaten(arm)).or(better.last())
            && let Some(seen) = self.seen(ship, base)
        {
            let line = format!(
                "Ship {ship}: {} {} than {base} ({}).",
                seen.points(),
                self.metric(),
                seen.sample()
            );
            return self.with_notes(Outcome::ShownBetter, ship, base, line);
        }
        if let Some(seen) = shown(Finding::Worse).find_map(|arm| self.seen(arm, base)) {
            let line = format!(
                "Keep {base}: {} harms, {} {} than {base} ({}), and no arm is shown better.",
                seen.arm,
                seen.points(),
                self.metric(),
                seen.sample()
            );
            return self.with_notes(Outcome::Worse, base, seen.arm, line);
        }
        let by_mean = |arm: &&Arm| self.mean(**arm).unwrap_or(f64::MIN);
        let leader = others.iter().max_by(|a, b| by_mean(a).total_cmp(&by_mean(b)));
        match leader.and_then(|&leader| self.seen(leader, base)) {
            Some(seen) => self.not_shown(base, &seen),
            None => self.nothing(base),
        }
    }

    fn candidate(&self, candidate: Arm) -> Verdict {
        let by_mean = |arm: &Arm| self.mean(*arm).unwrap_or(f64::MIN);
        let rivals = self.named().into_iter().filter(|&arm| arm != candidate);
        let best_rival = rivals.max_by(|a, b| by_mean(a).total_cmp(&by_mean(b)));
        let baseline = Arm::parse(&self.settings.baseline).or(best_rival);
        let Some(seen) = baseline.and_then(|baseline| self.seen(candidate, baseline)) else {
            return self.nothing(candidate);
        };
        let other = seen.other;
        let compared = format!("{} {} than {other} ({})", seen.points(), self.metric(), seen.sample());
        match seen.finding() {
            Finding::Better => self.with_notes(
                Outcome::ShownBetter,
                candidate,
                other,
                format!("Ship {candidate}: {compared}."),
            ),
            Finding::Worse => self.with_notes(
                Outcome::Worse,
                other,
                candidate,
                format!("Keep {other}: {candidate} harms, {compared}."),
            ),
            Finding::NotShown => self.not_shown(other, &seen),
        }
    }

    fn not_shown(&self, keep: Arm, seen: &Seen) -> Verdict {
        let line = format!(
            "Not shown: {} {} {} than {} ({}). Keep {keep}; {}",
            seen.arm,
            seen.points(),
            self.metric(),
            seen.other,
            seen.sample(),
            self.missing(seen)
        );
        self.with_notes(Outcome::NotShown, keep, seen.arm, line)
    }

    /// What it would take to tell.
    fn missing(&self, seen: &Seen) -> String {
        let Estimate { n, clusters, .. } = seen.contrast.difference;
        let least = self.settings.min_questions;
        let visible = seen.contrast.smallest_difference;
        let found = seen.difference().0.abs();
        if n < least {
            return format!("too few questions: ask at least {least}.");
        }
        if clusters < crate::eval::MIN_CLUSTERS {
            return format!(
                "too few documents behind the questions: at least {}.",
                crate::eval::MIN_CLUSTERS
            );
        }
        let can = format!("this many questions show {:.1} points or more", 100.0 * visible);
        if found == 0.0 {
            return format!("{can}.");
        }
        let needed = n as f64 * (visible / found).powi(2);
        match needed {
            needed if needed <= n as f64 => format!("{can}; the other planned contrasts ask for more than 95 %."),
            needed if needed > 100_000.0 => format!("{can}, and more questions will hardly show this one."),
            needed => format!("{can}; to show this one ask about {}.", rounded(needed)),
        }
    }

    fn nothing(&self, ship: Arm) -> Verdict {
        let line = "Not shown: fewer than two arms answered the same questions; add arms to eval.arms.".to_string();
        Verdict {
            outcome: Outcome::NotShown,
            ship,
            line,
            notes: Vec::new(),
        }
    }

    /// How every other named arm stands to the one to ship, and what overlapping questions change. The arm `told` is
    /// in the line already.
    fn with_notes(&self, outcome: Outcome, ship: Arm, told: Arm, line: String) -> Verdict {
        let mut notes = Vec::new();
        for seen in self.named().into_iter().filter_map(|arm| self.seen(arm, ship)) {
            let (arm, points) = (seen.arm, seen.points());
            if arm != told {
                notes.push(match seen.finding() {
                    Finding::Better => format!("{arm} is shown better than {ship}: {points}."),
                    Finding::Worse => format!("{arm} is shown worse than {ship}: {points}."),
                    Finding::NotShown => format!("{arm} against {ship} is not shown: {points}."),
                });
            }
            if let Some(clean) = seen.contrast.clean
                && clean.holds_zero() != seen.contrast.difference.holds_zero()
            {
                notes.push(format!(
                    "Without the questions that training rows or documents give away, {arm} against {ship} is another \
                     matter: {:+.1} points [{:+.1}, {:+.1}].",
                    100.0 * if seen.turned { -clean.mean } else { clean.mean },
                    100.0 * if seen.turned { -clean.high } else { clean.low },
                    100.0 * if seen.turned { -clean.low } else { clean.high },
                ));
            }
        }
        Verdict {
            outcome,
            ship,
            line,
            notes,
        }
    }
}

/// To two digits, upwards.
fn rounded(questions: f64) -> u64 {
    let step = 10f64.powf(questions.log10().floor() - 1.0).max(1.0);
    ((questions / step).ceil() * step) as u64
}
