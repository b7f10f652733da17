//! Nothing half-written: a file or folder appears under its name complete, or not at all.
use crate::{Result, TrainError};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = staged(path);
    let written = (|| -> io::Result<()> {
        let mut file = fs_err::File::create(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs_err::rename(&staged, path)?;
        sync_parent(path)
    })();
    written.map_err(|source| {
        let _ = fs_err::remove_file(&staged);
        TrainError::Write { path: path.to_path_buf(), source }
    })
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| TrainError::Write { path: path.to_path_buf(), source: io::Error::other(error) })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs_err::read(path).map_err(TrainError::read(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::Damaged { path: path.to_path_buf(), problem: error.to_string() })
}

/// A folder filled beside its place and moved into it by [`Staged::commit`]; dropped before that, it is gone.
pub struct Staged {
    target: PathBuf,
    staged: PathBuf,
}

impl Staged {
    pub fn beside(target: &Path) -> Result<Self> {
        let staged = staged(target);
        remove(&staged)?;
        fs_err::create_dir_all(&staged).map_err(TrainError::write(&staged))?;
        Ok(Self { target: target.to_path_buf(), staged })
    }

    /// Where to write until the commit.
    pub fn path(&self) -> &Path {
        &self.staged
    }

    /// Gives the folder its name; one that stood there is removed.
    pub fn commit(self) -> Result<()> {
        let old = self.target.with_file_name(format!("{}.old", file_name(&self.staged)));
        let moved = (|| -> io::Result<()> {
            if self.target.exists() {
                fs_err::rename(&self.target, &old)?;
            }
            fs_err::rename(&self.staged, &self.target)?;
            sync_parent(&self.target)
        })();
        moved.map_err(TrainError::write(&self.target))?;
        remove(&old)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.staged);
    }
}

/// Removes what a killed process left staged in `dir`.
pub fn remove_stale(dir: &Path) -> Result<()> {
    for entry in fs_err::read_dir(dir).map_err(TrainError::read(dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && (name.ends_with(".tmp") || name.ends_with(".tmp.old")) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or folder that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TrainError::Write { path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

fn staged(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.tmp", file_name(path)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A rename is only on disk once the folder that holds the name is.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_and_stale_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("adapter");
        for content in ["old", "new"] {
            let staged = Staged::beside(&target).unwrap();
            write(&staged.path().join("file"), content.as_bytes()).unwrap();
            staged.commit().unwrap();
        }
        assert_eq!(fs_err::read_to_string(target.join("file")).unwrap(), "new");
        fs_err::create_dir(dir.path().join(".step-000010.tmp")).unwrap();
        remove_stale(dir.path()).unwrap();
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_names_the_path_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("state.json");
        let error = write_json(&path, &1).unwrap_err();
        assert!(error.to_string().contains("state.json"), "{error}");
    }
}
