//! The interaction log: JSONL, one object a question, feedback added later. It grows into questions to evaluate with
//! and rows to train on.
use crate::eval::arm::Arm;
use crate::eval::cost::Quantiles;
use crate::metrics::citation::cited;
use crate::question::{Gold, Question, Stratum};
use crate::retrieve::{Scores, Timings};
use crate::{Answer, Message, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// `[log]` of the config: where questions are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// JSONL; empty = not kept.
    pub path: PathBuf,
    /// Keep hashes in place of texts.
    pub redact: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interaction {
    pub id: String,
    /// Seconds since 1970, UTC.
    pub time: u64,
    pub arm: Arm,
    pub question: String,
    pub answer: Answer,
    pub abstained: bool,
    /// Hashes of weights, index and prompt.
    pub weights: String,
    pub index: Option<String>,
    pub prompt: String,
    /// In the prompt's order: the first is `[1]`.
    pub passages: Vec<Logged>,
    pub retrieval: Option<Timings>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// The last that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    pub id: String,
    pub document: String,
    pub score: f64,
    pub scores: Scores,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    pub good: bool,
    /// What should have been answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Asked(Box<Interaction>),
    Judged { feedback_on: String, feedback: Feedback },
}

impl Interaction {
    /// Texts replaced by their hashes: equal questions are still seen to be equal.
    pub fn redact(&mut self) {
        let hidden = |text: &str| format!("blake3:{}", &blake3::hash(text.as_bytes()).to_hex()[..16]);
        self.question = hidden(&self.question);
        self.answer.text = hidden(&self.answer.text);
        if let Some(correction) = self.feedback.as_mut().and_then(|feedback| feedback.correction.as_mut()) {
            *correction = hidden(correction);
        }
        self.redacted = true;
    }

    /// What is known to be right: the correction, or an answer that was called good.
    fn right_answer(&self) -> Option<&str> {
        let feedback = self.feedback.as_ref().filter(|_| !self.redacted)?;
        feedback
            .correction
            .as_deref()
            .or(feedback.good.then_some(self.answer.text.as_str()))
    }
}

/// Adds one line, written at once.
pub fn append(path: &Path, interaction: &Interaction) -> io::Result<()> {
    append_line(path, &Line::Asked(Box::new(interaction.clone())))
}

/// Adds what somebody thought of an answer. Where texts are not to be kept, give no correction.
pub fn append_feedback(path: &Path, id: &str, feedback: &Feedback) -> io::Result<()> {
    append_line(
        path,
        &Line::Judged {
            feedback_on: id.to_string(),
            feedback: feedback.clone(),
        },
    )
}

fn append_line(path: &Path, line: &Line) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    // A line that a crash cut off must not take this one with it.
    if last != [b'\n'] {
        bytes.insert(0, b'\n');
    }
    file.write_all(&bytes)
}

/// What a log holds; lines that are neither an interaction nor feedback are named, not fatal.
#[derive(Debug, Default)]
pub struct Log {
    pub interactions: Vec<Interaction>,
    /// Line numbers, from 1.
    pub unreadable: Vec<usize>,
    /// Feedback on ids that are not in the log.
    pub orphaned: usize,
}

pub fn read(path: &Path) -> io::Result<Log> {
    let text = fs_err::read(path)?;
    let mut log = Log::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(Line::Asked(interaction)) => {
                places.insert(interaction.id.clone(), log.interactions.len());
                log.interactions.push(*interaction);
            }
            Ok(Line::Judged { feedback_on, feedback }) => match places.get(&feedback_on) {
                Some(&place) => log.interactions[place].feedback = Some(feedback),
                None => log.orphaned += 1,
            },
            Err(_) => log.unreadable.push(index + 1),
        }
    }
    Ok(log)
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmStats {
    pub questions: usize,
    pub good: usize,
    pub bad: usize,
    pub abstained: usize,
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
    /// Retrieval and answer.
    pub seconds: Option<Quantiles>,
}

pub fn stats(log: &Log) -> BTreeMap<Arm, ArmStats> {
    let mut by_arm: BTreeMap<Arm, Vec<&Interaction>> = BTreeMap::new();
    for interaction in &log.interactions {
        by_arm.entry(interaction.arm).or_default().push(interaction);
    }
    by_arm.into_iter().map(|(arm, all)| (arm, arm_stats(&all))).collect()
}

fn arm_stats(all: &[&Interaction]) -> ArmStats {
    let count = |holds: &dyn Fn(&Interaction) -> bool| all.iter().filter(|one| holds(one)).count();
    let judged = |good: bool| count(&|one| one.feedback.as_ref().is_some_and(|feedback| feedback.good == good));
    let mean = |of: fn(&Answer) -> usize| all.iter().map(|one| of(&one.answer) as f64).sum::<f64>() / all.len() as f64;
    let seconds = |one: &&Interaction| {
        let retrieval = one.retrieval.unwrap_or_default();
        one.answer.seconds + retrieval.embed + retrieval.search + retrieval.rerank
    };
    ArmStats {
        questions: all.len(),
        good: judged(true),
        bad: judged(false),
        abstained: count(&|one| one.abstained),
        prompt_tokens: mean(|answer| answer.prompt_tokens),
        answer_tokens: mean(|answer| answer.answer_tokens),
        seconds: Quantiles::of(all.iter().map(seconds)),
    }
}

