//! The program as a user meets it: what it says when something is wrong, and that nothing is lost when it is killed.
use crate::golden::folder;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub fn tune(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tune"));
    command
        .current_dir(dir)
        .args(args)
        .env_clear()
        .env("HOME", dir)
        .env("HF_HUB_OFFLINE", "1")
        .env("COLUMNS", "100");
    command
}

pub fn output(dir: &Path, args: &[&str]) -> Output {
    tune(dir, args).output().expect("the program starts")
}

/// Exit code, stdout and stderr in one text, free of what differs from run to run.
pub fn told(dir: &Path, args: &[&str]) -> String {
    let out = output(dir, args);
    let text = format!(
        "$ tune {}\nexit {}\n--- stdout\n{}--- stderr\n{}",
        args.join(" "),
        out.status.code().map_or("by signal".into(), |c| c.to_string()),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(!text.contains("panicked"), "{text}");
    let golden = folder("").canonicalize().unwrap();
    text.replace(&*dir.canonicalize().unwrap().to_string_lossy(), "DIR")
        .replace(&*dir.to_string_lossy(), "DIR")
        .replace(&*folder("").to_string_lossy(), "GOLDENS/")
        .replace(&*golden.to_string_lossy(), "GOLDENS")
}

/// A folder with a tiny base model, data, and a config that trains in a second.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    std::fs::create_dir(&base).unwrap();
    for entry in std::fs::read_dir(folder("llama-gqa-tied")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), base.join(entry.file_name())).unwrap();
        }
    }
    let rows: Vec<String> = (0..30)
        .map(|i| {
            format!(
                r#"{{"prompt": "colour {i}?", "response": "{}"}}"#,
                ["red", "blue", "green"][i % 3]
            )
        })
        .collect();
    std::fs::write(dir.path().join("train.jsonl"), rows.join("\n")).unwrap();
    std::fs::write(
        dir.path().join("config.toml"),
        r#"[model]
base = "base"
[data]
train = ["train.jsonl"]
validation = 0.2
max_length = 64
cache = false
[lora]
r = 2
alpha = 4
[train]
max_steps = 20
grad_accumulation = 1
learning_rate = 1e-2
eval_every = 5
save_every = 2
samples = 1
sample_tokens = 4
[output]
dir = "run"
serve_target = ["peft"]
tensorboard = false
"#,
    )
    .unwrap();
    dir
}

fn with_config(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let dir = workplace();
    let path = dir.path().join("config.toml");
    let text = change(std::fs::read_to_string(&path).unwrap());
    std::fs::write(path, text).unwrap();
    dir
}

fn with_data(bytes: &[u8]) -> tempfile::TempDir {
    let dir = workplace();
    std::fs::write(dir.path().join("train.jsonl"), bytes).unwrap();
    dir
}

const TRAIN: &[&str] = &["train", "config.toml"];

#[test]
fn wrong_settings() {
    let dir = with_config(|t| {
        t.replace("learning_rate", "learning_rat")
            .replace("r = 2", "r = \"two\"")
            + "\n[extra]\nx = 1\n"
    });
    insta::assert_snapshot!("unknown_and_mistyped_keys", told(dir.path(), TRAIN));
    let dir = with_config(|t| {
        t.replace("learning_rate = 1e-2", "learning_rate = -1.0")
            .replace("r = 2", "r = 0")
    });
    insta::assert_snapshot!("values_out_of_range", told(dir.path(), TRAIN));
    let dir = with_config(|t| t.replace("[lora]", "[lora"));
    insta::assert_snapshot!("not_toml", told(dir.path(), TRAIN));
    insta::assert_snapshot!("no_config", told(dir.path(), &["train", "missing.toml"]));
    let dir = with_config(|t| {
        t.replace("r = 2", "r = 9223372036854775807")
            .replace("grad_accumulation = 1", "grad_accumulation = 9223372036854775807")
    });
    insta::assert_snapshot!("values_beyond_any_machine", told(dir.path(), TRAIN));
    // A data file in the config's place has something wrong in each of its lines.
    let dir = with_data(&b"{\"prompt\": \"a\", \"response\": \"b\"}\n".repeat(100_000));
    insta::assert_snapshot!("data_for_a_config", told(dir.path(), &["train", "train.jsonl"]));
    let dir = workplace();
    insta::assert_snapshot!(
        "set_unknown",
        told(dir.path(), &["train", "config.toml", "--set", "train.epoch=2"])
    );
}

