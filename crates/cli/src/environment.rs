//! The only file that reads the environment.
#![allow(clippy::disallowed_methods)] // The one file that reads the environment.
use std::env;
use std::path::{Path, PathBuf};
use tune_model::OpenOptions;
use tune_rag::settings::StoreKind;

/// Non-empty text of a variable.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn flag(name: &str) -> bool {
    text(name).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "off" | "no"))
}

fn home() -> Option<PathBuf> {
    text("HOME").or_else(|| text("USERPROFILE")).map(PathBuf::from)
}

/// `NO_COLOR` is set to anything (<https://no-color.org>).
pub fn no_color() -> bool {
    text("NO_COLOR").is_some()
}

/// The key of a vector database, by the name its own programs read: `QDRANT_API_KEY`, `CHROMA_API_KEY`.
pub fn store_key(store: StoreKind) -> Option<String> {
    match store {
        StoreKind::Sqlite => None,
        StoreKind::Qdrant => text("QDRANT_API_KEY"),
        StoreKind::Chroma => text("CHROMA_API_KEY"),
    }
}

/// A variable that a setting names; an empty name is none.
pub fn named(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| text(name)).flatten()
}

/// `TUNE_DEVICE` and `TUNE_<SECTION>__<KEY>`: settings of a run. Sorted by name.
pub fn settings() -> Vec<(String, String)> {
    let ours = |name: &String| name == "TUNE_DEVICE" || (name.starts_with("TUNE_") && name.contains("__"));
    let mut found: Vec<_> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ours(name))
        .collect();
    found.sort();
    found
}

/// Where the hub keeps what it downloaded: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
pub fn hub_cache() -> Option<PathBuf> {
    text("HF_HUB_CACHE")
        .map(PathBuf::from)
        .or_else(|| hub_home().map(|home| home.join("hub")))
}

fn hub_home() -> Option<PathBuf> {
    let default = || home().map(|home| home.join(".cache/huggingface"));
    text("HF_HOME").map(PathBuf::from).or_else(default)
}

/// `HF_TOKEN`, else what `hf auth login` left; with where it was found.
pub fn hub_token() -> Option<(String, String)> {
    if let Some(token) = text("HF_TOKEN") {
        return Some((token, "HF_TOKEN".into()));
    }
    let file = text("HF_TOKEN_PATH")
        .map(PathBuf::from)
        .or_else(|| hub_home().map(|home| home.join("token")))?;
    let token = fs_err::read_to_string(&file).ok()?.trim().to_string();
    (!token.is_empty()).then(|| (token, file.display().to_string()))
}

/// How the hub is reached: `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.
pub fn hub(revision: Option<&str>, offline: bool, progress: bool) -> OpenOptions {
    OpenOptions {
        revision: revision.filter(|r| !r.is_empty()).map(str::to_string),
        offline: offline || flag("HF_HUB_OFFLINE"),
        cache: hub_cache(),
        token: hub_token().map(|(token, _)| token),
        endpoint: text("HF_ENDPOINT"),
        progress,
    }
}

/// Tokenized data between runs: `TUNE_CACHE`, else `tune` in the user's cache folder.
pub fn token_cache() -> Option<PathBuf> {
    let cache = || {
        text("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| home().map(|home| home.join(".cache")))
    };
    text("TUNE_CACHE")
        .map(PathBuf::from)
        .or_else(|| cache().map(|cache| cache.join("tune/tokens")))
}

/// Every program called `name` on the PATH, in its order.
pub fn on_path(name: &str) -> Vec<PathBuf> {
    let folders = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    for file in folders
        .iter()
        .map(|folder| folder.join(name))
        .filter(|file| file.is_file())
    {
        if !found.contains(&file) {
            found.push(file);
        }
    }
    found
}

/// The file that is called as `tune`.
pub fn this_binary() -> Option<PathBuf> {
    let running = env::current_exe().ok().and_then(|path| path.canonicalize().ok())?;
    let launcher = running.with_file_name("tune");
    Some(if launcher.is_file() { launcher } else { running })
}

/// A folder of our own for scratch files.
pub fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("{name}-{}", std::process::id()))
}

/// `path` with the home folder written `~`.
pub fn short(path: &Path) -> String {
    let inside = home().and_then(|home| path.strip_prefix(home).ok().map(Path::to_path_buf));
    inside.map_or_else(|| path.display().to_string(), |rest| format!("~/{}", rest.display()))
}