/// Questions whose right answer is known, those answered badly first; each question once. Gold are the documents of the
/// passages that a good answer cites.
pub fn to_questions(log: &Log) -> Vec<Question> {
    let known = log
        .interactions
        .iter()
        .filter_map(|one| Some((one, one.right_answer()?)));
    let mut known: Vec<(&Interaction, &str)> = known.collect();
    known.sort_by_key(|(one, _)| one.feedback.as_ref().is_some_and(|feedback| feedback.good));
    let mut seen = std::collections::HashSet::new();
    known.retain(|(one, _)| seen.insert(one.question.trim().to_lowercase()));
    let question = |(one, answer): (&Interaction, &str)| Question {
        id: one.id.clone(),
        question: one.question.clone(),
        answers: vec![without_citations(answer)],
        gold: cited_documents(one),
        stratum: Stratum::UnseenInCorpus,
        regex: None,
        json_schema: None,
        tolerance: None,
        group: None,
    };
    known
        .into_iter()
        .map(question)
        .filter(|question| !question.answers[0].is_empty())
        .collect()
}

fn cited_documents(one: &Interaction) -> Vec<Gold> {
    let good = one
        .feedback
        .as_ref()
        .is_some_and(|feedback| feedback.good && feedback.correction.is_none());
    let numbers = if good {
        cited(&one.answer.text)
    } else {
        Default::default()
    };
    let passages = numbers
        .into_iter()
        .filter_map(|number| one.passages.get(number.checked_sub(1)?));
    let mut documents: Vec<String> = passages.map(|passage| passage.document.clone()).collect();
    documents.sort();
    documents.dedup();
    documents
        .into_iter()
        .map(|document| Gold {
            document,
            start: None,
            end: None,
        })
        .collect()
}

fn without_citations(answer: &str) -> String {
    let pattern = regex::Regex::new(r"\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\]");
    pattern.map_or(answer.to_string(), |pattern| {
        pattern.replace_all(answer, "").trim().to_string()
    })
}

/// Conversations `{"messages": [...]}` of question and right answer.
pub fn to_training(log: &Log) -> Vec<Value> {
    let known = log
        .interactions
        .iter()
        .filter_map(|one| Some((one, one.right_answer()?)));
    let row = |(one, answer): (&Interaction, &str)| {
        let message = |role, content: &str| Message {
            role,
            content: content.to_string(),
        };
        json!({"messages": [message(Role::User, &one.question), message(Role::Assistant, &without_citations(answer))]})
    };
    known.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interaction(id: &str, question: &str, answer: &str) -> Interaction {
        let logged = |document: &str| Logged {
            id: document.into(),
            document: document.into(),
            score: 1.0,
            scores: Scores::default(),
        };
        Interaction {
            id: id.into(),
            time: 1,
            arm: Arm::RAG,
            question: question.into(),
            answer: Answer {
                text: answer.into(),
                prompt_tokens: 10,
                answer_tokens: 4,
                first_token_seconds: 0.1,
                seconds: 1.0,
            },
            abstained: false,
            weights: "w".into(),
            index: Some("i".into()),
            prompt: "p".into(),
            passages: vec![logged("a.md"), logged("b.md")],
            retrieval: Some(Timings {
                embed: 0.1,
                search: 0.1,
                rerank: 0.0,
            }),
            redacted: false,
            feedback: None,
        }
    }

    #[test]
    fn feedback_finds_its_question_and_exports_what_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        append(&path, &interaction("1", "How long?", "14 days [2].")).unwrap();
        append(&path, &interaction("2", "How much?", "Free.")).unwrap();
        append(&path, &interaction("3", "Where?", "Here.")).unwrap();
        let mut secret = interaction("4", "My name is X", "Hello X");
        secret.redact();
        append(&path, &secret).unwrap();
        let good = |good, correction: Option<&str>| Feedback {
            good,
            correction: correction.map(str::to_string),
        };
        append_feedback(&path, "1", &good(true, None)).unwrap();
        append_feedback(&path, "2", &good(false, Some("3 euros"))).unwrap();
        append_feedback(&path, "4", &good(true, None)).unwrap();
        append_feedback(&path, "9", &good(true, None)).unwrap();
        let whole = fs_err::read_to_string(&path).unwrap();
        assert!(!whole.contains("My name"));
        fs_err::write(&path, format!("{whole}{{\"id\": \"cut")).unwrap();

        let log = read(&path).unwrap();
        assert_eq!(
            (log.interactions.len(), log.unreadable.as_slice(), log.orphaned),
            (4, &[9][..], 1)
        );
        let stats = &stats(&log)[&Arm::RAG];
        assert_eq!((stats.questions, stats.good, stats.bad), (4, 2, 1));
        assert!((stats.seconds.unwrap().p50 - 1.2).abs() < 1e-9);
        let questions = to_questions(&log);
        let found: Vec<_> = questions
            .iter()
            .map(|q| (q.id.as_str(), q.answers[0].as_str(), q.gold.len()))
            .collect();
        assert_eq!(found, [("2", "3 euros", 0), ("1", "14 days.", 1)]);
        assert_eq!(questions[1].gold[0].document, "b.md");
        let rows = to_training(&log);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            rows[0]["messages"][1],
            json!({"role": "assistant", "content": "14 days."})
        );
    }
}
