//! What to do about it, in one line: which arm to ship, or what is missing to tell.
use crate::eval::MIN_CLUSTERS;
use crate::eval::arm::Arm;
use crate::eval::settings::Eval;
use crate::metrics::Metric;
use crate::results::{ArmSummary, Contrast, Finding, contrast};
use crate::stats::Estimate;
use serde::{Deserialize, Serialize};

/// Nobody asks more.
pub(crate) const MOST_QUESTIONS: f64 = 100_000.0;

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
    let judging = Judging {
        arms,
        contrasts,
        settings,
    };
    match Arm::parse(&settings.candidate) {
        Some(candidate) => judging.candidate(candidate),
        None => judging.best(),
    }
}

struct Judging<'a> {
    arms: &'a [ArmSummary],
    contrasts: &'a [Contrast],
    settings: &'a Eval,
}

impl Judging<'_> {
    fn contrast(&self, first: Arm, second: Arm) -> Option<Contrast> {
        contrast(self.contrasts, first, second)
    }

    fn shown(&self, first: Arm, second: Arm, wanted: Finding) -> bool {
        self.contrast(first, second)
            .is_some_and(|contrast| contrast.shown == wanted)
    }

    /// The arms one would ship, the simplest first.
    fn named(&self) -> Vec<Arm> {
        Arm::NAMED.into_iter().filter(|&arm| self.mean(arm).is_some()).collect()
    }

    fn mean(&self, arm: Arm) -> Option<f64> {
        let summary = self.arms.iter().find(|summary| summary.arm == arm)?;
        Some(summary.scores.get(&self.settings.metric)?.mean)
    }

    /// Of equals the first, which is the simplest.
    fn best_by_mean(&self, arms: impl Iterator<Item = Arm>) -> Option<Arm> {
        let mean = |arm| self.mean(arm).unwrap_or(f64::MIN);
        arms.reduce(|best, arm| if mean(arm) > mean(best) { arm } else { best })
    }

    /// The simplest arm that is shown better than base and that no other such arm is shown to beat.
    fn best(&self) -> Verdict {
        let named = self.named();
        let Some((&base, others)) = named.split_first() else {
            return self.nothing(self.arms.first().map_or(Arm::BASE, |summary| summary.arm));
        };
        let against_base = |wanted: Finding| others.iter().copied().filter(move |&arm| self.shown(arm, base, wanted));
        let better: Vec<Arm> = against_base(Finding::Better).collect();
        let unbeaten = |arm: &&Arm| !better.iter().any(|&rival| self.shown(rival, **arm, Finding::Better));
        let ship = better.iter().find(unbeaten).or(better.last());
        if let Some(contrast) = ship.and_then(|&ship| self.contrast(ship, base)) {
            let (ship, compared) = (contrast.first, self.compared(&contrast));
            return self.with_notes(Outcome::ShownBetter, ship, base, format!("Ship {ship}: {compared}."));
        }
        if let Some(contrast) = against_base(Finding::Worse).find_map(|arm| self.contrast(arm, base)) {
            let (arm, compared) = (contrast.first, self.compared(&contrast));
            let line = format!("Keep {base}: {arm} harms, {compared}, and no arm is shown better.");
            return self.with_notes(Outcome::Worse, base, arm, line);
        }
        let leader = self.best_by_mean(others.iter().copied());
        match leader.and_then(|leader| self.contrast(leader, base)) {
            Some(contrast) => self.not_shown(&contrast),
            None => self.nothing(base),
        }
    }

    fn candidate(&self, candidate: Arm) -> Verdict {
        let rival = self.best_by_mean(self.named().into_iter().filter(|&arm| arm != candidate));
        let baseline = Arm::parse(&self.settings.baseline).or(rival);
        let Some(contrast) = baseline.and_then(|baseline| self.contrast(candidate, baseline)) else {
            return self.nothing(candidate);
        };
        let (other, compared) = (contrast.second, self.compared(&contrast));
        match contrast.shown {
            Finding::Better => self.with_notes(
                Outcome::ShownBetter,
                candidate,
                other,
                format!("Ship {candidate}: {compared}."),
            ),
            Finding::Worse => {
                let line = format!("Keep {other}: {candidate} harms, {compared}.");
                self.with_notes(Outcome::Worse, other, candidate, line)
            }
            Finding::NotShown => self.not_shown(&contrast),
        }
    }

    fn not_shown(&self, contrast: &Contrast) -> Verdict {
        let (arm, keep) = (contrast.first, contrast.second);
        let line = format!(
            "Not shown: {arm}, {}. Keep {keep}; {}",
            self.compared(contrast),
            self.missing(contrast)
        );
        self.with_notes(Outcome::NotShown, keep, arm, line)
    }

    /// `right answers +12.0 points against base [+3.1, +20.4] (200 questions in 40 clusters)`.
    fn compared(&self, contrast: &Contrast) -> String {
        let metric = match self.settings.metric {
            Metric::Right => "right answers",
            other => other.label(),
        };
        let Estimate { n, clusters, .. } = contrast.difference;
        let points = points(&contrast.difference);
        format!(
            "{metric} {points} against {} ({n} questions in {clusters} clusters)",
            contrast.second
        )
    }

    /// What it would take to tell.
    fn missing(&self, contrast: &Contrast) -> String {
        let Estimate { n, clusters, mean, .. } = contrast.difference;
        let least = self.settings.min_questions;
        if n < least {
            return format!("too few questions: ask at least {least}.");
        }
        if clusters < MIN_CLUSTERS {
            return format!("too few documents behind the questions: at least {MIN_CLUSTERS}.");
        }
        if contrast.wins + contrast.losses == 0 {
            return "no question told them apart.".into();
        }
        let visible = contrast.smallest_difference;
        let can = format!("this many questions show {:.1} points or more", 100.0 * visible);
        if mean == 0.0 {
            return format!("{can}.");
        }
        match needed(contrast) {
            needed if needed <= n as f64 => format!("{can}; the other planned contrasts ask for more than 95 %."),
            needed if needed > MOST_QUESTIONS => format!("{can}, and more questions will hardly show this one."),
            needed => format!("{can}; to show this one ask about {}.", rounded(needed)),
        }
    }

    fn nothing(&self, ship: Arm) -> Verdict {
        let (metric, candidate) = (self.settings.metric, Arm::parse(&self.settings.candidate));
        let others = self.named().into_iter().filter(|&arm| arm != candidate.unwrap_or(ship));
        let why = if self.arms.iter().all(|summary| !summary.scores.contains_key(&metric)) {
            format!(
                "no question is scored by {}; set eval.metric to another score",
                metric.label()
            )
        } else if others.count() == 0 {
            let named = Arm::NAMED.map(Arm::name).join(", ");
            format!("{ship} has no arm to be compared with; add one of {named} to eval.arms")
        } else {
            "fewer than two arms answered the same questions; add arms to eval.arms".into()
        };
        Verdict {
            outcome: Outcome::NotShown,
            ship,
            line: format!("Not shown: {why}."),
            notes: Vec::new(),
        }
    }

    /// How every other named arm stands to the one to ship, and what overlapping questions change. The arm `told` is
    /// in the line already.
    fn with_notes(&self, outcome: Outcome, ship: Arm, told: Arm, line: String) -> Verdict {
        let mut notes = Vec::new();
        for contrast in self.named().into_iter().filter_map(|arm| self.contrast(arm, ship)) {
            let (arm, found) = (contrast.first, points(&contrast.difference));
            if arm != told {
                notes.push(match contrast.shown {
                    Finding::Better => format!("{arm} is shown better than {ship}: {found}."),
                    Finding::Worse => format!("{arm} is shown worse than {ship}: {found}."),
                    Finding::NotShown => format!("{arm} against {ship} is not shown: {found}."),
                });
            }
            if let Some(clean) = contrast
                .clean
                .filter(|clean| clean.holds_zero() != contrast.difference.holds_zero())
            {
                notes.push(format!(
                    "Without the questions that training rows or documents give away, {arm} against {ship} is another \
                     matter: {}.",
                    points(&clean)
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

/// Questions that would show this difference: an interval narrows with the root of their number.
pub(crate) fn needed(contrast: &Contrast) -> f64 {
    let Estimate { n, mean, .. } = contrast.difference;
    n as f64 * (contrast.smallest_difference / mean).powi(2)
}

/// `+12.0 points [+3.1, +20.4]`.
fn points(difference: &Estimate) -> String {
    let Estimate { mean, low, high, .. } = *difference;
    let [mean, low, high] = [mean, low, high].map(|share| format!("{:+.1}", 100.0 * share).replace('-', "−"));
    format!("{mean} points [{low}, {high}]")
}

/// To two digits, upwards.
pub(crate) fn rounded(questions: f64) -> u64 {
    let step = 10f64.powf(questions.log10().floor() - 1.0).max(1.0);
    ((questions / step).ceil() * step) as u64
}
