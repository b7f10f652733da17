//! The question file: what is asked, what counts as right, and where the answer stands.
use crate::metrics::format::schema_problems;
use crate::{Passage, metrics::squad};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub id: String,
    pub question: String,
    /// Any one of them is right.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Where the answer stands; without it retrieval is not scored for this question.
    #[serde(default)]
    pub gold: Vec<Gold>,
    pub stratum: Stratum,
    /// The answer must match it somewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The answer must be JSON that keeps to it; `true` = any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Value>,
    /// A number of the answer must be this close to a reference's, relative to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Questions of one group are drawn together; without it, those on one document are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A document, or a piece of its extracted text in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gold {
    pub document: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<usize>,
}

impl Gold {
    /// Same document, and some of the span, where there is one, in the passage.
    pub fn covered_by(&self, passage: &Passage) -> bool {
        let overlaps = match (self.start, self.end) {
            (Some(start), Some(end)) => passage.start < end && start < passage.end,
            _ => true,
        };
        self.document == passage.document && overlaps
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stratum {
    /// Asked in training in these words.
    Seen,
    /// Asked in training in other words.
    Paraphrase,
    /// Never trained on, but the documents tell.
    UnseenInCorpus,
    /// Neither trained on nor in the documents: saying so is right.
    NotInCorpus,
    /// Asks for a form rather than a fact.
    Format,
}

impl Stratum {
    pub const ALL: [Stratum; 5] = [
        Stratum::Seen,
        Stratum::Paraphrase,
        Stratum::UnseenInCorpus,
        Stratum::NotInCorpus,
        Stratum::Format,
    ];

    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Stratum::Seen => "seen",
            Stratum::Paraphrase => "paraphrase",
            Stratum::UnseenInCorpus => "unseen-in-corpus",
            Stratum::NotInCorpus => "not-in-corpus",
            Stratum::Format => "format",
        }
    }
}

impl Question {
    /// Questions on one thing are right or wrong together, so they are drawn together.
    pub fn cluster(&self) -> &str {
        let document = self.gold.first().map(|gold| &gold.document);
        self.group.as_ref().or(document).unwrap_or(&self.id)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut unless = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_string());
            }
        };
        unless(!self.id.trim().is_empty(), "`id` is empty");
        unless(!self.question.trim().is_empty(), "`question` is empty");
        let words = |answer: &String| !squad::tokens(answer).is_empty();
        unless(
            self.answers.iter().all(words),
            "an answer has no word that scoring sees (articles and marks are dropped)",
        );
        if self.stratum == Stratum::NotInCorpus {
            unless(
                self.gold.is_empty(),
                "stratum not-in-corpus has `gold`; one of the two is wrong",
            );
        } else {
            let checked = self.regex.is_some() || self.json_schema.is_some();
            unless(
                checked || !self.answers.is_empty(),
                "has neither `answers` nor `regex` nor `json_schema`",
            );
        }
        for gold in &self.gold {
            unless(!gold.document.is_empty(), "a `gold.document` is empty");
            unless(
                match (gold.start, gold.end) {
                    (Some(start), Some(end)) => start < end,
                    (None, None) => true,
                    _ => false,
                },
                "`gold` needs both `start` and `end`, or neither, and start before end",
            );
        }
        if let Some(tolerance) = self.tolerance {
            unless(
                tolerance.is_finite() && tolerance >= 0.0,
                "`tolerance` must be 0 or more",
            );
            let number = |answer: &String| !crate::metrics::numeric::numbers(answer).is_empty();
            unless(
                self.answers.iter().any(number),
                "`tolerance` is given, but no answer has a number",
            );
        }
        if let Some(pattern) = &self.regex
            && let Err(error) = regex::Regex::new(pattern)
        {
            problems.push(format!("`regex`: {error}"));
        }
        problems.extend(self.json_schema.iter().flat_map(schema_problems));
        problems
    }
}

#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    #[error("cannot read questions")]
    Read(#[source] std::io::Error),
    #[error("{}: no questions", .0.display())]
    Empty(PathBuf),
    #[error("{}: {} {}\n{}", path.display(), problems.len(), plural(problems.len()), listed(problems))]
    Problems { path: PathBuf, problems: Vec<Problem> },
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "problem" } else { "problems" }
}

/// The first twenty, and how many more there are.
fn listed(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems
        .iter()
        .take(20)
        .map(|problem| format!("  line {}: {}", problem.line, problem.what))
        .collect();
    if problems.len() > 20 {
        lines.push(format!("  and {} more", problems.len() - 20));
    }
    lines.join("\n")
}

impl QuestionError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read(_) => Some("set eval.questions to a JSONL file of questions".into()),
            Self::Empty(_) | Self::Problems { .. } => Some(
                r#"a line is {"id": "q1", "question": "…", "answers": ["…"], "gold": [{"document": "guide.md"}], "stratum": "unseen-in-corpus"}"#
                    .into(),
            ),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    pub what: String,
}

