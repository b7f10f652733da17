//! `tune index`, `search` and `eval` as a user meets them: killed at twenty random moments each and run again they end
//! as if nobody had disturbed them, two at once are refused, and what is wrong is said.
#![allow(clippy::print_stdout)] // How many runs were killed is there to be read.
use crate::cli::{output, told, tune};
use crate::golden::folder;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tune_rag::store::{Filter, Point, Sqlite, Store};

const DOCUMENTS: usize = 600;
const QUESTIONS: usize = 64;
/// Of each command.
const KILLS: u32 = 20;

const INDEX: &[&str] = &["index", "config.toml"];
const EVAL: &[&str] = &["eval", "config.toml"];
const SEARCH: &[&str] = &["search", "config.toml", "--queries", "questions.jsonl", "--json"];

/// So many documents and questions, and a config with the tiny base and the tiny embedder of the goldens.
fn workplace(documents: usize, questions: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let docs = dir.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    for n in 0..documents {
        let text = format!("Item {n} is K{n}.\n");
        std::fs::write(docs.join(format!("{n}.md")), text).unwrap();
    }
    let questions = (0..questions).map(|n| {
        let gold = format!("{n}.md");
        json!({ "id": format!("q{n}"), "question": format!("item {n}?"), "answers": [format!("K{n}")],
            "gold": [{ "document": gold }], "stratum": "unseen-in-corpus" })
    });
    let questions: Vec<String> = questions.map(|question| question.to_string()).collect();
    std::fs::write(dir.path().join("questions.jsonl"), questions.join("\n")).unwrap();
    let config = format!(
        r#"device = "cpu"
[model]
base = {:?}
[rag]
documents = ["docs"]
path = "index"
embedder = {:?}
chunk_tokens = 16
breadcrumb = false
top_k = 2
template = "{{passages}} {{question}}"
[eval]
questions = "questions.jsonl"
arms = ["base", "rag"]
max_new_tokens = 24
output = "eval"
resamples = 200
"#,
        folder("llama-gqa-tied"),
        folder("../encoders/mean"),
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    dir
}

/// Runs to the end: its stdout, its stderr, and how long it took.
fn finished(dir: &Path, args: &[&str]) -> (String, String, Duration) {
    let begun = Instant::now();
    let out = output(dir, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (data, talk) = (text(&out.stdout), text(&out.stderr));
    // 3 is the verdict "not shown".
    assert!(matches!(out.status.code(), Some(0 | 3)), "tune {args:?}: {talk}");
    (data, talk, begun.elapsed())
}

/// Begins anew without `made` and is ended by SIGKILL at `moment`; whether it was still running then.
fn killed(dir: &Path, args: &[&str], made: &str, moment: Duration) -> bool {
    std::fs::remove_dir_all(dir.join(made)).unwrap();
    let mut command = tune(dir, args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(moment);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Ended by SIGKILL [`KILLS`] times, at one random moment in each of as many equal parts of the time from `start` to
/// `whole`, and looked at after each. A run that was done before its moment tells that the machine is faster now.
fn each_killed(
    (dir, args, made): (&Path, &[&str], &str),
    (mut start, mut whole): (Duration, Duration),
    mut seed: u64,
    mut look: impl FnMut(Duration),
) {
    let mut tries = 0;
    for part in 0..KILLS {
        loop {
            tries += 1;
            assert!(tries <= 5 * KILLS, "it ends before it is killed");
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let within = (seed >> 11) as f64 / (1u64 << 53) as f64;
            let share = (f64::from(part) + within) / f64::from(KILLS);
            let moment = start + whole.saturating_sub(start).mul_f64(share);
            if killed(dir, args, made, moment) {
                look(moment);
                break;
            }
            whole = moment;
            start = start.min(whole / 2);
        }
    }
}

fn points(dir: &Path) -> Vec<Point> {
    let store = Sqlite::open(&dir.join("index")).unwrap();
    let records = store.records().unwrap();
    let of = |path: &str| store.points_of(path).unwrap();
    records.iter().flat_map(|record| of(&record.path)).collect()
}

/// Without what a clock said.
fn timeless(mut value: Value) -> Value {
    const TIMES: [&str; 9] = [
        "seconds",
        "first_token_seconds",
        "index_seconds",
        "first_token",
        "total",
        "tokens_per_second",
        "embed",
        "search",
        "rerank",
    ];
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|key, _| !TIMES.contains(&key.as_str()));
            fields.values_mut().for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

fn found(dir: &Path) -> Vec<Value> {
    let lines = finished(dir, SEARCH).0;
    lines
        .lines()
        .map(|line| timeless(serde_json::from_str(line).unwrap()))
        .collect()
}

fn results(dir: &Path) -> Value {
    timeless(serde_json::from_slice(&std::fs::read(dir.join("eval/results.json")).unwrap()).unwrap())
}

#[test]
fn index_killed_at_any_moment_and_run_again_is_the_same_index() {
    let dir = workplace(DOCUMENTS, QUESTIONS);
    let dir = dir.path();
    for n in 0..DOCUMENTS {
        let text = format!("Item {n} is K{n}, and it stands on the shelf by the door. ").repeat(8);
        std::fs::write(dir.join(format!("docs/{n}.md")), text).unwrap();
    }
    let (_, _, whole) = finished(dir, INDEX);
    let (_, _, start) = finished(dir, INDEX);
    let indexed = || {
        let store = Sqlite::open(&dir.join("index")).unwrap();
        (
            points(dir),
            store.lexical("item 17 by the door", 20, &Filter::default()).unwrap(),
        )
    };
    let (wanted, hits) = (indexed(), found(dir));
    let all = wanted.0.len();
    let mut partial = 0;
    each_killed((dir, INDEX, "index"), (start.mul_f64(0.8), whole), 1, |moment| {
        let (_, talk, _) = finished(dir, INDEX);
        let number = talk.split(" embedded now").next().unwrap().rsplit(' ').next().unwrap();
        let embedded: usize = number.parse().unwrap();
        partial += usize::from((1..all).contains(&embedded));
        // What is told of costs is of a run that did all of it.
        assert!(dir.join("index/report.json").exists() || embedded < all);
        assert!(indexed() == wanted, "killed after {moment:?} of {whole:?}");
    });
    assert!(found(dir) == hits);
    println!("of {KILLS} killed, {partial} in the middle of their work");
    assert!(partial > 0, "no kill came in the middle");
}

#[test]
fn eval_killed_at_any_moment_and_run_again_is_the_same_result() {
    let dir = workplace(DOCUMENTS, QUESTIONS);
    let dir = dir.path();
    finished(dir, INDEX);
    let (_, _, whole) = finished(dir, EVAL);
    let kept = || std::fs::read_to_string(dir.join("eval/answers.jsonl")).map_or(0, |text| text.lines().count());
    let (wanted, all) = (results(dir), kept());
    assert_eq!(wanted["questions"].as_array().unwrap().len(), QUESTIONS);
    let mut partial = 0;
    each_killed((dir, EVAL, "eval"), (Duration::ZERO, whole), 2, |moment| {
        partial += usize::from((1..all).contains(&kept()));
        finished(dir, EVAL);
        assert!(results(dir) == wanted, "killed after {moment:?} of {whole:?}");
        assert_eq!(kept(), all);
    });
    println!("of {KILLS} killed, {partial} in the middle of their work");
    assert!(partial > 0, "no kill came in the middle");
}

/// Only its chunks are embedded, it takes a fiftieth of the time at most, and the index is that of a full rebuild.
#[test]
fn one_changed_file_of_a_thousand_costs_its_own_chunks() {
    let dir = workplace(0, 1);
    let dir = dir.path();
    for n in 0..1000 {
        let text = format!("Item {n} is K{n}, and it stands on the shelf by the door. ").repeat(200);
        std::fs::write(dir.join(format!("docs/{n}.md")), text).unwrap();
    }
    let costs = || -> Value { serde_json::from_slice(&std::fs::read(dir.join("index/report.json")).unwrap()).unwrap() };
    finished(dir, INDEX);
    let whole = costs()["seconds"].as_f64().unwrap();
    // The fastest of three: others use the machine too.
    let seconds = (0..3).map(|n| {
        std::fs::write(dir.join(format!("docs/{n}.md")), format!("Item {n} is gone.")).unwrap();
        finished(dir, INDEX);
        let again = costs()["reindex"].clone();
        assert_eq!((&again["documents"], &again["chunks"]), (&json!(1), &json!(1)));
        again["seconds"].as_f64().unwrap()
    });
    let seconds = seconds.fold(f64::MAX, f64::min);
    println!("whole {whole:.2} s, again {seconds:.3} s, 1/{:.0}", whole / seconds);
    assert!(seconds <= whole / 50.0, "{seconds} s of {whole} s");
    let now = points(dir);
    std::fs::remove_dir_all(dir.join("index")).unwrap();
    finished(dir, INDEX);
    let rebuilt = points(dir);
    assert_eq!(rebuilt.len(), now.len());
    for (now, rebuilt) in now.iter().zip(&rebuilt) {
        assert_eq!(now.passage, rebuilt.passage);
        // Another company in its batch is another order of summing.
        let difference = now.vector.iter().zip(&rebuilt.vector).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f32::max) < 1e-6);
    }
}

#[test]
fn two_at_once_are_refused() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    let index = Sqlite::create(&dir.join("index")).unwrap();
    insta::assert_snapshot!("two_at_once_index", told(dir, INDEX));
    drop(index);
    finished(dir, INDEX);
    finished(dir, EVAL);
    let answers = std::fs::File::open(dir.join("eval/answers.jsonl")).unwrap();
    answers.lock().unwrap();
    insta::assert_snapshot!("two_at_once_eval", told(dir, EVAL));
}

/// `tune eval … | head -1`
#[test]
fn a_verdict_outlives_its_reader() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    finished(dir, INDEX);
    assert_eq!(output(dir, EVAL).status.code(), Some(3));
    let mut child = tune(dir, EVAL)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

/// Nothing is known of training where the config names no adapter, whatever lies in the folder one starts in.
#[test]
fn a_result_tells_of_no_training_that_was_not() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    std::fs::write(
        dir.join("train.jsonl"),
        "{\"prompt\": \"item 1?\", \"response\": \"K1\"}\n",
    )
    .unwrap();
    let config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    std::fs::write(dir.join("config.toml"), config + "[data]\ntrain = [\"train.jsonl\"]\n").unwrap();
    finished(dir, INDEX);
    finished(dir, EVAL);
    let facts = &results(dir)["facts"];
    assert_eq!(facts["training_rows"], json!({}));
    assert_eq!((&facts["documents"], &facts["chunks"]), (&json!(20), &json!(20)));
}

