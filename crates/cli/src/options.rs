//! Which settings there are and what each may be, told by the defaults of [`Config`]; unknown and mistyped ones are
//! found here, all at once.
use crate::config::Config;
use crate::toml_file::{Problem, TomlFile};
use serde::Deserialize;
use toml::Value;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Wanted values that the kind of the default does not tell.
const WANTED: [(&str, &str); 9] = [
    (
        "data.train",
        "a list of files, each text or { path = \"…\", weight = 2.0 }",
    ),
    ("data.validation", "a share such as 0.05, a file, or a list of files"),
    ("lora.targets", "\"all-linear\", a regex, or a list of names"),
    ("lora.layers", "a list of block numbers"),
    ("lora.rank_pattern", "a list of pairs such as [\"q_proj\", 8]"),
    ("lora.alpha_pattern", "a list of pairs such as [\"q_proj\", 16]"),
    ("train.betas", "two numbers"),
    ("raft.distractors", "two whole numbers, [least, most]"),
    ("train.keep_blocks", "\"auto\" or a number of blocks"),
];

/// What other trainers call it, for those who come from there. Spelling alone would lead elsewhere.
const CALLED: [(&str, &str); 24] = [
    ("lr", "train.learning_rate"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("iters", "train.max_steps"),
    ("micro_batch_size", "train.batch_size"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.grad_accumulation"),
    ("gradient_checkpointing", "train.keep_blocks"),
    ("lr_scheduler", "train.schedule"),
    ("lr_scheduler_type", "train.schedule"),
    ("eval_steps", "train.eval_every"),
    ("save_steps", "train.save_every"),
    ("save_total_limit", "train.keep_last"),
    ("cutoff_len", "data.max_length"),
    ("max_seq_length", "data.max_length"),
    ("sequence_len", "data.max_length"),
    ("sample_packing", "data.packing"),
    ("train_on_inputs", "data.learn"),
    ("val_set_size", "data.validation"),
    ("base_model", "model.base"),
    ("model_name_or_path", "model.base"),
    ("load_in_4bit", "model.quantize"),
    ("target_modules", "lora.targets"),
    ("output_dir", "output.dir"),
];

/// One setting: `train.learning_rate` and its default.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub path: String,
    pub default: Value,
}

/// A value somebody gave, and where.
#[derive(Debug, Clone)]
pub struct Given {
    pub path: String,
    pub value: Value,
    /// `configs/lora.toml:12`, `--set`, `TUNE_TRAIN__SEED`.
    pub origin: String,
}

pub struct Options {
    /// In the order they are declared.
    pub leaves: Vec<Leaf>,
    /// `eval`, `eval.judge`.
    sections: Vec<String>,
    defaults: toml::Table,
}

impl Options {
    pub fn new() -> anyhow::Result<Self> {
        let config = Config::default();
        let defaults = toml::Table::try_from(&config)?;
        // The order of declaration, which a TOML table loses.
        let ordered = serde_json::to_value(&config)?;
        let (mut leaves, mut sections) = (Vec::new(), Vec::new());
        descend(None, &defaults, &ordered, &mut leaves, &mut sections);
        Ok(Self {
            leaves,
            sections,
            defaults,
        })
    }

    pub fn leaf(&self, path: &str) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.path == path)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(String::as_str)
    }

    /// The values of a file, and everything wrong with it.
    pub fn read_file(&self, file: &TomlFile) -> (Vec<Given>, Vec<Problem>) {
        let table = match file.parse() {
            Ok(table) => table,
            Err(problems) => return (Vec::new(), problems),
        };
        let mut reading = FileReading {
            options: self,
            file,
            given: Vec::new(),
            problems: Vec::new(),
        };
        reading.table(table.get_ref(), None);
        (reading.given, reading.problems)
    }

    /// `--set train.seed=7`.
    pub fn read_flag(&self, text: &str) -> Result<Given, Problem> {
        let place = format!("--set {text}");
        match text.split_once('=') {
            Some((path, value)) => self.read_text(path.trim(), value.trim(), "--set", &place),
            None => Err(Problem {
                place,
                text: "wanted KEY=VALUE".into(),
                excerpt: None,
            }),
        }
    }

    /// `TUNE_TRAIN__SEED=7`.
    pub fn read_variable(&self, name: &str, value: &str) -> Result<Given, Problem> {
        let path = name
            .strip_prefix("TUNE_")
            .unwrap_or(name)
            .to_ascii_lowercase()
            .replace("__", ".");
        self.read_text(&path, value, name, name)
    }

    fn read_text(&self, path: &str, text: &str, origin: &str, place: &str) -> Result<Given, Problem> {
        let problem = |text| Problem {
            place: place.to_string(),
            text,
            excerpt: None,
        };
        let leaf = self.leaf(path).ok_or_else(|| problem(self.unknown(path)))?;
        let value = bare_value(text, &leaf.default);
        self.check(path, &value).map_err(problem)?;
        Ok(Given {
            path: path.to_string(),
            value,
            origin: origin.to_string(),
        })
    }

    /// Whether `value` can be the setting at `path`: the settings are read with it in place of the default.
    pub fn check(&self, path: &str, value: &Value) -> Result<(), String> {
        let mut table = self.defaults.clone();
        put(&mut table, path, value.clone());
        let Err(error) = Config::from_table(table) else {
            return Ok(());
        };
        let choices = choices(error.message());
        if let (Value::String(text), false) = (value, choices.is_empty()) {
            let near = nearest(text, choices.iter().copied()).map(|n| format!("; did you mean \"{n}\"?"));
            let near = near.unwrap_or_default();
            return Err(format!(
                "`{path}` is {}, wanted one of {}{near}",
                found(value),
                choices.join(", ")
            ));
        }
        Err(format!("`{path}` is {}, wanted {}", found(value), self.wanted(path)))
    }

    fn wanted(&self, path: &str) -> &'static str {
        if let Some((_, wanted)) = WANTED.iter().find(|(known, _)| *known == path) {
            return wanted;
        }
        match self.leaf(path).map(|leaf| &leaf.default) {
            Some(Value::Integer(_)) => "a whole number, 0 or more",
            Some(Value::Float(_)) => "a number",
            Some(Value::Boolean(_)) => "true or false",
            Some(Value::Array(_)) => "a list of text",
            _ => "text",
        }
    }

    fn unknown(&self, path: &str) -> String {
        let (section, name) = path
            .rsplit_once('.')
            .map_or((None, path), |(section, name)| (Some(section), name));
        if let Some((_, ours)) = CALLED.iter().find(|(theirs, _)| *theirs == name) {
            return format!("unknown key `{path}`; here it is called `{ours}`");
        }
        let known_section = section.is_none_or(|wanted| self.sections().any(|s| s == wanted));
        if !known_section {
            let near = section.and_then(|s| nearest(s, self.sections()));
            let near = near
                .map(|n| format!("; did you mean `{n}.{name}`?"))
                .unwrap_or_default();
            return format!("unknown key `{path}`{near}");
        }
        if self.sections().any(|section| section == path) {
            return format!("`{path}` is a section: set one of its keys");
        }
        // Names such as `model` of sections within sections lead nobody home.
        if let Some(elsewhere) = self
            .leaves
            .iter()
            .find(|leaf| leaf.path == name || leaf.path.split_once('.').is_some_and(|(_, key)| key == name))
        {
            return format!("unknown key `{path}`; `{name}` belongs in {}", home_of(&elsewhere.path));
        }
        let siblings = self
            .leaves
            .iter()
            .map(|leaf| leaf.path.as_str())
            .filter(|p| section_of(p) == section);
        let near = nearest(path, siblings).or_else(|| nearest(path, self.leaves.iter().map(|l| l.path.as_str())));
        let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        format!("unknown key `{path}`{near}")
    }
}

