//! Append-only logs of a run, one JSON object a line, on disk before the next step begins.
use crate::{Result, TrainError};
use fs_err::{File, OpenOptions};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tune_model::staging;

pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens for appending after dropping every row past `step` and what a killed process left half-written, so that
    /// the file has each step once.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let kept: String = lines(path)?
            .into_iter()
            .filter(|(row, _)| step_of(row) <= step)
            .map(|(_, line)| line + "\n")
            .collect();
        staging::write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(TrainError::write(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    pub fn write(&mut self, row: &impl Serialize) -> Result<()> {
        let written = serde_json::to_vec(row).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        });
        written.map_err(TrainError::write(&self.path))
    }
}

/// All whole rows; none if there is no such file.
pub fn rows(path: &Path) -> Result<Vec<Value>> {
    Ok(lines(path)?.into_iter().map(|(row, _)| row).collect())
}

/// `(step, row[key])` of the rows that have `key`.
pub fn series(rows: &[Value], key: &str) -> Vec<(f64, f64)> {
    rows.iter()
        .filter_map(|row| Some((step_of(row) as f64, row.get(key)?.as_f64()?)))
        .collect()
}

pub fn step_of(row: &Value) -> usize {
    row.get("step").and_then(Value::as_u64).unwrap_or(0) as usize
}

fn lines(path: &Path) -> Result<Vec<(Value, String)>> {
    let text = match fs_err::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(TrainError::read(path)(error)),
    };
    let whole = |line: &str| Some((serde_json::from_str::<Value>(line).ok()?, line.to_string()));
    Ok(text.lines().filter_map(whole).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reopening_keeps_each_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = JsonLines::open(&path, 0).unwrap();
        for step in 1..=5 {
            log.write(&json!({"step": step, "loss": 0.5})).unwrap();
        }
        log.write(&json!({"step": 4, "eval_loss": 0.25})).unwrap();
        fs_err::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"step\": 6, \"lo")
            .unwrap();
        let mut log = JsonLines::open(&path, 4).unwrap();
        log.write(&json!({"step": 5, "loss": 0.75})).unwrap();
        let rows = rows(&path).unwrap();
        assert_eq!(rows.iter().map(step_of).collect::<Vec<_>>(), [1, 2, 3, 4, 4, 5]);
        assert_eq!(series(&rows, "eval_loss"), [(4.0, 0.25)]);
        assert_eq!(series(&rows, "loss").last(), Some(&(5.0, 0.75)));
    }
}