fn copy_adapter(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder("llama-gqa-tied/adapter").join(file), to.join(file)).unwrap();
    }
}

/// An adapter fits any base of its shape.
#[test]
fn an_adapter_of_another_base_is_told() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    copy_adapter(&dir.join("run/adapter"));
    std::fs::write(
        dir.join("run/receipt.json"),
        r#"{"base": {"name": "another", "blake3": "00"}}"#,
    )
    .unwrap();
    let arms = ["--set", "eval.adapter=run/adapter", "--set", "eval.arms=base,tuned"];
    let (_, talk, _) = finished(dir, &[EVAL, &arms].concat());
    assert!(
        talk.contains("run/adapter was trained on another, whose weights are not those of"),
        "{talk}"
    );
}

/// Weights in another form, another template and another alpha are another model.
#[test]
fn kept_answers_are_those_of_the_model_that_is_asked() {
    let dir = workplace(0, 2);
    let dir = dir.path();
    let adapter = dir.join("adapter");
    copy_adapter(&adapter);
    let template = "{% for m in messages %}Q: {{ m.content }} A:{% endfor %}";
    std::fs::write(dir.join("t.jinja"), template).unwrap();
    let mut known = Vec::new();
    let mut asked = |set: &[&str]| {
        let arms = [
            "--set",
            "eval.arms=base,tuned",
            "--set",
            "eval.adapter=adapter",
            "--set",
            "model.dtype=f32",
        ];
        let set = set.iter().flat_map(|value| ["--set", value]);
        finished(dir, &EVAL.iter().copied().chain(arms).chain(set).collect::<Vec<_>>());
        let kept = std::fs::read_to_string(dir.join("eval/answers.jsonl"))
            .unwrap()
            .lines()
            .count();
        let weights = results(dir)["identity"]["weights"].clone();
        let new = !known.contains(&weights);
        known.push(weights);
        (kept, new)
    };
    let (once, _) = asked(&[]);
    assert_eq!(asked(&[]), (once, false));
    assert_eq!(asked(&["model.quantize=nf4"]), (2 * once, true));
    assert_eq!(asked(&["model.quantize=int8"]), (3 * once, true));
    assert_eq!(asked(&["model.chat_template=t.jinja"]), (4 * once, true));
    let config = adapter.join("adapter_config.json");
    let mut text: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    text["lora_alpha"] = json!(text["lora_alpha"].as_f64().unwrap() * 2.0);
    std::fs::write(&config, text.to_string()).unwrap();
    assert_eq!(asked(&[]), (4 * once + once / 2, true), "of base all is kept");
}