struct FileReading<'a> {
    options: &'a Options,
    file: &'a TomlFile,
    given: Vec<Given>,
    problems: Vec<Problem>,
}

impl FileReading<'_> {
    fn table(&mut self, table: &DeTable<'_>, section: Option<&str>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            let path = section.map_or_else(|| name.to_string(), |section| format!("{section}.{name}"));
            let is_section = self.options.sections().any(|section| section == path);
            if self.options.leaf(&path).is_some() {
                self.value(path, value);
            } else if !is_section {
                let text = match value.get_ref() {
                    DeValue::Table(_) if section.is_none() => self.unknown_section(name),
                    _ => self.options.unknown(&path),
                };
                self.problems.push(self.file.problem(&key.span(), text));
            } else if let DeValue::Table(inner) = value.get_ref() {
                self.table(inner, Some(&path));
            } else {
                let text = format!("`{path}` is {}, wanted a section [{path}]", value.get_ref().type_str());
                self.problems.push(self.file.problem(&value.span(), text));
            }
        }
    }

    fn value(&mut self, path: String, value: &toml::Spanned<DeValue<'_>>) {
        let span = value.span();
        let read = Value::deserialize(ValueDeserializer::from(value.clone()))
            .map_err(|e| format!("`{path}` cannot be read: {}", e.message()))
            .and_then(|value| self.options.check(&path, &value).map(|()| value));
        match read {
            Ok(value) => {
                let origin = self.file.place(&span);
                let origin = origin
                    .rsplit_once(':')
                    .map_or(origin.as_str(), |(line, _)| line)
                    .to_string();
                self.given.push(Given { path, value, origin });
            }
            Err(text) => self.problems.push(self.file.problem(&span, text)),
        }
    }

    fn unknown_section(&self, name: &str) -> String {
        let near = nearest(name, self.options.sections()).map(|n| format!("; did you mean [{n}]?"));
        format!("unknown section [{name}]{}", near.unwrap_or_default())
    }
}

