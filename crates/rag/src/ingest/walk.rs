//! Folders, globs and files to the files they mean, each with the name its document goes by.
use super::{Format, Skipped, modified};
use crate::error::{RagError, Result};
use fs_err as fs;
use globset::{GlobBuilder, GlobMatcher};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    /// Relative to the folder it was found in; with that folder where two have a file of this name.
    pub name: String,
    pub format: Format,
}

impl Source {
    /// In bytes, and in seconds since 1970; `None` where it cannot be looked at.
    pub fn size_and_time(&self) -> Option<(u64, u64)> {
        let metadata = fs::metadata(&self.path).ok()?;
        Some((metadata.len(), modified(&metadata)))
    }

    /// How many documents it will make, before it is read: for JSONL its lines.
    pub fn documents(&self) -> usize {
        let lines = || {
            let lines = BufReader::new(fs::File::open(&self.path).ok()?).split(b'\n');
            Some(
                lines
                    .map_while(std::io::Result::ok)
                    .filter(|line| !line.trim_ascii().is_empty())
                    .count(),
            )
        };
        match self.format {
            Format::Jsonl => lines().unwrap_or(1),
            _ => 1,
        }
    }
}

/// Sources in the order of their names, and files that are of no known type. Names that begin with a dot are passed
/// over in silence.
pub fn sources(patterns: &[String]) -> Result<(Vec<Source>, Vec<Skipped>)> {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for pattern in patterns {
        let (root, glob) = parse(pattern)?;
        let mut files = Vec::new();
        list(&root, &mut files, &mut BTreeSet::new())?;
        files.retain(|file| glob.as_ref().is_none_or(|glob| glob.is_match(file)));
        if files.is_empty() && glob.is_some() {
            return Err(RagError::Missing {
                pattern: pattern.clone(),
            });
        }
        let root = if root.is_file() {
            root.parent().unwrap_or(Path::new("")).to_path_buf()
        } else {
            root
        };
        found.extend(files.into_iter().map(|file| (root.clone(), file)));
    }
    let mut seen = BTreeSet::new();
    found.retain(|(_, file)| seen.insert(file.clone()));
    let (sources, skipped) = named(&found);
    if sources.is_empty() {
        let found = match skipped.len() {
            0 => "nothing".to_string(),
            1 => "1 file of another type".into(),
            count => format!("{count} files of other types"),
        };
        let patterns = patterns.to_vec();
        return Err(RagError::NoDocuments { patterns, found });
    }
    Ok((sources, skipped))
}

/// The folder or file to look in, and what to look for there.
fn parse(pattern: &str) -> Result<(PathBuf, Option<GlobMatcher>)> {
    let path = PathBuf::from(pattern);
    if path.exists() {
        return Ok((path, None));
    }
    if !pattern.contains(['*', '?', '[', '{']) {
        return Err(RagError::Missing {
            pattern: pattern.to_string(),
        });
    }
    let literal = path
        .components()
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']));
    let root: PathBuf = literal.collect();
    let root = if root.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        root
    };
    if !root.exists() {
        return Err(RagError::Missing {
            pattern: pattern.to_string(),
        });
    }
    let pattern = if root == Path::new(".") {
        format!("./{pattern}")
    } else {
        pattern.to_string()
    };
    Ok((root, Some(glob(&pattern)?)))
}

/// `*` stays within a folder, `**` does not.
fn glob(pattern: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| RagError::Pattern {
            pattern: pattern.to_string(),
            problem: error.kind().to_string(),
        })
}

/// `open` holds the folders being listed, real names, so that a link back to one of them ends there.
fn list(path: &Path, files: &mut Vec<PathBuf>, open: &mut BTreeSet<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let failed = |source| RagError::Folder {
        path: path.to_path_buf(),
        source,
    };
    let real = fs::canonicalize(path).map_err(failed)?;
    if !open.insert(real.clone()) {
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for entry in entries {
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && (entry.is_file() || entry.is_dir()) {
            list(&entry, files, open)?;
        }
    }
    open.remove(&real);
    Ok(())
}

fn named(found: &[(PathBuf, PathBuf)]) -> (Vec<Source>, Vec<Skipped>) {
    let short = |root: &Path, file: &Path| slashed(file.strip_prefix(root).unwrap_or(file));
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for (root, file) in found {
        *uses.entry(short(root, file)).or_default() += 1;
    }
    let (mut sources, mut skipped) = (Vec::new(), Vec::new());
    for (root, file) in found {
        let name = short(root, file);
        let name = if uses[&name] > 1 { slashed(file) } else { name };
        match Format::of(file) {
            Some(format) => sources.push(Source {
                path: file.clone(),
                name,
                format,
            }),
            None => skipped.push(Skipped {
                path: name,
                reason: "not a type of document that is read".into(),
            }),
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    (sources, skipped)
}

fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[String]) -> Vec<String> {
        sources(patterns)
            .unwrap()
            .0
            .into_iter()
            .map(|source| source.name)
            .collect()
    }

    #[test]
    fn folders_globs_and_files_in_one_order() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "a/x.md",
            "a/deep/y.txt",
            "a/.git/z.md",
            "a/picture.png",
            "b/x.md",
            "c.html",
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        let at = |name: &str| root.path().join(name).display().to_string();
        assert_eq!(names(&[at("a"), at("c.html")]), ["c.html", "deep/y.txt", "x.md"]);
        assert_eq!(names(&[at("a/*.md"), at("a")]), ["deep/y.txt", "x.md"]);
        assert_eq!(names(&[at("**/*.md")]), ["a/x.md", "b/x.md"]);
        let both = names(&[at("a"), at("b")]);
        assert!(both[0].ends_with("a/x.md") && both[1].ends_with("b/x.md"), "{both:?}");
        assert_eq!(sources(&[at("a")]).unwrap().1[0].path, "picture.png");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).display().to_string();
        assert!(matches!(sources(&[at("none")]), Err(RagError::Missing { .. })));
        assert!(matches!(sources(&[at("*.md")]), Err(RagError::Missing { .. })));
        assert!(matches!(sources(&[at("")]), Err(RagError::NoDocuments { .. })));
        fs::write(root.path().join("x.md"), "x").unwrap();
        assert!(matches!(sources(&[at("[.md")]), Err(RagError::Pattern { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_the_folder_above_ends() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x.md"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("again")).unwrap();
        assert_eq!(names(&[root.path().display().to_string()]), ["x.md"]);
    }
}