/// Where an index is older than its documents, whoever answers from it says so.
#[test]
fn an_old_index_is_told() {
    let dir = workplace(4, 2);
    let dir = dir.path();
    finished(dir, INDEX);
    let search = ["search", "config.toml", "item 3?"];
    let raft = [
        "data",
        "raft",
        "config.toml",
        "--questions",
        "questions.jsonl",
        "--out",
        "raft.jsonl",
    ];
    let small = ["--set", "raft.max_new_tokens=8", "--set", "raft.distractors=[1, 1]"];
    let warned = |args: &[&str]| -> Vec<String> {
        let talk = finished(dir, args).1;
        let lines = talk.lines().filter(|line| line.starts_with("warning:"));
        lines.map(str::to_string).collect()
    };
    assert_eq!(warned(&search), [""; 0]);
    std::fs::write(dir.join("docs/9.md"), "New.").unwrap();
    std::fs::write(dir.join("docs/3.md"), "Changed, and longer than it was.").unwrap();
    std::fs::remove_file(dir.join("docs/0.md")).unwrap();
    let old = "warning: the index is older than its documents (1 new, 1 changed, 1 gone): run `tune index`";
    assert_eq!(warned(&search), [old]);
    assert_eq!(warned(&["ask", "config.toml", "item 3?", "--arm", "rag"]), [old]);
    let seen = "warning: questions.jsonl is eval.questions: what is trained on these rows has seen the answers it will be \
                asked for";
    assert_eq!(warned(&[&raft[..], &small].concat()), [seen, old]);
    let other = [&search[..], &["--set", "rag.chunk_tokens=32"]].concat();
    assert!(warned(&other)[0].contains("not of these documents (other settings; 1 new, 1 changed, 1 gone)"));
    insta::assert_snapshot!("old_index_eval", told(dir, EVAL));
    finished(dir, INDEX);
    assert_eq!(warned(&search), [""; 0]);
    let none = [&search[..], &["--set", "rag.only=*.pdf"]].concat();
    assert_eq!(
        warned(&none),
        ["warning: rag.only = *.pdf matches nothing in the index: nothing will be found"]
    );
    let hits = |only: &[&str]| {
        let (data, talk, _) = finished(dir, &[&search[..], &["--json"], only].concat());
        let found: Value = serde_json::from_str(&data).unwrap();
        (found["hits"].as_array().unwrap().len(), talk)
    };
    assert_eq!(hits(&["--only", "9.md", "--only", "type:md"]).0, 1);
    let (none, talk) = hits(&["--only", "type:md", "--only", "heading:Costs"]);
    assert!(
        none == 0 && talk.contains("rag.only = type:md, heading:Costs matches nothing"),
        "{talk}"
    );
    let anew = finished(dir, &[INDEX, &["--set", "rag.chunk_tokens=32"]].concat()).1;
    let told = "the index was made with other settings and is made anew; the old one answers until this run is through";
    assert!(anew.contains(told) && anew.contains("4 new or changed"), "{anew}");
    finished(dir, INDEX);
    // As a first run leaves it that was ended in its middle.
    let mut index = Sqlite::create(&dir.join("index")).unwrap();
    index.remove("1.md").unwrap();
    index.remove("2.md").unwrap();
    drop(index);
    assert!(warned(&search)[0].contains("(2 new)"));
}

