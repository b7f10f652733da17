//! Hub ids: a snapshot folder out of the shared cache, downloaded first where it is not complete.
use super::{OpenOptions, folder};
use crate::error::HubProblem;
use crate::{ModelError, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// `org/name`, of the letters the hub allows.
pub(super) fn is_id(base: &str) -> bool {
    let part = |s: &str| {
        !s.is_empty() && !s.starts_with(['.', '-']) && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    !base.ends_with(".gguf") && base.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// The snapshot folder of a model, complete. What the cache already holds is used without asking the hub.
pub(super) fn snapshot(id: &str, options: &OpenOptions) -> Result<PathBuf> {
    let hub = Hub::new(id, options)?;
    if let Some(folder) = hub.cached() {
        return Ok(folder);
    }
    if options.offline {
        return Err(hub.error(HubProblem::NotCached(hub.cache.clone()), None));
    }
    hub.download(options)?;
    hub.cached().ok_or_else(|| hub.error(HubProblem::Failed, None))
}

struct Hub {
    id: String,
    revision: String,
    cache: PathBuf,
}

impl Hub {
    fn new(id: &str, options: &OpenOptions) -> Result<Self> {
        let revision = options.revision.clone().unwrap_or_else(|| "main".to_string());
        let default = || std::env::home_dir().map(|home| home.join(".cache/huggingface/hub"));
        let cache = options.cache.clone().or_else(default);
        let hub = Self {
            id: id.to_string(),
            revision,
            cache: cache.clone().unwrap_or_default(),
        };
        if cache.is_none() {
            Err(hub.error(HubProblem::NoCache, None))
        } else {
            Ok(hub)
        }
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }

    /// The cached snapshot, if it has all that a base needs. A branch or tag is looked up in `refs/`; a
    /// commit names its folder itself.
    fn cached(&self) -> Option<PathBuf> {
        let model = self.cache.join(self.repo().folder_name());
        let commit = fs_err::read_to_string(model.join("refs").join(&self.revision)).ok();
        let snapshot = model
            .join("snapshots")
            .join(commit.as_deref().unwrap_or(&self.revision).trim());
        is_complete(&snapshot).then_some(snapshot)
    }

    fn download(&self, options: &OpenOptions) -> Result<()> {
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_progress(options.progress)
            .with_retries(3);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_string());
        }
        if options.token.is_some() {
            builder = builder.with_token(options.token.clone());
        }
        let api = builder.build().map_err(|error| self.api_error(error))?;
        self.fetch(&api.repo(self.repo()))
            .map_err(|error| self.api_error(error))?
    }

    /// Small files first, weights last. The inner result is ours, the outer one hf-hub's.
    fn fetch(&self, repo: &ApiRepo) -> std::result::Result<Result<()>, ApiError> {
        let present: BTreeSet<String> = repo.info()?.siblings.into_iter().map(|file| file.rfilename).collect();
        // Without its scores no GGUF of such a tokenizer can be written.
        let small = folder::SMALL_FILES.iter().chain([&folder::SENTENCEPIECE]);
        for name in small.filter(|name| present.contains(**name)) {
            repo.get(name)?;
        }
        let shards = if present.contains(folder::SINGLE) {
            BTreeSet::from([folder::SINGLE.to_string()])
        } else if present.contains(folder::INDEX) {
            match folder::read_index(&repo.get(folder::INDEX)?) {
                Ok(map) => map.into_values().collect(),
                Err(error) => return Ok(Err(error)),
            }
        } else {
            return Ok(Err(self.no_weights(&present)));
        };
        for name in &shards {
            repo.get(name)?;
        }
        Ok(Ok(()))
    }

    fn no_weights(&self, present: &BTreeSet<String>) -> ModelError {
        let folder = PathBuf::from(&self.id);
        match present.iter().find(|name| name.ends_with(".bin")) {
            Some(file) => ModelError::PickledWeights {
                folder,
                file: file.clone(),
            },
            None => ModelError::MissingFiles {
                folder,
                files: vec![format!("{} (or {})", folder::SINGLE, folder::INDEX)],
            },
        }
    }

    fn api_error(&self, error: ApiError) -> ModelError {
        let problem = match status(&error) {
            Some(code @ (401 | 403)) => HubProblem::Refused(code),
            Some(404) => HubProblem::NoSuchModel,
            None if matches!(error, ApiError::RequestError(_)) => HubProblem::Unreachable(self.cache.clone()),
            _ => HubProblem::Failed,
        };
        self.error(problem, Some(Box::new(error)))
    }

    fn error(&self, problem: HubProblem, source: Option<Box<dyn std::error::Error + Send + Sync>>) -> ModelError {
        ModelError::Hub {
            id: self.id.clone(),
            revision: self.revision.clone(),
            problem,
            source,
        }
    }
}

/// The HTTP status of a failed request. hf-hub does not re-export the error type that holds it, so it is
/// read from its text, `http status: 401`.
fn status(error: &ApiError) -> Option<u16> {
    let ApiError::RequestError(request) = error else {
        return None;
    };
    request.to_string().rsplit_once("http status: ")?.1.trim().parse().ok()
}

/// Whether a snapshot has config, tokenizer and all weights.
fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let weights = || {
        has(folder::SINGLE)
            || folder::read_index(&snapshot.join(folder::INDEX)).is_ok_and(|map| map.values().all(|name| has(name)))
    };
    has("config.json") && has("tokenizer.json") && weights()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub on this machine that answers every file with `{}`, or everything with one status.
    fn serve(status: Option<u16>, files: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, status, files);
            }
        });
        endpoint
    }

    fn answer(mut stream: TcpStream, status: Option<u16>, files: &[&str]) {
        let mut lines = BufReader::new(stream.try_clone().unwrap())
            .lines()
            .map_while(std::io::Result::ok);
        let request = lines.next().unwrap_or_default();
        let ranged = lines
            .take_while(|line| !line.is_empty())
            .any(|line| line.to_lowercase().starts_with("range: bytes=0-0"));
        let siblings = files
            .iter()
            .map(|name| format!(r#"{{"rfilename":"{name}"}}"#))
            .collect::<Vec<_>>()
            .join(",");
        let body = match request.contains("/api/") {
            true => format!(r#"{{"siblings":[{siblings}],"sha":"{COMMIT}"}}"#),
            false if ranged => "{".to_string(),
            false => "{}".to_string(),
        };
        let etag = blake3::hash(request.as_bytes()).to_hex();
        let _ = write!(
            stream,
            "HTTP/1.1 {} X\r\nconnection: close\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n\
            content-range: bytes 0-0/2\r\ncontent-length: {}\r\n\r\n{body}",
            status.unwrap_or(200),
            body.len()
        );
    }

    fn options(cache: &Path, endpoint: &str) -> OpenOptions {
        OpenOptions {
            cache: Some(cache.into()),
            endpoint: Some(endpoint.into()),
            ..Default::default()
        }
    }

    fn problem(options: &OpenOptions) -> HubProblem {
        match snapshot("org/name", options) {
            Err(ModelError::Hub { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_are_told_from_paths() {
        assert!(is_id("HuggingFaceTB/SmolLM2-135M-Instruct"));
        for path in [
            "gpt2",
            "./model",
            "../x/y",
            "a/b/c",
            "models/x.gguf",
            "/abs",
            "org/",
            "~/x",
        ] {
            assert!(!is_id(path), "{path}");
        }
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_found_offline() {
        let cache = tempfile::tempdir().unwrap();
        let endpoint = serve(
            None,
            &[
                "config.json",
                "tokenizer.json",
                "tokenizer.model",
                "model.safetensors",
                "onnx/model.onnx",
                "README.md",
            ],
        );
        let folder = snapshot("org/name", &options(cache.path(), &endpoint)).unwrap();
        assert!(folder.ends_with(format!("models--org--name/snapshots/{COMMIT}")));
        let mut names: Vec<_> = fs_err::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"]
        );
        let offline = OpenOptions {
            offline: true,
            ..options(cache.path(), "http://127.0.0.1:1")
        };
        assert_eq!(snapshot("org/name", &offline).unwrap(), folder);
        let by_commit = OpenOptions {
            revision: Some(COMMIT.into()),
            ..offline
        };
        assert_eq!(snapshot("org/name", &by_commit).unwrap(), folder);
    }

    #[test]
    fn what_went_wrong_is_told_apart() {
        let cache = tempfile::tempdir().unwrap();
        let at = |endpoint: &str| options(cache.path(), endpoint);
        assert_eq!(problem(&at(&serve(Some(401), &[]))), HubProblem::Refused(401));
        assert_eq!(problem(&at(&serve(Some(403), &[]))), HubProblem::Refused(403));
        assert_eq!(problem(&at(&serve(Some(404), &[]))), HubProblem::NoSuchModel);
        assert_eq!(
            problem(&at("http://127.0.0.1:1")),
            HubProblem::Unreachable(cache.path().into())
        );
        let offline = OpenOptions {
            offline: true,
            ..at("http://127.0.0.1:1")
        };
        assert_eq!(problem(&offline), HubProblem::NotCached(cache.path().into()));
    }

    #[test]
    fn a_repository_of_pickles_is_refused_before_they_are_downloaded() {
        let cache = tempfile::tempdir().unwrap();
        let endpoint = serve(None, &["config.json", "tokenizer.json", "pytorch_model.bin"]);
        let error = snapshot("org/name", &options(cache.path(), &endpoint)).unwrap_err();
        assert!(matches!(error, ModelError::PickledWeights { .. }), "{error}");
    }
}
