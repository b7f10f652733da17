//! Row indices in a seeded order, for ever, with a cursor to come back to.
use crate::random::SplitMix64;
use serde::{Deserialize, Serialize};

/// Where the loader stands: the next micro-batch of `epoch` (from 0) begins at row `position` of that epoch's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    pub epoch: usize,
    pub position: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MicroBatch {
    pub rows: Vec<usize>,
    pub epoch: usize,
    pub last_of_epoch: bool,
}

/// Gives the rows of each epoch once, in an order of its own; the last micro-batch of an epoch may be smaller.
#[derive(Debug, Clone)]
pub struct Loader {
    rows: usize,
    batch_size: usize,
    seed: u64,
    cursor: Cursor,
    /// The order of `cursor.epoch`.
    order: Vec<usize>,
}

impl Loader {
    /// `rows` rows, `batch_size` a micro-batch; the order of each epoch depends on (`seed`, epoch) alone.
    pub fn new(rows: usize, batch_size: usize, seed: u64) -> Self {
        let order = order(rows, seed, 0);
        Self {
            rows,
            batch_size: batch_size.max(1),
            seed,
            cursor: Cursor::default(),
            order,
        }
    }

    pub fn batches_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.batch_size)
    }

    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// A position at or past the epoch's end is the beginning of the next epoch.
    pub fn seek(&mut self, cursor: Cursor) {
        let past = cursor.position >= self.rows;
        self.cursor = if past {
            Cursor {
                epoch: cursor.epoch + 1,
                position: 0,
            }
        } else {
            cursor
        };
        self.order = order(self.rows, self.seed, self.cursor.epoch);
    }

    /// Without rows, every micro-batch is empty.
    pub fn next_batch(&mut self) -> MicroBatch {
        let Cursor { epoch, position } = self.cursor;
        let end = (position + self.batch_size).min(self.rows);
        let rows = self.order[position..end].to_vec();
        let last_of_epoch = end == self.rows;
        match last_of_epoch {
            true => self.seek(Cursor {
                epoch: epoch + 1,
                position: 0,
            }),
            false => self.cursor.position = end,
        }
        MicroBatch {
            rows,
            epoch,
            last_of_epoch,
        }
    }
}

fn order(rows: usize, seed: u64, epoch: usize) -> Vec<usize> {
    SplitMix64::new(seed, epoch as u64).permutation(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_never_changes_between_versions() {
        assert_eq!(order(8, 42, 0), [1, 3, 4, 5, 0, 7, 6, 2]);
        assert_eq!(order(8, 42, 1), [2, 1, 6, 4, 7, 0, 3, 5]);
    }

    #[test]
    fn no_rows_do_not_hang_or_panic() {
        let mut loader = Loader::new(0, 4, 1);
        assert_eq!(loader.next_batch().rows, Vec::<usize>::new());
        loader.seek(Cursor { epoch: 3, position: 0 });
        assert_eq!(loader.next_batch().rows, Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn an_epoch_gives_each_row_once(rows in 1usize..50, batch in 1usize..9, seed: u64) {
            let mut loader = Loader::new(rows, batch, seed);
            for epoch in 0..3 {
                let mut seen = Vec::new();
                for i in 1..=loader.batches_per_epoch() {
                    let micro = loader.next_batch();
                    prop_assert_eq!((micro.epoch, micro.last_of_epoch), (epoch, i == loader.batches_per_epoch()));
                    seen.extend(micro.rows);
                }
                seen.sort();
                prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
            }
        }

        #[test]
        fn any_cursor_resumes_the_same_order(rows in 1usize..50, batch in 1usize..9, seed: u64, steps in 0usize..60) {
            let mut loader = Loader::new(rows, batch, seed);
            for _ in 0..steps {
                loader.next_batch();
            }
            let mut resumed = Loader::new(rows, batch, seed);
            resumed.seek(loader.cursor());
            for _ in 0..20 {
                prop_assert_eq!(loader.next_batch(), resumed.next_batch());
            }
        }
    }
}