/// What an evaluation does not use cannot stop it, and a reference that is too long is cut.
#[test]
fn an_evaluation_goes_on_where_it_can() {
    let dir = workplace(0, 2);
    let dir = dir.path();
    std::fs::create_dir(dir.join("half")).unwrap();
    let long = json!({ "id": "long", "question": "item 9?", "answers": ["K9 ".repeat(200)], "stratum": "seen" });
    std::fs::write(dir.join("questions.jsonl"), long.to_string()).unwrap();
    finished(
        dir,
        &[EVAL, &["--set", "eval.arms=base", "--set", "eval.adapter=half"]].concat(),
    );
    let tokens = &results(dir)["questions"][0]["answers"]["base"]["likelihood"]["tokens"];
    assert!((1..128).contains(&tokens.as_u64().unwrap()), "{tokens}");
}

#[test]
fn settings_are_shown_by_each_command_that_runs_by_a_config() {
    let dir = workplace(4, 2);
    let shown = |args: &[&str]| {
        finished(
            dir.path(),
            &[args, &["--show-settings", "--set", "rag.top_k=3"]].concat(),
        )
        .0
    };
    let ask = ["ask", "config.toml", "item 3?"];
    for args in [INDEX, EVAL, SEARCH, &ask] {
        let settings: toml::Table = shown(args).parse().unwrap();
        assert_eq!(settings["rag"]["top_k"].as_integer(), Some(3), "{args:?}");
    }
}