/// Leaves and sections below `section`, in the order of `declared`, which a TOML table loses.
fn descend(
    section: Option<&str>,
    defaults: &toml::Table,
    declared: &serde_json::Value,
    leaves: &mut Vec<Leaf>,
    sections: &mut Vec<String>,
) {
    for (name, declared) in declared.as_object().into_iter().flatten() {
        let path = section.map_or_else(|| name.clone(), |section| format!("{section}.{name}"));
        match defaults.get(name) {
            Some(Value::Table(table)) => {
                sections.push(path.clone());
                descend(Some(&path), table, declared, leaves, sections);
            }
            Some(default) => leaves.push(Leaf {
                path,
                default: default.clone(),
            }),
            None => {}
        }
    }
}

/// Puts `value` at `section.key` or `key`, or deeper.
pub fn put(table: &mut toml::Table, path: &str, value: Value) {
    match path.split_once('.') {
        Some((section, key)) => {
            if let Value::Table(section) = table.entry(section).or_insert_with(|| Value::Table(toml::Table::new())) {
                put(section, key, value);
            }
        }
        None => {
            table.insert(path.to_string(), value);
        }
    }
}

/// A value typed without TOML's quotes: text where text is wanted, `a,b` where a list is.
fn bare_value(text: &str, default: &Value) -> Value {
    let parsed = text.parse::<Value>().ok();
    match (default, parsed) {
        (_, Some(value @ (Value::String(_) | Value::Array(_)))) => value,
        // A number may stand where `auto` does.
        (Value::String(word), Some(value @ Value::Integer(_))) if word == "auto" => value,
        (Value::String(_), _) | (_, None) if !default.is_array() => Value::String(text.to_string()),
        (Value::Array(_), _) => text
            .split(',')
            .map(|item| item.trim().to_string())
            .collect::<Vec<_>>()
            .into(),
        (_, Some(value)) => value,
        (_, None) => Value::String(text.to_string()),
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("text ({text:?})"),
        Value::Integer(_) => format!("the whole number {value}"),
        Value::Float(_) => format!("the number {value}"),
        Value::Boolean(_) => value.to_string(),
        Value::Datetime(_) => format!("the date {value}"),
        Value::Array(items) if items.len() <= 4 => format!("the list {value}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Table(_) => "a section".into(),
    }
}

/// The names serde lists where an enum's name is unknown: ``expected one of `a`, `b` `` (or ``expected `a` or `b` ``).
fn choices(message: &str) -> Vec<&str> {
    let Some((_, list)) = message
        .split_once("unknown variant")
        .and_then(|(_, rest)| rest.split_once("expected"))
    else {
        return Vec::new();
    };
    list.split('`').skip(1).step_by(2).collect()
}

fn section_of(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(section, _)| section)
}

fn home_of(path: &str) -> String {
    section_of(path).map_or_else(|| "the top of the file".into(), |section| format!("[{section}]"))
}

