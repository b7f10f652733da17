//! The same numbers for TensorBoard, by `tensorboard-rs`: scalars only, the part of it that works.
//!
//! That crate panics where it cannot write, so its calls are fenced off: a run never dies of its TensorBoard. Its file
//! name has second resolution and an existing file is truncated, so the folder is written anew at each start, from
//! `metrics.jsonl`; that also leaves each step once after a resume.
use crate::{Result, TrainError, files, metrics};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tensorboard_rs::summary_writer::SummaryWriter;

/// Key in `metrics.jsonl` and TensorBoard's tag.
const SCALARS: [(&str, &str); 9] = [
    ("loss", "train/loss"),
    ("lr", "train/lr"),
    ("grad_norm", "train/grad_norm"),
    ("epoch", "train/epoch"),
    ("tokens_per_second", "speed/tokens_per_second"),
    ("learned_tokens_per_second", "speed/learned_tokens_per_second"),
    ("floor_share", "speed/floor_share"),
    ("eval_loss", "eval/loss"),
    ("perplexity", "eval/perplexity"),
];

pub struct TensorBoard {
    /// `None` after a failure.
    writer: Option<SummaryWriter>,
}

impl TensorBoard {
    pub fn open(dir: &Path, rows: &[Value]) -> Result<Self> {
        files::remove(dir)?;
        fs_err::create_dir_all(dir).map_err(TrainError::write(dir))?;
        let mut board = Self {
            writer: catch_unwind(|| SummaryWriter::new(dir)).ok(),
        };
        for row in rows {
            board.add(row);
        }
        board.flush();
        Ok(board)
    }

    /// Adds the scalars of a row of `metrics.jsonl`; false when writing has failed, now or before.
    pub fn add(&mut self, row: &Value) -> bool {
        let step = metrics::step_of(row);
        self.fenced(|writer| {
            for (key, tag) in SCALARS {
                if let Some(value) = row.get(key).and_then(Value::as_f64) {
                    writer.add_scalar(tag, value as f32, step);
                }
            }
        })
    }

    pub fn flush(&mut self) -> bool {
        self.fenced(SummaryWriter::flush)
    }

    fn fenced(&mut self, work: impl FnOnce(&mut SummaryWriter)) -> bool {
        let Some(mut writer) = self.writer.take() else {
            return false;
        };
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut writer))).is_ok();
        match done {
            true => self.writer = Some(writer),
            // Its drop would panic again.
            false => std::mem::forget(writer),
        }
        done
    }
}

impl Drop for TensorBoard {
    fn drop(&mut self) {
        let writer = self.writer.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(writer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_start_within_the_same_second_keeps_the_rows() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tensorboard");
        let rows: Vec<_> = (1..=20)
            .map(|step| json!({"step": step, "loss": 1.0 / step as f64}))
            .collect();
        for _ in 0..2 {
            let mut board = TensorBoard::open(&dir, &rows).unwrap();
            assert!(board.add(&json!({"step": 21, "eval_loss": 0.5, "perplexity": 1.6})));
        }
        let files: Vec<_> = fs_err::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let bytes = fs_err::read(files[0].path()).unwrap();
        let count = |tag: &[u8]| bytes.windows(tag.len()).filter(|window| *window == tag).count();
        assert_eq!((count(b"train/loss"), count(b"eval/loss")), (20, 1));
    }
}