/// What the guide names for each of its use cases.
#[test]
fn advice_for_the_five_use_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (case, wanted) in [
        ("support", "hybrid"),
        ("legal", "rag"),
        ("reviews", "fine-tuning"),
        ("finance", "hybrid"),
        ("knowledge", "rag"),
    ] {
        let config = format!("configs/{case}/config.toml");
        let (data, _, _) = finished(&root, &["advise", &config, "--json"]);
        let advice: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(advice["approach"], wanted, "{case}");
        for command in advice["next"].as_array().unwrap() {
            assert!(command.as_str().unwrap().contains(&config), "{command}");
        }
    }
}

/// Its end is an answer too: what was offered.
#[test]
fn advice_asks_again_what_it_did_not_understand() {
    let dir = workplace(4, 2);
    let mut child = tune(dir.path(), &["advise", "config.toml", "--ask"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"maybe\nno\nY\n").unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    insta::assert_snapshot!("advice_asked", said);
}

/// From what was measured: the config is known by its name, and limits of it are kept.
#[test]
fn advice_on_a_report_names_its_config() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    let config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    let limits = "[advise]\nbudget_per_1000 = 0.5\n[log]\npath = \"asked.jsonl\"\n";
    std::fs::write(dir.join("config.toml"), config + limits).unwrap();
    finished(dir, INDEX);
    finished(dir, EVAL);
    let (data, _, _) = finished(dir, &["advise", "eval"]);
    assert!(
        data.contains("tune index config.toml") || data.contains("tune log export asked.jsonl"),
        "{data}"
    );
    assert!(data.contains("prices are not measured: set eval.rates"), "{data}");
    let (data, _, _) = finished(dir, &["advise", "eval/results.json", "--budget", "0"]);
    assert!(!data.contains("prices"), "{data}");
    std::fs::create_dir(dir.join("empty")).unwrap();
    let said = [
        told(dir, &["advise", "eval/report.html"]),
        told(dir, &["advise", "empty"]),
        told(dir, &["advise", "eval", "--ask"]),
        told(dir, &["advise", "eval", "--set", "advise.budget_per_1000=1"]),
    ];
    insta::assert_snapshot!("advice_on_a_report", said.join("\n"));

    // The pages come from the numbers.
    let page = || std::fs::read_to_string(dir.join("eval/report.md")).unwrap();
    let before = page();
    std::fs::remove_file(dir.join("eval/report.md")).unwrap();
    finished(dir, &["eval", "--report", "eval"]);
    assert_eq!(page(), before);
}

/// Kept by the config, redacted by it, and never in clear beside.
#[test]
fn a_log_is_kept_as_the_config_says() {
    let dir = workplace(20, 4);
    let dir = dir.path();
    let config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    let log = "[log]\npath = \"log.jsonl\"\nredact = true\n";
    std::fs::write(dir.join("config.toml"), config + log).unwrap();
    finished(dir, INDEX);
    let (_, talk, _) = finished(dir, &["ask", "config.toml", "item 3?"]);
    let id = talk.split("logged as ").nth(1).unwrap().split(' ').next().unwrap();
    let (_, talk, _) = finished(dir, &["ask", "config.toml", "item 3?", "--set", "log.path="]);
    assert!(!talk.contains("logged"), "{talk}");
    finished(dir, &["ask", "config.toml", "item 2?", "--log", "other.jsonl"]);
    let kept = std::fs::read_to_string(dir.join("log.jsonl")).unwrap();
    assert!(kept.lines().count() == 1 && !kept.contains("item 3?"), "{kept}");
    let secret = ["log", "feedback", "log.jsonl", id, "bad", "--correction", "My secret"];
    let said = [
        told(dir, &secret),
        told(dir, &["log", "feedback", "log.jsonl", id, "good"]),
        told(dir, &["log", "export", "log.jsonl"]),
        told(
            dir,
            &["ask", "config.toml", "item 3?", "--redact", "--set", "log.path="],
        ),
    ];
    insta::assert_snapshot!("log_redacted", said.join("\n").replace(id, "ID"));
    assert!(
        !std::fs::read_to_string(dir.join("log.jsonl"))
            .unwrap()
            .contains("secret")
    );
}