/// All questions of a JSONL file, or everything that is wrong with it.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, QuestionError> {
    let bytes = fs_err::read(path).map_err(QuestionError::Read)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let (mut questions, mut problems) = (Vec::new(), Vec::new());
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line = index + 1;
        let mut tell = |what: String| problems.push(Problem { line, what });
        match serde_json::from_slice::<Question>(bytes) {
            Err(error) => tell(mistyped(bytes).unwrap_or_else(|| without_place(&error))),
            Ok(question) => {
                question.problems().into_iter().for_each(&mut tell);
                if let Some(first) = lines.insert(question.id.clone(), line) {
                    tell(format!("id `{}` is already on line {first}", question.id));
                }
                questions.push(question);
            }
        }
    }
    if !problems.is_empty() {
        return Err(QuestionError::Problems {
            path: path.to_path_buf(),
            problems,
        });
    }
    if questions.is_empty() {
        return Err(QuestionError::Empty(path.to_path_buf()));
    }
    Ok(questions)
}

/// What serde would tell in words of Rust.
fn mistyped(line: &[u8]) -> Option<String> {
    let row: Value = serde_json::from_slice(line).ok()?;
    let lists = [
        ("answers", "text", Value::is_string as fn(&Value) -> bool),
        ("gold", r#"{"document": …}"#, Value::is_object),
    ];
    let (key, of, _) = lists.into_iter().find(|(key, _, is_item)| {
        let value = row.get(*key);
        value.is_some_and(|value| !value.as_array().is_some_and(|items| items.iter().all(is_item)))
    })?;
    Some(format!("`{key}` must be a list of {of}"))
}

/// serde_json counts lines within the line it was given.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what}, column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Question>, QuestionError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.jsonl");
        fs_err::write(&path, text).unwrap();
        read_questions(&path)
    }

    #[test]
    fn a_question_with_everything() {
        let line = r#"{"id":"a","question":"How long?","answers":["14 days"],"gold":[{"document":"a.md","start":3,"end":9}],"stratum":"unseen-in-corpus","regex":"\\d+","json_schema":{"type":"object"},"tolerance":0.01}"#;
        let questions = read(&format!("\u{feff}{line}\r\n\n")).unwrap();
        assert_eq!(questions.len(), 1);
        assert_eq!(questions[0].cluster(), "a.md");
        assert_eq!(serde_json::to_string(&questions[0]).unwrap(), line);
    }

    #[test]
    fn questions_are_drawn_by_group_then_document_then_alone() {
        let line =
            |id: &str, rest: &str| format!(r#"{{"id":"{id}","question":"?","answers":["x"],"stratum":"seen"{rest}}}"#);
        let lines = [
            line("a", r#","gold":[{"document":"d"}],"group":"g""#),
            line("b", r#","gold":[{"document":"d"}]"#),
            line("c", ""),
        ];
        let questions = read(&lines.join("\n")).unwrap();
        let clusters: Vec<&str> = questions.iter().map(Question::cluster).collect();
        assert_eq!(clusters, ["g", "d", "c"]);
    }

    #[test]
    fn all_problems_at_once_with_their_lines() {
        let text = [
            r#"{"id":"a","question":"?","answers":["x"],"stratum":"seen"}"#,
            r#"{"id":"a","question":" ","answers":[],"stratum":"seen"}"#,
            "not json",
            r#"{"id":"b","question":"?","answers":["x"],"stratum":"new"}"#,
            r#"{"id":"c","question":"?","gold":[{"document":"d","start":4}],"stratum":"not-in-corpus"}"#,
            r#"{"id":"d","question":"?","answers":["none"],"stratum":"format","regex":"(","tolerance":-1,"json_schema":{"oneOf":[]}}"#,
            r#"{"id":"e","question":"?","answer":"x","stratum":"seen"}"#,
            r#"{"id":"f","question":"?","answers":"x","stratum":"seen"}"#,
            r#"{"id":"g","question":"?","answers":["x"],"gold":["d.md"],"stratum":"seen"}"#,
        ];
        let Err(QuestionError::Problems { problems, .. }) = read(&text.join("\n")) else {
            panic!("accepted");
        };
        let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(
            lines,
            [2, 2, 2, 3, 4, 5, 5, 6, 6, 6, 6, 7, 8, 9],
            "{}",
            listed(&problems)
        );
        assert_eq!(problems[12].what, "`answers` must be a list of text");
        assert_eq!(problems[13].what, r#"`gold` must be a list of {"document": …}"#);
    }

    #[test]
    fn no_questions_is_an_error() {
        assert!(matches!(read("\n\n"), Err(QuestionError::Empty(_))));
    }
}
