//! The learning rate as a pure function of the step, so that a resumed run needs no scheduler state.
use crate::settings::{Schedule, Train};
use std::f64::consts::PI;

/// transformers' schedules (`get_{constant,linear,cosine}_schedule_with_warmup`, `get_cosine_with_min_lr_...`,
/// `get_wsd_schedule` with its defaults), held at their end value past the last step.
#[derive(Debug, Clone)]
pub struct LearningRate {
    schedule: Schedule,
    peak: f64,
    min_ratio: f64,
    total: usize,
    warmup: usize,
    decay: usize,
}

impl LearningRate {
    pub fn new(train: &Train, total_steps: usize) -> Self {
        let share = |ratio: f64| (ratio * total_steps as f64).ceil() as usize;
        Self {
            schedule: train.schedule,
            peak: train.learning_rate,
            min_ratio: train.min_lr_ratio,
            total: total_steps,
            warmup: share(train.warmup_ratio),
            decay: share(train.decay_ratio),
        }
    }

    /// Rate for the step taken after `done` steps; as in transformers the first warm-up step has rate 0.
    pub fn at(&self, done: usize) -> f64 {
        self.peak * self.factor(done)
    }

    fn factor(&self, done: usize) -> f64 {
        let above_min = |factor: f64| factor * (1.0 - self.min_ratio) + self.min_ratio;
        if done < self.warmup {
            let rising = done as f64 / self.warmup as f64;
            return if self.schedule == Schedule::WarmupStableDecay {
                above_min(rising)
            } else {
                rising
            };
        }
        let cosine = |progress: f64| 0.5 * (1.0 + (PI * progress).cos());
        let since_warmup = share(done - self.warmup, self.total.saturating_sub(self.warmup));
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => above_min(1.0 - since_warmup),
            Schedule::Cosine => above_min(cosine(since_warmup)),
            Schedule::WarmupStableDecay => {
                let stable = self.total.saturating_sub(self.decay).max(self.warmup);
                above_min(cosine(share(done.saturating_sub(stable), self.decay)))
            }
        }
    }
}

/// `part / whole`, at most 1.
fn share(part: usize, whole: usize) -> f64 {
    (part as f64 / whole.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, min_lr_ratio: f64) -> Vec<f64> {
        let train = Train {
            schedule,
            min_lr_ratio,
            learning_rate: 1.0,
            warmup_ratio: 0.2,
            decay_ratio: 0.4,
            ..Train::default()
        };
        let rate = LearningRate::new(&train, 10);
        (0..12).map(|done| rate.at(done)).collect()
    }

    fn assert_close(found: &[f64], wanted: &[f64]) {
        let close = found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close && found.len() == wanted.len(), "{found:?}\n{wanted:?}");
    }

    // Wanted values: `[get_wsd_schedule(optimizer, 2, num_decay_steps=4, num_training_steps=10).lr_lambdas[0](i)
    // for i in range(10)]` of transformers 5.23, and so on.
    #[test]
    fn equals_transformers() {
        let warmup = [0.0, 0.5];
        let wanted = |rest: [f64; 8]| [&warmup[..], &rest].concat();
        assert_close(&rates(Schedule::Constant, 0.0)[..10], &wanted([1.0; 8]));
        let linear = [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125];
        assert_close(&rates(Schedule::Linear, 0.0)[..10], &wanted(linear));
        let cosine = [
            1.0,
            0.9619397662556434,
            0.8535533905932737,
            0.6913417161825449,
            0.5,
            0.30865828381745514,
            0.14644660940672627,
            0.03806023374435663,
        ];
        assert_close(&rates(Schedule::Cosine, 0.0)[..10], &wanted(cosine));
        assert_close(
            &rates(Schedule::Cosine, 0.1)[..10],
            &wanted(cosine.map(|factor| factor * 0.9 + 0.1)),
        );
        let wsd = [1.0, 1.0, 1.0, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627];
        assert_close(&rates(Schedule::WarmupStableDecay, 0.0)[..10], &wanted(wsd));
        let with_floor = [
            0.1,
            0.55,
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
            0.8681980515339464,
            0.55,
            0.23180194846605365,
        ];
        assert_close(&rates(Schedule::WarmupStableDecay, 0.1)[..10], &with_floor);
    }

    #[test]
    fn stays_at_its_end_value() {
        for schedule in [Schedule::Linear, Schedule::Cosine, Schedule::WarmupStableDecay] {
            assert_close(&rates(schedule, 0.25)[10..], &[0.25, 0.25]);
        }
    }
}
