//! Files appear under their name complete, or not at all.
use fs_err::File;
use std::io::{self, Write};
use std::path::Path;

/// Written beside its place, flushed to disk, then renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
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