#[test]
fn what_is_wrong_is_said() {
    let dir = workplace(4, 2);
    let dir = dir.path();
    let set = |command: &[&str], values: &[&str]| {
        let values = values.iter().flat_map(|value| ["--set", value]);
        told(dir, &command.iter().copied().chain(values).collect::<Vec<_>>())
    };
    let search = ["search", "config.toml", "item 3?"];
    let raft = [
        "data",
        "raft",
        "config.toml",
        "--questions",
        "questions.jsonl",
        "--out",
        "rows/raft.jsonl",
    ];
    std::fs::write(dir.join("empty.jsonl"), "\n").unwrap();
    std::fs::write(dir.join("log.jsonl"), "").unwrap();
    let mut said = vec![
        set(&search, &[]),
        set(&search, &["rag.top_k=0", "rag.mmr_lambda=nan", "rag.chunk_overlap=-1"]),
        set(INDEX, &["rag.documents=nowhere"]),
        set(INDEX, &["rag.documents=config.toml"]),
        set(INDEX, &["rag.path=config.toml"]),
        set(EVAL, &["eval.resamples=1", "eval.max_new_tokens=0"]),
        set(EVAL, &["eval.questions=docs"]),
        set(EVAL, &["eval.questions=empty.jsonl"]),
    ];
    finished(dir, INDEX);
    std::fs::create_dir(dir.join("blank")).unwrap();
    std::fs::write(dir.join("blank/a.md"), " ").unwrap();
    let ask = ["ask", "config.toml", "item 3?"];
    let long = json!({ "id": "long", "question": "item ".repeat(40), "answers": ["K9"], "stratum": "seen" });
    std::fs::write(dir.join("long.jsonl"), long.to_string()).unwrap();
    said.extend([
        told(
            dir,
            &[
                &search[..],
                &["--only", "page:0", "--only", "titel:x", "--only", "type:exe"],
            ]
            .concat(),
        ),
        told(dir, &[&ask[..], &["--arm", "base", "--only", "type:md"]].concat()),
        told(dir, &[&raft[..5], &["--out", "questions.jsonl"]].concat()),
        told(
            dir,
            &[
                INDEX,
                &["--quiet", "--set", "rag.documents=blank", "--set", "rag.path=none"],
            ]
            .concat(),
        ),
        told(dir, &[INDEX, &["--to", "localhost:6333/docs"]].concat()),
        told(dir, &[INDEX, &["--to", "qdrant://127.0.0.1:1/docs"]].concat()),
        told(dir, &[INDEX, &["--to", "copy"]].concat()),
        set(&ask, &["eval.max_new_tokens=0"]),
        set(&ask, &["model.base="]),
        set(&raft, &["raft.distractors=1,1"]),
        set(EVAL, &["eval.arms=base", "eval.general=nowhere.txt"]),
        set(EVAL, &["eval.questions=long.jsonl", "eval.arms=base"]),
        set(
            EVAL,
            &[
                "eval.judge.url=http://127.0.0.1:1/v1",
                "eval.judge.model=m",
                "eval.judge.key_variable=NO_KEY",
            ],
        ),
        told(dir, &["search", "config.toml", "--queries", "empty.jsonl"]),
        told(dir, &["search", "config.toml", "--queries", "docs"]),
        told(dir, &["ask", "config.toml", "item 3?", "--arm", "tuned"]),
        set(EVAL, &["eval.output=config.toml"]),
        set(
            &raft,
            &[
                "raft.copies=0",
                "raft.gold_share=nan",
                "raft.distractors=[9, 99999999999]",
            ],
        ),
        told(dir, &["advise", "config.toml", "--latency", "nan"]),
        told(dir, &["advise", "config.toml", "--set", "advise.latency_seconds=-1"]),
        told(dir, &["log", "stats", "nowhere.jsonl"]),
        told(dir, &["log", "feedback", "log.jsonl", "id", "good"]),
        told(dir, &["log", "stats", "log.jsonl"]),
        told(dir, &["log", "stats", "config.toml"]),
    ]);
    insta::assert_snapshot!("rag_what_is_wrong", said.join("\n"));
    let (_, talk, _) = finished(dir, &[&search[..], &["--top-k", "100"]].concat());
    assert!(!talk.contains("rag.candidates"), "{talk}");
    // A folder that is not there is made for what is written.
    let fits = ["--set", "raft.max_new_tokens=8", "--set", "raft.distractors=[1, 1]"];
    finished(dir, &[&raft[..], &fits].concat());
    assert!(dir.join("rows/raft.jsonl").exists());
}