/// The known name most like `name`, if any is like it at all.
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let scored = known
        .into_iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(name, k), k));
    scored
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let file = TomlFile {
            name: "c.toml".into(),
            text: text.into(),
        };
        Options::new()
            .unwrap()
            .read_file(&file)
            .1
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn unknown_keys_get_the_nearest_name_and_their_place() {
        let found = problems("[train]\nepochs = 1.0\nlerning_rate = 2e-4\n");
        assert_eq!(
            found,
            [
                "c.toml:3:1: unknown key `train.lerning_rate`; did you mean `train.learning_rate`?\n    \
              3 | lerning_rate = 2e-4\n      | ^^^^^^^^^^^^"
            ]
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_home() {
        assert!(problems("[train]\nalpha = 32\n")[0].contains("`alpha` belongs in [lora]"));
        assert!(problems("learning_rate = 1.0\n")[0].contains("belongs in [train]"));
    }

    #[test]
    fn names_of_other_trainers_are_translated() {
        assert!(problems("[train]\nlr = 1e-4\n")[0].contains("`train.lr`; here it is called `train.learning_rate`"));
        assert!(problems("cutoff_len = 512\n")[0].contains("`data.max_length`"));
        let options = Options::new().unwrap();
        let known = |path: &str| options.leaves.iter().any(|leaf| leaf.path == path);
        let name = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
        for (theirs, ours) in CALLED {
            assert!(known(ours), "{ours} is no setting");
            assert!(
                options.leaves.iter().all(|leaf| name(&leaf.path) != theirs),
                "{theirs} is a setting"
            );
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "devise = \"cpu\"\n[trian]\nepochs = 1\n[train]\nbatch_size = \"1\"\nschedule = \"cosin\"\n[lora]\nr = 1.5\n";
        let found = problems(text);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].contains("did you mean `device`?"), "{}", found[0]);
        assert!(found[1].contains("did you mean [train]?"), "{}", found[1]);
        assert!(
            found[2].contains("c.toml:5:14: `train.batch_size` is text (\"1\"), wanted a whole number"),
            "{}",
            found[2]
        );
        assert!(
            found[3].contains("wanted one of constant, linear, cosine"),
            "{}",
            found[3]
        );
        assert!(found[3].contains("did you mean \"cosine\"?"), "{}", found[3]);
        assert!(
            found[4].contains("`lora.r` is the number 1.5, wanted a whole number"),
            "{}",
            found[4]
        );
    }

    #[test]
    fn sections_within_sections_are_read_key_by_key() {
        let found =
            problems("[eval.judge]\nurll = \"x\"\n[eval.rates]\nprompt = \"dear\"\n[eval]\njudges = 1\nmodel = 2\n");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(
            found
                .iter()
                .any(|p| p.contains("`eval.judge.urll`; did you mean `eval.judge.url`?")),
            "{found:#?}"
        );
        assert!(
            found
                .iter()
                .any(|p| p.contains("`eval.rates.prompt` is text (\"dear\"), wanted a number")),
            "{found:#?}"
        );
        assert!(problems("[eval]\njudge = 3\n")[0].contains("wanted a section [eval.judge]"));
        assert_eq!(
            problems("[eval]\njudge = { url = \"http://j/v1\", model = \"m\" }\n"),
            [""; 0]
        );
        let options = Options::new().unwrap();
        let given = options.read_flag("eval.judge.url=http://j/v1").unwrap();
        assert_eq!(given.path, "eval.judge.url");
        let list = options.read_flag("raft.distractors=1,1").unwrap_err().to_string();
        assert!(list.ends_with("wanted two whole numbers, [least, most]"), "{list}");
    }

    #[test]
    fn whole_numbers_are_numbers() {
        assert_eq!(
            problems("[lora]\nalpha = 32\n[train]\nepochs = 3\nbetas = [0.9, 1]\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn flags_take_bare_text_and_lists() {
        let options = Options::new().unwrap();
        let value = |text: &str| {
            options
                .read_flag(text)
                .map(|given| given.value)
                .map_err(|p| p.to_string())
        };
        assert_eq!(value("train.learning_rate=1e-4"), Ok(Value::Float(1e-4)));
        assert_eq!(value("model.base=org/name"), Ok(Value::String("org/name".into())));
        assert_eq!(value("model.revision=123"), Ok(Value::String("123".into())));
        assert_eq!(
            value("data.validation=held.jsonl"),
            Ok(Value::String("held.jsonl".into()))
        );
        assert_eq!(
            value("data.train=a.jsonl,b.jsonl"),
            Ok(vec!["a.jsonl", "b.jsonl"].into())
        );
        assert_eq!(value("data.packing=false"), Ok(Value::Boolean(false)));
        assert!(
            value("train.sede=1")
                .unwrap_err()
                .contains("did you mean `train.seed`?")
        );
        assert!(value("train.seed").unwrap_err().contains("wanted KEY=VALUE"));
        assert!(value("data.packing=yes").unwrap_err().contains("wanted true or false"));
    }

    #[test]
    fn variables_name_their_setting() {
        let options = Options::new().unwrap();
        let given = options.read_variable("TUNE_TRAIN__LEARNING_RATE", "1e-4").unwrap();
        assert_eq!(
            (given.path.as_str(), given.origin.as_str()),
            ("train.learning_rate", "TUNE_TRAIN__LEARNING_RATE")
        );
        assert_eq!(options.read_variable("TUNE_DEVICE", "cpu").unwrap().path, "device");
        let given = options.read_variable("TUNE_EVAL__JUDGE__URL", "http://j/v1").unwrap();
        assert_eq!(given.path, "eval.judge.url");
    }
}