#[test]
fn wrong_data() {
    for (name, bytes) in [
        ("empty", &b""[..]),
        (
            "not_json",
            b"{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": oops}\n",
        ),
        (
            "invalid_utf8",
            b"{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"\xff\xfe\", \"response\": \"b\"}\n",
        ),
        ("utf16", b"\xff\xfe{\0\"\0p\0"),
        ("other_keys", b"{\"question\": \"a\", \"answer\": \"b\"}\n"),
        (
            "mistyped_value",
            b"{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\", \"response\": 3}\n",
        ),
        (
            "nothing_to_learn",
            b"{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\", \"response\": \"\"}\n",
        ),
    ] {
        let dir = with_data(bytes);
        insta::assert_snapshot!(format!("data_{name}"), told(dir.path(), TRAIN));
    }
    let dir = with_config(|t| t.replace("train.jsonl", "train.csv"));
    std::fs::write(dir.path().join("train.csv"), "prompt,response\na,b,c\nd\n").unwrap();
    insta::assert_snapshot!("data_ragged_csv", told(dir.path(), TRAIN));
    let dir = with_config(|t| t.replace("train.jsonl", "nowhere.jsonl"));
    insta::assert_snapshot!("data_missing", told(dir.path(), TRAIN));
    let dir = with_config(|t| t.replace("\"train.jsonl\"", "\"base\""));
    insta::assert_snapshot!("data_is_a_folder", told(dir.path(), TRAIN));
}

