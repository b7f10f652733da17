//! One token from one row of logits, on the host: penalty, temperature, top-k, top-p in transformers' order.
use crate::generate::GenerateOptions;
use crate::noise;

/// The next token; `seen` are the prompt and what was generated, `step` counts generated tokens.
pub fn sample(logits: &[f32], seen: &[u32], step: usize, options: &GenerateOptions) -> u32 {
    let mut scores = logits.to_vec();
    penalize(&mut scores, seen, options.repetition_penalty as f32);
    if options.temperature <= 0.0 {
        return argmax(&scores);
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let max = scores[order[0] as usize] as f64;
    let weights: Vec<f64> = order
        .iter()
        .map(|t| ((scores[*t as usize] as f64 - max) / options.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let kept = nucleus(&weights, options.top_p * total);
    let mut left = noise::uniform(options.seed, step as u64) * weights[..kept].iter().sum::<f64>();
    for (token, weight) in order.iter().zip(&weights[..kept]) {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    order[kept - 1]
}

/// How many of the sorted `weights` it takes to reach `mass`; at least one.
fn nucleus(weights: &[f64], mass: f64) -> usize {
    let mut sum = 0.0;
    let reached = weights.iter().position(|w| {
        sum += w;
        sum >= mass
    });
    reached.map_or(weights.len(), |i| i + 1)
}

/// Divides the positive scores of seen tokens and multiplies the negative ones (Keskar et al. 2019, arXiv:1909.05858).
fn penalize(scores: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    for token in distinct {
        let score = &mut scores[*token as usize];
        *score = if *score > 0.0 {
            *score / penalty
        } else {
            *score * penalty
        };
    }
}

/// Index of the largest score, the first of equals.
pub fn argmax(scores: &[f32]) -> u32 {
    let best = scores.iter().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |best, (i, s)| if *s > best.1 { (i, *s) } else { best },
    );
    best.0 as u32
}

/// Log-probability of `token`, and of the `k` likeliest.
pub fn logprobs(logits: &[f32], token: u32, k: usize) -> (f32, Vec<(u32, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let lse = max + logits.iter().map(|l| (*l as f64 - max).exp()).sum::<f64>().ln();
    let of = |t: u32| (logits[t as usize] as f64 - lse) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    (of(token), order.into_iter().take(k).map(|t| (t, of(t))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f64, top_k: usize, top_p: f64) -> GenerateOptions {
        GenerateOptions {
            temperature,
            top_k,
            top_p,
            ..GenerateOptions::greedy(1)
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sample(&[0.0, 3.0, 3.0], &[], 0, &options(0.0, 0, 1.0)), 1);
    }

    #[test]
    fn penalty_moves_the_choice() {
        let greedy = GenerateOptions {
            repetition_penalty: 2.0,
            ..GenerateOptions::greedy(1)
        };
        assert_eq!(sample(&[1.0, 1.5], &[1], 0, &greedy), 0);
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_tail() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        for step in 0..200 {
            assert!(sample(&logits, &[], step, &options(1.0, 2, 1.0)) < 2);
            assert_eq!(sample(&logits, &[], step, &options(1.0, 0, 0.6)), 0);
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [(0.7f32).ln(), (0.3f32).ln()];
        let ones = (0..4000)
            .filter(|s| sample(&logits, &[], *s, &options(1.0, 0, 1.0)) == 1)
            .count();
        assert!((1080..1320).contains(&ones), "{ones} of 4000, wanted about 1200");
    }

    #[test]
    fn logprobs_are_normalized() {
        let (own, top) = logprobs(&[1.0, 2.0, 3.0], 0, 3);
        assert_eq!(top[0].0, 2);
        assert!((top.iter().map(|t| t.1.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(own, top[2].1);
    }
}
