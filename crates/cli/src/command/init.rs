//! `tune init`: a commented config for a base and data, with what the data says already filled in.
use crate::End;
use crate::args::Init;
use crate::command::answering;
use crate::errors::Failure;
use crate::printer::{Printer, plural, shell_word};
use crate::resolve::in_a_config;
use std::path::Path;
use tune_data::{Codec, FormatChoice};
use tune_model::staging;
use tune_trainer::settings::Settings;

/// Every key with its default and a remark; `{…}` marks what depends on the base and the data.
pub const TEMPLATE: &str = include_str!("init.toml");

/// What was measured in the data.
struct Found {
    records: usize,
    format: String,
    prompt_key: String,
    response_key: String,
    /// Longest sample in tokens, where the base's tokenizer could be had.
    longest: Option<usize>,
}

pub fn run(args: &Init, printer: &Printer) -> anyhow::Result<End> {
    let to_stdout = args.out == Path::new("-");
    if !to_stdout && args.out.exists() && !args.force {
        return Err(Failure::error(
            format!("{} already exists", args.out.display()),
            "choose another --out, or add --force",
        ));
    }
    for file in &args.data {
        in_a_config(file)?;
    }
    let found = measure(args, printer)?;
    let text = fill(args, &found);
    if to_stdout {
        printer.stream(&text)?;
        return Ok(End::Done);
    }
    staging::write_file(&args.out, text.as_bytes())?;
    let out = shell_word(&args.out.display().to_string());
    let length = found
        .longest
        .map(|longest| format!(", the longest {longest} tokens"))
        .unwrap_or_default();
    let records = plural(found.records, "record");
    printer.talk(&format!(
        "wrote {} for {records} ({}){length}",
        args.out.display(),
        found.format
    ));
    printer.talk(&format!("\nnext:\n  tune data check {out}\n  tune train {out}"));
    Ok(End::Done)
}

fn measure(args: &Init, printer: &Printer) -> anyhow::Result<Found> {
    let mut spec = Settings::default().data_spec();
    spec.prompt_key = args.prompt_key.clone().unwrap_or(spec.prompt_key);
    spec.response_key = args.response_key.clone().unwrap_or(spec.response_key);
    let mut records = Vec::new();
    let mut formats = Vec::new();
    for path in &args.data {
        let (report, more) = tune_data::corpus::records(path, &spec)?;
        formats.push(report.format);
        records.extend(more);
    }
    formats.dedup();
    let format = if formats.len() == 1 {
        formats.remove(0)
    } else {
        FormatChoice::Auto.name().to_string()
    };
    let codec = tokenizer(&args.base, printer);
    let lengths = codec.map(|codec| {
        records
            .iter()
            .map(|r| codec.encode_record(r, spec.learn).map(|s| s.tokens.len()))
            .collect::<Result<Vec<_>, _>>()
    });
    let longest = lengths.transpose()?.and_then(|lengths| lengths.into_iter().max());
    let (prompt_key, response_key) = (spec.prompt_key, spec.response_key);
    Ok(Found {
        records: records.len(),
        format,
        prompt_key,
        response_key,
        longest,
    })
}

/// A base out of reach costs the measured length, not the config.
fn tokenizer(base: &str, printer: &Printer) -> Option<Codec> {
    let opened = answering::open(base, None, printer).map_err(anyhow::Error::from);
    match opened.and_then(|base| answering::codec(&base, None)) {
        Ok(codec) => Some(codec),
        Err(error) => {
            printer.warning(&format!("lengths are not measured: {error:#}"));
            None
        }
    }
}

fn fill(args: &Init, found: &Found) -> String {
    let max_length = found.longest.map_or(Settings::default().data.max_length, row_length);
    let measured = found
        .longest
        .map(|longest| format!("; the longest record has {longest}"))
        .unwrap_or_default();
    let name = args
        .data
        .first()
        .and_then(|path| path.file_stem())
        .unwrap_or_default()
        .to_string_lossy();
    let train: Vec<_> = args
        .data
        .iter()
        .map(|path| quoted(&path.display().to_string()))
        .collect();
    let config = if args.out == Path::new("-") {
        "CONFIG".into()
    } else {
        shell_word(&args.out.display().to_string())
    };
    let values = [
        ("{config}", config),
        ("{base}", quoted(&args.base)),
        ("{train}", train.join(", ")),
        ("{format}", quoted(&found.format)),
        ("{prompt_key}", quoted(&found.prompt_key)),
        ("{response_key}", quoted(&found.response_key)),
        ("{max_length}", max_length.to_string()),
        ("{measured}", measured),
        ("{dir}", quoted(&format!("runs/{name}"))),
    ];
    let replace = |text: &str| {
        values
            .iter()
            .fold(text.to_string(), |text, (mark, value)| text.replace(mark, value))
    };
    let line = |line: &str| match line.split_once(" # ") {
        Some((setting, comment)) => aligned(&replace(setting.trim_end()), &replace(comment)),
        None => format!("{}\n", replace(line)),
    };
    TEMPLATE.lines().map(line).collect()
}

/// A setting and its comment, which stays in its column whatever the values' widths.
pub fn aligned(setting: &str, comment: &str) -> String {
    if comment.is_empty() {
        format!("{setting}\n")
    } else {
        format!("{setting:<26} # {comment}\n")
    }
}

/// Room for the longest record and for packing several short ones: a multiple of 128, 512 to 4096.
fn row_length(longest: usize) -> usize {
    longest.next_multiple_of(128).clamp(512, 4096)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::toml_file::TomlFile;

    #[test]
    fn the_config_written_can_be_read() {
        let args = Init {
            base: "org/na\"me".into(),
            data: vec!["a b.jsonl".into()],
            prompt_key: None,
            response_key: None,
            out: "c.toml".into(),
            force: false,
        };
        let found = Found {
            records: 3,
            format: "prompt-response".into(),
            prompt_key: "question".into(),
            response_key: "answer".into(),
            longest: Some(700),
        };
        let text = fill(&args, &found);
        assert!(!text.contains('{') && !text.contains('}'), "{text}");
        let options = Options::new().unwrap();
        let (given, problems) = options.read_file(&TomlFile {
            name: "c.toml".into(),
            text,
        });
        assert_eq!(problems, []);
        let value = |path: &str| given.iter().find(|g| g.path == path).map(|g| g.value.to_string());
        assert_eq!(value("data.max_length").as_deref(), Some("768"));
        assert_eq!(value("data.prompt_key").as_deref(), Some("\"question\""));
        let unexplained: Vec<_> = options
            .leaves
            .iter()
            .filter(|leaf| value(&leaf.path).is_none())
            // Of documents and questions nothing is known here; configs/rag.toml explains these.
            .filter(|leaf| {
                !["rag.", "raft.", "eval.", "advise.", "log."]
                    .iter()
                    .any(|s| leaf.path.starts_with(s))
            })
            .map(|l| &l.path)
            .collect();
        assert!(unexplained.is_empty(), "the written config leaves out {unexplained:?}");
    }
}
