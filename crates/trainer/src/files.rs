//! Small helpers over [`tune_model::staging`], by which every file and folder appears whole or not at all.
use crate::{Result, TrainError};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::path::Path;
use tune_model::staging;

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| TrainError::Write {
        path: path.to_path_buf(),
        source: io::Error::other(error),
    })?;
    bytes.push(b'\n');
    Ok(staging::write_file(path, &bytes)?)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs_err::read(path).map_err(TrainError::read(path))?;
    serde_json::from_slice(&bytes).map_err(|error| TrainError::Damaged {
        path: path.to_path_buf(),
        problem: error.to_string(),
    })
}

/// blake3 of a file's bytes, in hex.
pub fn hash(path: &Path) -> Result<String> {
    let bytes = fs_err::read(path).map_err(TrainError::read(path))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// Removes what a killed process left staged in `dir`.
pub fn remove_stale(dir: &Path) -> Result<()> {
    for entry in fs_err::read_dir(dir).map_err(TrainError::read(dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or folder that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs_err::remove_dir_all(path)
    } else {
        fs_err::remove_file(path)
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(TrainError::Write {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_staged_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join(".step-000010.123-0.tmp")).unwrap();
        fs_err::write(dir.path().join(".lock"), "").unwrap();
        remove_stale(dir.path()).unwrap();
        assert!(dir.path().join(".lock").exists());
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
        remove(&dir.path().join("never there")).unwrap();
    }
}
