//! Finds the LibTorch that the program is to start with, and says what is wrong where there is none: the dynamic loader
//! would say it before the program's first line. Linked into the launcher, which links no LibTorch; standard library alone.
#![allow(clippy::disallowed_methods)] // Runs before there is a program whose settings it could read.
use crate::libtorch_version::version_in;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program itself, beside the launcher.
pub const PROGRAM: &str = "tune-libtorch";
/// What the program was built against, such as `2.11.0+cu130`, and where that lay.
pub const BUILT_AGAINST: &str = env!("TUNE_LIBTORCH_VERSION");
const BUILT_IN: &str = env!("TUNE_LIBTORCH_FOLDER");
/// Its folder is LibTorch's.
const LIBRARY: &str = "libtorch_cpu.so";
/// The user's word on which LibTorch to take.
const OURS: &str = "TUNE_LIBTORCH";

/// A place LibTorch may be, to be put before the folders the loader looks in by itself.
struct Place {
    name: String,
    folder: Option<PathBuf>,
}

impl Place {
    /// Why the program cannot be started from here; `path`: `LD_LIBRARY_PATH` with this place in front.
    fn problem(&self, program: &Path, path: Option<&OsString>) -> Option<String> {
        if self
            .folder
            .as_ref()
            .is_some_and(|folder| !folder.join(LIBRARY).exists())
        {
            return Some(format!("there is no {LIBRARY}"));
        }
        let loaded = trace(program, path);
        let version = loaded.folder.as_deref().or(self.folder.as_deref()).and_then(version_in);
        problem(&loaded, version.as_deref())
    }
}

/// What the loader would do.
#[derive(Debug, Default, PartialEq)]
struct Loaded {
    /// Where LibTorch would come from.
    folder: Option<PathBuf>,
    /// Libraries it does not find or cannot read, and versions of symbols.
    missing: Vec<String>,
}

/// The value of `LD_LIBRARY_PATH` to start `program` with (`None`: as it is); else the message to end with.
pub fn library_path(program: &Path) -> Result<Option<OsString>, String> {
    if !program.is_file() {
        return Err(format!(
            "error: {PROGRAM} is not beside tune; wanted it at {}\n\nhint: both files are made by one build and belong in one folder",
            program.display()
        ));
    }
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let mut seen = Vec::new();
    for place in places() {
        let path = place.folder.as_deref().map(before_the_rest);
        match place.problem(program, path.as_ref()) {
            None => return Ok(path),
            Some(problem) => seen.push((place, problem)),
        }
    }
    Err(explain(&seen))
}

/// In the order they are tried. Who names a folder means that one and no other.
fn places() -> Vec<Place> {
    let folder = |variable: &str| env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    let place = |name: &str, folder| Place {
        name: name.into(),
        folder,
    };
    if let Some(named) = folder(OURS) {
        return vec![place(OURS, Some(lib_of(named)))];
    }
    let mut places = vec![place("by itself", None)];
    places.extend(folder("LIBTORCH").map(|root| place("LIBTORCH", Some(lib_of(root)))));
    places.extend(["python3", "python"].into_iter().find_map(|python| {
        let folder = torch_of(python)?;
        Some(place(python, Some(folder)))
    }));
    places
}

fn lib_of(root: PathBuf) -> PathBuf {
    let lib = root.join("lib");
    if lib.is_dir() { lib } else { root }
}

/// Where the active Python keeps torch. Asks where it is without importing it, which would take seconds.
fn torch_of(python: &str) -> Option<PathBuf> {
    const ASK: &str =
        "import importlib.util as u; s = u.find_spec('torch'); s and print(s.submodule_search_locations[0])";
    let output = Command::new(python).args(["-c", ASK]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).join("lib");
    folder.is_dir().then_some(folder)
}

fn before_the_rest(folder: &Path) -> OsString {
    let rest = env::var_os("LD_LIBRARY_PATH").filter(|path| !path.is_empty());
    let mut path = folder.as_os_str().to_owned();
    if let Some(rest) = rest {
        path.push(":");
        path.push(rest);
    }
    path
}

/// Asks the loader what it would load; it runs nothing and takes milliseconds (`ld.so(8)`, LD_TRACE_LOADED_OBJECTS).
fn trace(program: &Path, library_path: Option<&OsString>) -> Loaded {
    let mut command = Command::new(program);
    command.env("LD_TRACE_LOADED_OBJECTS", "1");
    if let Some(path) = library_path {
        command.env("LD_LIBRARY_PATH", path);
    }
    match command.output() {
        Ok(output) => parse(
            &String::from_utf8_lossy(&output.stdout),
            &String::from_utf8_lossy(&output.stderr),
        ),
        Err(error) => Loaded {
            folder: None,
            missing: vec![error.to_string()],
        },
    }
}

