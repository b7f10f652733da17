//! Files appear under their name complete, or not at all.
use fs_err::File;
use std::io::{self, Write};
use std::path::Path;

/// Written beside its place, flushed to disk, then renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    sweep(path, &name);
    let staged = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_through(&staged, bytes).and_then(|()| fs_err::rename(&staged, path));
    if written.is_err() {
        // The error tells; what is left of the attempt need not stay.
        let _ = fs_err::remove_file(&staged);
    }
    written
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes what writers of `path` left beside it when they were killed, where the system lists its processes.
fn sweep(path: &Path, name: &str) {
    let mark = format!(".{name}.");
    let writer = |entry: &str| -> Option<u32> { entry.strip_prefix(&mark)?.strip_suffix(".tmp")?.parse().ok() };
    let is_dead = |process: u32| !Path::new(&format!("/proc/{process}")).exists();
    if !Path::new("/proc/self").exists() {
        return;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    for entry in fs_err::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_str().and_then(writer).is_some_and(is_dead) {
            let _ = fs_err::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_killed_left_goes_and_what_others_write_stays() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let left = at(&format!(".x.json.{}.tmp", ended.id()));
        let other = at(&format!(".x.json.{}.tmp", std::os::unix::process::parent_id()));
        fs_err::write(&left, "half").unwrap();
        fs_err::write(&other, "half").unwrap();
        write_file(&at("x.json"), b"whole").unwrap();
        assert!(!left.exists() && other.exists());
        assert_eq!(fs_err::read(at("x.json")).unwrap(), b"whole");
    }
}
