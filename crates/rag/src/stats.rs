//! How sure a difference is: paired bootstrap by cluster, exact McNemar, Holm, and the smallest difference that so many
//! questions can show.
use crate::random::SplitMix64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const RESAMPLES: usize = 10_000;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Standard deviation of the resampled means.
    pub error: f64,
    /// Two-sided p-value of the mean being 0, never 0 itself (Davison & Hinkley 1997, 4.11).
    pub p: f64,
    /// Questions.
    pub n: usize,
    /// Groups of questions that were drawn together.
    pub clusters: usize,
}

impl Estimate {
    /// An interval that holds 0 shows nothing.
    pub fn holds_zero(&self) -> bool {
        self.low <= 0.0 && self.high >= 0.0
    }

    /// Of the difference taken the other way round.
    pub fn turned(self) -> Self {
        Self {
            mean: -self.mean,
            low: -self.high,
            high: -self.low,
            ..self
        }
    }

    /// The difference that would be shown with 80 % power at 5 %: (z.975 + z.8) standard errors. 0, which says nothing,
    /// where all differences are equal.
    pub fn smallest_difference(&self) -> f64 {
        (1.959_963_984_540_054 + 0.841_621_233_572_914_3) * self.error
    }
}

/// Percentile interval of the mean, clusters drawn with replacement and every question of a drawn one counted
/// (Koehn 2004; clusters as in Miller 2024, 2411.00640). For a paired comparison give the differences.
/// `None` without values.
pub fn bootstrap(values: &[(&str, f64)], resamples: usize, seed: u64) -> Option<Estimate> {
    let n = values.len();
    if n == 0 || resamples == 0 {
        return None;
    }
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for &(cluster, value) in values {
        let sum = sums.entry(cluster).or_default();
        sum.0 += value;
        sum.1 += 1;
    }
    let clusters: Vec<(f64, usize)> = sums.into_values().collect();
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / n as f64;
    let mut source = SplitMix64::new(seed, "bootstrap");
    let mut draw = || {
        let drawn = (0..clusters.len()).map(|_| clusters[source.below(clusters.len())]);
        let (sum, count) = drawn.fold((0.0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        sum / count as f64
    };
    let mut means: Vec<f64> = (0..resamples).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let below = means.partition_point(|&mean| mean < 0.0);
    let up_to = means.partition_point(|&mean| mean <= 0.0);
    let tail = up_to.min(resamples - below);
    Some(Estimate {
        mean,
        low: percentile(&means, 0.025),
        high: percentile(&means, 0.975),
        error: deviation(&means),
        p: (2.0 * (tail + 1) as f64 / (resamples + 1) as f64).min(1.0),
        n,
        clusters: clusters.len(),
    })
}

/// Linear between neighbours, as numpy's default. `sorted` is not empty.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

/// Two-sided exact p-value that both arms are right equally often, from the questions where just one is
/// (McNemar 1947, binomial form). 1 where they never differ.
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let n = only_first + only_second;
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=only_first.min(only_second) {
        if k > 0 {
            term += ((n - k + 1) as f64 / k as f64).ln();
        }
        tail += term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Holm's step-down adjustment (1979), in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        highest = highest.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_widen_the_interval() {
        let names: Vec<String> = (0..200).map(|i| format!("q{i}")).collect();
        let documents: Vec<String> = (0..200).map(|i| format!("d{}", i / 20)).collect();
        let value = |i: usize| f64::from((i / 20).is_multiple_of(2));
        let alone: Vec<(&str, f64)> = (0..200).map(|i| (names[i].as_str(), value(i))).collect();
        let together: Vec<(&str, f64)> = (0..200).map(|i| (documents[i].as_str(), value(i))).collect();
        let alone = bootstrap(&alone, 2000, 1).unwrap();
        let together = bootstrap(&together, 2000, 1).unwrap();
        assert_eq!((alone.clusters, together.clusters), (200, 10));
        assert!(together.error > 4.0 * alone.error, "{together:?} {alone:?}");
    }

    #[test]
    fn nothing_is_shown_where_nothing_differs() {
        let same = bootstrap(&[("a", 0.0), ("b", 0.0)], 100, 1).unwrap();
        assert!(same.holds_zero() && same.p == 1.0);
        assert_eq!(bootstrap(&[], 100, 1), None);
        assert_eq!(mcnemar(0, 0), 1.0);
    }

    #[test]
    fn the_same_seed_is_the_same_interval() {
        let values: Vec<(&str, f64)> = vec![("a", 0.3), ("b", 0.1), ("c", -0.2), ("d", 0.4)];
        assert_eq!(bootstrap(&values, 500, 7), bootstrap(&values, 500, 7));
        assert_ne!(bootstrap(&values, 500, 7), bootstrap(&values, 500, 8));
    }
}