/// `NAME => PATH (0x…)` or `NAME => not found` on stdout; `FILE: version `X' not found (required by Y)` and `error while
/// loading shared libraries: …` on stderr.
fn parse(stdout: &str, stderr: &str) -> Loaded {
    let mut loaded = Loaded::default();
    for (name, place) in stdout.lines().filter_map(|line| line.trim().split_once(" => ")) {
        if place.starts_with("not found") {
            loaded.missing.push(name.to_string());
        } else if name == LIBRARY {
            let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
            loaded.folder = Path::new(path).parent().map(Path::to_path_buf);
        }
    }
    let complaints = stderr
        .lines()
        .filter(|line| line.contains("not found") || line.contains("error while loading"));
    loaded.missing.extend(complaints.map(|line| line.trim().to_string()));
    loaded
}

fn problem(loaded: &Loaded, version: Option<&str>) -> Option<String> {
    const NAMED: usize = 3;
    let wanted = release(BUILT_AGAINST);
    if let Some(found) = version.filter(|found| release(found) != wanted) {
        return Some(format!("version {found}, wanted {wanted}"));
    }
    let missing = &loaded.missing;
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = &missing[..missing.len().min(NAMED)];
    (!missing.is_empty()).then(|| format!("not found: {}{more}", named.join(", ")))
}

/// `2.11` of `2.11.0+cu130`: what may differ within it is compatible.
fn release(version: &str) -> &str {
    let dots: Vec<usize> = version.match_indices('.').map(|(at, _)| at).collect();
    dots.get(1).map_or(version, |second| &version[..*second])
}

fn explain(seen: &[(Place, String)]) -> String {
    let mut text = format!(
        "error: this tune computes with LibTorch {}, which cannot be loaded\n",
        release(BUILT_AGAINST)
    );
    for (place, problem) in seen {
        let folder = place.folder.as_deref();
        let place_of = folder.map_or_else(
            || format!("{BUILT_IN}, ../lib/libtorch beside tune, the system's folders"),
            |folder| folder.display().to_string(),
        );
        text += &format!("  {:<13} {place_of}\n  {:<13} {problem}\n", place.name, "");
    }
    let plain = BUILT_AGAINST.split('+').next().unwrap_or(BUILT_AGAINST);
    text + &format!(
        "  {:<13} LibTorch {BUILT_AGAINST}\n\nhint: pip install torch=={plain} into the active Python environment, or name a \
         LibTorch: {OURS}=/path/to/torch/lib; docs/install-gpu.md has the whole way",
        "built against"
    )
}

/// Where the LibTorch that this process runs with lies, and its version. For the program; the launcher has none.
#[allow(dead_code)]
pub fn loaded() -> (Option<PathBuf>, Option<String>) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let mut ours = path.filter(|path| path.ends_with(LIBRARY));
    let folder = ours.next().and_then(Path::parent).map(Path::to_path_buf);
    let version = folder.as_deref().and_then(version_in);
    (folder, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibtorch_cpu.so => /env/torch/lib/libtorch_cpu.so (0x00007fa9)\n\
                        \tlibc.so.6 => /lib/libc.so.6 (0x00007fa9)\n";

    #[test]
    fn what_the_loader_says_is_understood() {
        let good = parse(GOOD, "");
        assert_eq!(good.folder.as_deref(), Some(Path::new("/env/torch/lib")));
        assert_eq!(problem(&good, Some(BUILT_AGAINST)), None);
        let none = parse("\tlibtorch_cpu.so => not found\n\tlibc10.so => not found\n", "");
        assert_eq!(problem(&none, None).unwrap(), "not found: libtorch_cpu.so, libc10.so");
        let old_system =
            "./tune-libtorch: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./tune-libtorch)\n";
        assert!(problem(&parse(GOOD, old_system), None).unwrap().contains("GLIBC_2.38"));
    }

    #[test]
    fn the_libtorch_of_this_process_is_found() {
        let (folder, version) = loaded();
        assert!(
            folder.is_some() && version.as_deref() == Some(BUILT_AGAINST),
            "{folder:?} {version:?}"
        );
    }

    #[test]
    fn another_release_is_refused_and_both_are_named() {
        let text = problem(&parse(GOOD, ""), Some("1.13.1")).unwrap();
        assert!(
            text.contains("1.13.1") && text.contains(release(BUILT_AGAINST)),
            "{text}"
        );
        assert_eq!(release("2.11.0+cu130"), "2.11");
    }
}
