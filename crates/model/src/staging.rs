//! Nothing half-written: files and folders appear under their name complete, or not at all.
use crate::{ModelError, Result};
use fs_err::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file written beside its place, whose folder is made if need be, and renamed into it by [`StagedFile::commit`]; dropped
/// before that, it is gone.
pub struct StagedFile {
    path: PathBuf,
    staged: PathBuf,
    writer: BufWriter<File>,
}

impl StagedFile {
    pub fn create(path: &Path) -> Result<Self> {
        let staged = beside(path);
        let create = || {
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            sweep(path);
            File::create_new(&staged)
        };
        let file = create().map_err(|source| write_error(path, source))?;
        Ok(Self {
            path: path.to_path_buf(),
            staged,
            writer: BufWriter::with_capacity(1 << 20, file),
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer
            .write_all(bytes)
            .map_err(|source| write_error(&self.path, source))
    }

    /// Flushes to disk, then gives the file its name.
    pub fn commit(mut self) -> Result<()> {
        self.settle().map_err(|source| write_error(&self.path, source))
    }

    fn settle(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        fs_err::rename(&self.staged, &self.path)?;
        sync_folder(&self.path)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a commit there is nothing under this name any more, which is as good as removed.
        let _ = fs_err::remove_file(&self.staged);
    }
}

/// A folder filled beside its place and renamed into it by [`StagedFolder::commit`]; dropped before that, it is gone.
pub struct StagedFolder {
    target: PathBuf,
    path: PathBuf,
}

impl StagedFolder {
    /// `is_earlier` says whether a non-empty folder already at `path` may be replaced.
    pub fn create(path: &Path, is_earlier: impl Fn(&Path) -> bool) -> Result<Self> {
        let taken = path.is_file() || path.exists() && !is_empty_folder(path) && !is_earlier(path);
        if taken {
            return Err(ModelError::OutputExists {
                path: path.to_path_buf(),
            });
        }
        sweep(path);
        let staged = beside(path);
        fs_err::create_dir_all(&staged).map_err(|source| write_error(path, source))?;
        Ok(Self {
            target: path.to_path_buf(),
            path: staged,
        })
    }

    /// Where to write until the commit.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder its name; one that stood there is removed.
    pub fn commit(self) -> Result<()> {
        self.settle().map_err(|source| write_error(&self.target, source))
    }

    fn settle(&self) -> io::Result<()> {
        let old = beside(&self.target);
        if self.target.exists() {
            fs_err::rename(&self.target, &old)?;
        }
        if let Err(error) = fs_err::rename(&self.path, &self.target) {
            if old.exists() {
                fs_err::rename(&old, &self.target)?;
            }
            return Err(error);
        }
        sync_folder(&self.target)?;
        if old.exists() {
            fs_err::remove_dir_all(&old)
        } else {
            Ok(())
        }
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.path);
    }
}

/// Writes a whole file at once, see [`StagedFile`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = StagedFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

fn write_error(path: &Path, source: io::Error) -> ModelError {
    ModelError::Write {
        path: final_path(path),
        source,
    }
}

/// The path under the names that files and folders get in the end: the ones the user knows.
fn final_path(path: &Path) -> PathBuf {
    let mark = format!(".{}-", std::process::id());
    let name = |part: &str| {
        Some(
            part.strip_prefix('.')?
                .strip_suffix(".tmp")?
                .rsplit_once(&mark)?
                .0
                .to_string(),
        )
    };
    let last = |part: &std::ffi::OsStr| part.to_str().and_then(name).map_or(part.to_owned(), Into::into);
    path.components().map(|part| last(part.as_os_str())).collect()
}

/// A name in the same folder that no other writer, in this process or another, is using.
fn beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Removes what writers of `path` left [`beside`] it when they were killed. What cannot be looked at or removed stays.
fn sweep(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mark = format!(".{name}.");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let writer = |entry: &str| -> Option<u32> {
        let (pid, _) = entry.strip_prefix(&mark)?.strip_suffix(".tmp")?.split_once('-')?;
        pid.parse().ok()
    };
    for entry in fs_err::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_str().and_then(writer).is_some_and(is_dead) {
            let left = entry.path();
            let _ = if left.is_dir() {
                fs_err::remove_dir_all(&left)
            } else {
                fs_err::remove_file(&left)
            };
        }
    }
}

/// Only where the system lists its processes.
fn is_dead(process: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists()
}

fn is_empty_folder(path: &Path) -> bool {
    fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// A rename is only on disk once the folder that holds the name is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_file(&path, b"old").unwrap();
        let mut staged = StagedFile::create(&path).unwrap();
        staged.write(b"half").unwrap();
        drop(staged);
        assert_eq!(fs_err::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["x"]);
    }

    #[test]
    fn a_folder_replaces_only_what_may_be_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out");
        let fill = |text: &[u8], may: bool| -> Result<()> {
            let staged = StagedFolder::create(&path, |_| may)?;
            write_file(&staged.path().join("file"), text)?;
            staged.commit()
        };
        fill(b"1", false).unwrap();
        assert!(matches!(fill(b"2", false), Err(ModelError::OutputExists { .. })));
        assert_eq!(fs_err::read(path.join("file")).unwrap(), b"1");
        fill(b"3", true).unwrap();
        assert_eq!(fs_err::read(path.join("file")).unwrap(), b"3");
        assert_eq!(names(parent.path()), ["out"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_killed_left_goes_and_what_others_write_stays() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (dead, alive) = (ended.id(), std::os::unix::process::parent_id());
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs_err::create_dir(at(&format!(".out.{dead}-0.tmp"))).unwrap();
        let others = [
            format!(".out.{alive}-0.tmp"),
            format!(".output.{dead}-0.tmp"),
            ".out.x-0.tmp".into(),
        ];
        others.iter().for_each(|name| fs_err::write(at(name), "").unwrap());
        fs_err::write(at(&format!(".out.{dead}-1.tmp")), "").unwrap();
        write_file(&at("out"), b"").unwrap();
        let mut wanted = others.to_vec();
        wanted.push("out".into());
        wanted.sort();
        let mut found = names(folder.path());
        found.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn an_error_names_the_path_the_user_knows() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let staged = StagedFolder::create(&out, |_| false).unwrap();
        write_file(&staged.path().join("file"), b"").unwrap();
        let error = write_file(&staged.path().join("file/x"), b"").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot write {}", out.join("file/x").display())
        );
    }
}