#[test]
fn data_that_looks_odd_but_is_fine() {
    let bom =
        b"\xef\xbb\xbf{\"prompt\": \"a\", \"response\": \"b\"}\r\n\r\n{\"prompt\": \"c\", \"response\": \"d\"}\r\n";
    let long = format!("{{\"prompt\": \"{}\", \"response\": \"b\"}}\n", "a ".repeat(10_000_000));
    for bytes in [&bom[..], long.as_bytes()] {
        let dir = with_data(bytes);
        let out = output(dir.path(), &["data", "stats", "train.jsonl"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn wrong_models() {
    let dir = with_config(|t| t.replace("base = \"base\"", "base = \"nowhere\""));
    insta::assert_snapshot!("base_missing", told(dir.path(), TRAIN));
    let dir = with_config(|t| t.replace("base = \"base\"", "base = \"someone/something\""));
    insta::assert_snapshot!("base_not_cached", told(dir.path(), TRAIN));

    let dir = workplace();
    let weights = dir.path().join("base/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    insta::assert_snapshot!("base_truncated", told(dir.path(), TRAIN));
    std::fs::write(&weights, &bytes[..5]).unwrap();
    insta::assert_snapshot!("base_cut_in_the_header", told(dir.path(), TRAIN));

    let dir = workplace();
    let config = dir.path().join("base/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
    )
    .unwrap();
    insta::assert_snapshot!("base_of_another_shape", told(dir.path(), TRAIN));
    std::fs::write(&config, text.replace("\"llama\"", "\"mamba\"")).unwrap();
    insta::assert_snapshot!("base_of_an_unknown_family", told(dir.path(), TRAIN));
    std::fs::write(&config, text).unwrap();
    std::fs::remove_file(dir.path().join("base/tokenizer.json")).unwrap();
    insta::assert_snapshot!("base_without_tokenizer", told(dir.path(), TRAIN));
}

#[test]
fn prompts_that_do_not_fit() {
    let dir = workplace();
    let long = "word ".repeat(2000);
    let out = output(dir.path(), &["generate", "--base", "base", "--prompt", &long]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text.contains("do not fit the model's context") && text.contains("hint:"),
        "{text}"
    );
}

#[test]
fn a_run_folder_that_exists_and_one_that_cannot_be() {
    let dir = workplace();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    std::fs::write(dir.path().join("run/state.json"), "{}").unwrap();
    std::fs::write(dir.path().join("run/config.toml"), "").unwrap();
    insta::assert_snapshot!("run_exists", told(dir.path(), TRAIN));
    // /proc takes no files, whoever asks.
    let dir = with_config(|t| t.replace("dir = \"run\"", "dir = \"/proc/run\""));
    let text = told(dir.path(), TRAIN);
    assert!(
        text.contains("exit 1") && text.contains("cannot write /proc/run") && text.contains("hint:"),
        "{text}"
    );
}

#[test]
fn the_whole_way_by_command() {
    let dir = workplace();
    let out = output(dir.path(), TRAIN);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let export = output(
        dir.path(),
        &["export", "run", "--adapter", "a", "--merged", "m", "--verify"],
    );
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    for card in ["a/README.md", "m/README.md"] {
        let card = std::fs::read_to_string(dir.path().join(card)).unwrap();
        for part in [
            "validation loss, best",
            "train.jsonl | blake3",
            "`lora.r` | `2`",
            "licence",
        ] {
            assert!(card.contains(part), "{part}\n{card}");
        }
    }
    let served = output(
        dir.path(),
        &[
            "export",
            "run",
            "--gguf-lora",
            "l.gguf",
            "--mlx",
            "x",
            "--gguf",
            "m.gguf",
            "--modelfile",
        ],
    );
    let told = String::from_utf8_lossy(&served.stderr);
    for command in [
        "llama-server -m m.gguf",
        "--lora l.gguf",
        "mlx_lm.generate",
        "ollama create",
    ] {
        assert!(told.contains(command), "{command}\n{told}");
    }
    let answer = |args: &[&str]| {
        let out = output(dir.path(), args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let row: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(row["logprobs"].is_array() || row["steps"].is_array(), "{row}");
        row["text"].as_str().unwrap().to_string()
    };
    let common = [
        "--prompt",
        "colour 7?",
        "--max-new-tokens",
        "5",
        "--json",
        "--logprobs",
        "2",
    ];
    let adapted = answer(&[&["generate", "--base", "base", "--adapter", "a"][..], &common].concat());
    let merged = answer(&[&["generate", "--base", "m"][..], &common].concat());
    assert_eq!(adapted, merged);
}

/// Steps and losses of a run folder.
fn losses(dir: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    let rows = text
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    rows.filter_map(|row| Some((row["step"].as_u64()?, row["loss"].as_f64()?)))
        .collect()
}

#[test]
fn killed_at_any_moment_and_resumed_it_is_the_same_run() {
    let whole = workplace();
    assert!(output(whole.path(), TRAIN).status.success());
    let wanted = losses(&whole.path().join("run"));
    assert_eq!(wanted.len(), 20);

    let dir = workplace();
    let run = dir.path().join("run");
    let mut killed = 0;
    for attempt in 0..60 {
        let mut command = tune(dir.path(), TRAIN);
        if run.exists() {
            command.args(["--resume", "run"]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(150 + 37 * (attempt % 20)));
        if child.try_wait().unwrap().is_some() {
            let out = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&out.stderr);
            // The one before may have been killed with its last word said.
            let over = out.status.success() || told.contains("is finished");
            assert!(over, "attempt {attempt} failed: {told}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    if losses(&run).len() < 20 {
        let out = tune(dir.path(), &["train", "config.toml", "--resume", "run"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(killed > 0, "it was never killed");
    assert_eq!(losses(&run), wanted, "after {killed} kills");
    let adapter = |dir: &Path| std::fs::read(dir.join("run/adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(dir.path()), adapter(whole.path()), "after {killed} kills");
}

#[test]
fn ctrl_c_saves_and_stops() {
    let dir = with_config(|t| t.replace("max_steps = 20", "max_steps = 100000"));
    let mut child = tune(dir.path(), TRAIN)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        if !losses(&dir.path().join("run")).is_empty() {
            break;
        }
    }
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let state = std::fs::read_to_string(dir.path().join("run/state.json")).unwrap();
    assert!(state.contains("stopped"), "{state}");
    assert!(dir.path().join("run/adapter/adapter_model.safetensors").exists());
}

#[test]
fn settings_shown_can_be_run_again() {
    let dir = workplace();
    let out = output(
        dir.path(),
        &["train", "config.toml", "--show-settings", "--set", "train.seed=7"],
    );
    assert!(out.status.success());
    std::fs::write(dir.path().join("again.toml"), &out.stdout).unwrap();
    let again = output(dir.path(), &["train", "again.toml", "--show-settings"]);
    let values = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.lines()
            .map(|l| l.split(" #").next().unwrap_or("").trim().to_string())
            .collect::<Vec<_>>()
    };
    let shown = values(&out.stdout);
    assert!(shown.contains(&"seed = 7".to_string()), "{shown:?}");
    assert_eq!(shown, values(&again.stdout));
}

#[test]
fn what_cannot_be_done_is_said() {
    let dir = workplace();
    let dir = dir.path();
    let bench = |args: &[&str]| {
        let tiny = ["bench", "--shape", "tiny", "--device", "cpu"];
        told(dir, &[&tiny[..], args].concat())
    };
    let planned = |args: &[&str]| {
        let big = [
            "bench",
            "--shape",
            "llama-8b",
            "--batch",
            "2",
            "--seq",
            "4096",
            "--dry-run",
            "--for",
            "cuda",
        ];
        told(dir, &[&big[..], args].concat())
    };
    let said = [
        bench(&["--seq", "1"]),
        bench(&["--seq", "99999999999999"]),
        bench(&["--lora", "99999999999999"]),
        bench(&["--keep-blocks", "99"]),
        bench(&["--packed", "20-600"]),
        bench(&["--generate", "--keep-blocks", "1"]),
        bench(&["--ops", "nonsense"]),
        bench(&["--set", "train.seed=1"]),
        planned(&["--memory", "16GiB"]),
        planned(&["--memory", "12GiB", "--quantize", "nf4", "--keep-blocks", "32"]),
        told(dir, &["bench", "config.toml", "--generate"]),
        told(dir, &["bench", "config.toml", "--device", "nonsense"]),
        bench(&["--generate", "--new-tokens", "99999999999999"]),
        told(
            dir,
            &["generate", "--base", "base", "--prompt", "x", "--batch-size", "0"],
        ),
        told(dir, &["generate", "--base", "train.jsonl", "--prompt", "x"]),
        told(dir, &["export", "nowhere", "--merged", "m"]),
        told(dir, &["train", "config.toml", "--resume", "base"]),
        told(
            dir,
            &[
                "init",
                "--base",
                "base",
                "--data",
                "train.jsonl",
                "--out",
                "train.jsonl/c.toml",
            ],
        ),
    ];
    insta::assert_snapshot!("what_cannot_be_done", said.join("\n"));
    let made = output(
        dir,
        &["init", "--base", "base", "--data", "train.jsonl", "--out", "a/b/c.toml"],
    );
    assert!(made.status.success() && dir.join("a/b/c.toml").exists());
}

#[test]
fn doctor_and_help() {
    let dir = workplace();
    let out = output(dir.path(), &["doctor"]);
    let text = String::from_utf8_lossy(&out.stdout).to_string() + &String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && text.contains("torchtune") && text.contains("flex"),
        "{text}"
    );
    for command in [
        "", "train", "data", "index", "search", "ask", "eval", "advise", "log", "generate", "chat", "export", "bench",
        "doctor", "init",
    ] {
        let args: Vec<&str> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        assert!(output(dir.path(), &args).status.success(), "{command}");
    }
}

#[test]
fn what_is_measured_is_told_and_left_as_json() {
    let dir = workplace();
    let shape = &[
        "bench",
        "--shape",
        "tiny",
        "--batch",
        "2",
        "--seq",
        "24",
        "--device",
        "cpu",
        "--json",
        "bench.json",
    ][..];
    let told = |args: &[&str]| -> (String, serde_json::Value) {
        let out = output(dir.path(), args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let json = std::fs::read(dir.path().join("bench.json")).unwrap();
        (
            String::from_utf8_lossy(&out.stdout).to_string(),
            serde_json::from_slice(&json).unwrap(),
        )
    };
    let (text, json) = told(&[shape, &["--steps", "2"]].concat());
    for part in ["speed", "floor", "planned", "by op", "linear with adapter, backward"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let report = &json["report"];
    assert_eq!(
        (&json["shape"], &report["tokens_per_step"]),
        (&"tiny".into(), &48.into())
    );
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 2);
    assert!(report["tokens_per_second"]["median"].as_f64().unwrap() > 0.0);

    let generate = ["--generate", "--new-tokens", "3"];
    let (text, json) = told(&[shape, &generate].concat());
    assert!(
        text.contains("first token") && json["report"]["new_tokens"] == 3,
        "{text}"
    );
    let (text, json) = told(&[
        "bench",
        "config.toml",
        "--steps",
        "1",
        "--by-op",
        "0",
        "--json",
        "bench.json",
    ]);
    assert!(text.contains("speed") && !text.contains("by op"), "{text}");
    assert_eq!(json["base"], "base");
}

/// Weights are neither there nor made.
#[test]
fn a_card_that_is_not_here_is_planned_for() {
    let dir = workplace();
    let planned = |args: &[&str]| -> serde_json::Value {
        let big = [
            "bench",
            "--shape",
            "llama-8b",
            "--dry-run",
            "--for",
            "cuda",
            "--json",
            "plan.json",
        ];
        let out = output(dir.path(), &[&big[..], args].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let json = std::fs::read(dir.path().join("plan.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()["report"].take()
    };
    let whole = planned(&["--batch", "2", "--seq", "4096", "--memory", "80GiB"]);
    assert_eq!((&whole["keep"]["blocks"], &whole["blocks"]), (&32.into(), &32.into()));
    let small = planned(&["--seq", "2048", "--quantize", "nf4", "--memory", "10GiB"]);
    assert!((1..32).contains(&small["keep"]["blocks"].as_u64().unwrap()), "{small}");
    let long = planned(&["--seq", "78080", "--quantize", "nf4", "--memory", "24GiB"]);
    assert!(long["keep"]["offloaded"].as_u64().unwrap() > 0 && long["host_bytes"].as_u64().unwrap() > 1 << 30);
    assert!(long["longest"].as_u64().unwrap() >= 78_080, "{long}");

    let out = output(
        dir.path(),
        &["train", "config.toml", "--dry-run", "--for", "cuda", "--memory", "2GiB"],
    );
    let text = String::from_utf8_lossy(&out.stdout).to_string();
    assert!(
        out.status.success() && text.contains("a GPU, LibTorch (planned for)"),
        "{text}"
    );
    assert!(text.contains("tokens fit, all that the model sees"), "{text}");
    let out = output(
        dir.path(),
        &["train", "config.toml", "--dry-run", "--set", "train.keep_blocks=1"],
    );
    let text = String::from_utf8_lossy(&out.stdout).to_string();
    assert!(text.contains("1 of 2 blocks kept, 1 recomputed"), "{text}");
}

/// What the dynamic loader would say helps nobody who did not build the program.
#[cfg(feature = "tch")]
#[test]
fn a_libtorch_that_is_missing_or_wrong_is_explained() {
    let dir = workplace();
    let refused = |libtorch: &str| {
        let out = tune(dir.path(), &["doctor"])
            .env("TUNE_LIBTORCH", libtorch)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8_lossy(&out.stderr).to_string()
    };
    let text = refused("nowhere");
    assert!(
        text.contains("there is no libtorch_cpu.so") && text.contains("hint: pip install torch=="),
        "{text}"
    );

    let lib = dir.path().join("old/lib");
    std::fs::create_dir_all(&lib).unwrap();
    std::fs::write(lib.join("libtorch_cpu.so"), "not a library").unwrap();
    std::fs::write(dir.path().join("old/build-version"), "1.13.1+cpu").unwrap();
    let text = refused(&lib.to_string_lossy());
    assert!(text.contains("version 1.13.1+cpu, wanted 2."), "{text}");
}

#[test]
fn data_check_finds_planted_faults() {
    let mut rows: Vec<String> = (0..30)
        .map(|i| format!(r#"{{"prompt": "what is number {i} of the list?", "response": "it is the {i}th"}}"#))
        .collect();
    rows.push(rows[3].clone());
    let dir = with_data(rows.join("\n").as_bytes());
    let clean = workplace();
    assert_eq!(
        output(clean.path(), &["data", "check", "config.toml"]).status.code(),
        Some(0)
    );
    let out = output(dir.path(), &["data", "check", "config.toml"]);
    let text = String::from_utf8_lossy(&out.stdout).to_string() + &String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("duplicate"), "{text}");
    let show = output(dir.path(), &["data", "show", "config.toml", "--color", "never"]);
    let text = String::from_utf8_lossy(&show.stdout).to_string();
    assert!(
        show.status.success() && text.contains("segment") && text.contains("learn"),
        "{text}"
    );
}

#[test]
fn every_config_resolves() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seen = 0;
    for entry in std::fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        // A use case is a folder.
        let path = if path.is_dir() { path.join("config.toml") } else { path };
        let out = output(&root, &["train", &path.to_string_lossy(), "--show-settings"]);
        assert!(
            out.status.success(),
            "{}: {}",
            path.display(),
            String::from_utf8_lossy(&out.stderr)
        );
        seen += 1;
    }
    assert!(seen > 0);
}
