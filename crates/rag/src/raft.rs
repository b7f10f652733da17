//! Training rows for a model that answers from passages (RAFT, Zhang et al. 2024, 2403.10131): the gold passage among
//! distractors, in the very prompts that questions are asked in.
use crate::chunk::embedded_text;
use crate::eval::error::{EvalError, Result, asking};
use crate::eval::{Library, Prompts};
use crate::metrics::overlap::k_precision;
use crate::question::{Question, Stratum};
use crate::random::SplitMix64;
use crate::{Answerer, Message, Passage, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Share of rows whose prompt holds the gold passage.
    pub gold_share: f64,
    /// Share of rows without it that are to be answered with `abstention`. What the two leave of 1 is answered
    /// without it, from memory, as in the paper.
    pub unanswerable_share: f64,
    /// Distractors a row, drawn evenly from least to most.
    pub distractors: [usize; 2],
    /// Share of distractors drawn from the whole index rather than from the best ranked.
    pub random_share: f64,
    /// Rows made of each question, each with other passages.
    pub copies: usize,
    /// What to say where the passages do not tell.
    pub abstention: String,
    /// Put `[n]`, the number of the gold passage, behind the answer.
    pub cite: bool,
    /// Tokens left free for the answer.
    pub max_new_tokens: usize,
    pub seed: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self {
            gold_share: 0.8,
            unanswerable_share: 0.2,
            distractors: [1, 4],
            random_share: 0.25,
            copies: 1,
            abstention: "That is not in the documents.".into(),
            cite: true,
            max_new_tokens: 64,
            seed: 42,
        }
    }
}

impl Raft {
    /// All that is wrong, at once.
    pub fn validate(&self) -> Result<()> {
        let share = |share: f64| (0.0..=1.0).contains(&share);
        let [least, most] = self.distractors;
        let together = self.gold_share + self.unanswerable_share;
        let checks = [
            (
                share(self.gold_share),
                "gold_share",
                self.gold_share.to_string(),
                "0 to 1",
            ),
            (
                share(self.unanswerable_share),
                "unanswerable_share",
                self.unanswerable_share.to_string(),
                "0 to 1",
            ),
            (
                share(self.random_share),
                "random_share",
                self.random_share.to_string(),
                "0 to 1",
            ),
            (
                together <= 1.0 + 1e-9,
                "gold_share + raft.unanswerable_share",
                together.to_string(),
                "1 or less",
            ),
            (
                least <= most && (1..=1000).contains(&most),
                "distractors",
                format!("[{least}, {most}]"),
                "[least, most] with most from 1 to 1000",
            ),
            (
                (1..=1000).contains(&self.copies),
                "copies",
                self.copies.to_string(),
                "1 to 1000",
            ),
            (
                !self.abstention.trim().is_empty(),
                "abstention",
                "\"\"".into(),
                "a sentence",
            ),
            (
                self.max_new_tokens > 0,
                "max_new_tokens",
                self.max_new_tokens.to_string(),
                "1 or more",
            ),
        ];
        let problems: Vec<String> = checks
            .into_iter()
            .filter(|(holds, ..)| !holds)
            .map(|(_, key, found, wanted)| format!("raft.{key}: found {found}, wanted {wanted}"))
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(EvalError::Settings { problems })
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    WithGold,
    FromMemory,
    Unanswerable,
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Kind::WithGold => "with the gold passage",
            Kind::FromMemory => "from memory",
            Kind::Unanswerable => "unanswerable",
        }
    }
}

/// A conversation to train on; the last message is the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub messages: Vec<Message>,
    #[serde(skip)]
    pub kind: Kind,
}

#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub counts: BTreeMap<Kind, usize>,
    /// Ids of questions that made no row, with the reason.
    pub skipped: Vec<(String, &'static str)>,
}

/// Seeded: the same questions and index make the same rows. `watch` is told how many questions are done.
pub fn rows(
    settings: &Raft,
    questions: &[Question],
    library: &dyn Library,
    prompts: &dyn Prompts,
    answerer: &dyn Answerer,
    watch: &mut dyn FnMut(usize),
) -> Result<Rows> {
    settings.validate()?;
    let mut all = Vec::new();
    library
        .each_passage(&mut |passage| all.push(passage.clone()))
        .map_err(asking("reading the index"))?;
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let maker = Maker {
        settings,
        library,
        prompts,
        answerer,
        all,
    };
    let mut found = Rows::default();
    for (i, question) in questions.iter().enumerate() {
        for copy in 0..settings.copies {
            match maker.row(question, copy)? {
                Ok(row) => {
                    *found.counts.entry(row.kind).or_insert(0) += 1;
                    found.rows.push(row);
                }
                Err(reason) => found.skipped.push((question.id.clone(), reason)),
            }
        }
        watch(i + 1);
    }
    Ok(found)
}

/// Of a document that is gold as a whole, the passage that answers: a row whose passages do not would teach to make it up.
fn most_of_the_answer(question: &Question, gold: Vec<Passage>) -> Option<Passage> {
    let answer = question.answers.first().map_or("", String::as_str);
    let held = |passage: &Passage| k_precision(answer, &embedded_text(passage, true));
    // Of equals the first.
    gold.into_iter().rev().max_by(|a, b| held(a).total_cmp(&held(b)))
}

struct Maker<'a> {
    settings: &'a Raft,
    library: &'a dyn Library,
    prompts: &'a dyn Prompts,
    answerer: &'a dyn Answerer,
    all: Vec<Passage>,
}

impl Maker<'_> {
    /// The inner error is the reason why a question makes no row.
    fn row(&self, question: &Question, copy: usize) -> Result<std::result::Result<Row, &'static str>> {
        let mut random = SplitMix64::new(self.settings.seed, &format!("{} {copy}", question.id));
        let mut gold = Vec::new();
        for span in &question.gold {
            gold.extend(self.library.covering(span).map_err(asking("reading the index"))?);
        }
        let absent = question.stratum == Stratum::NotInCorpus;
        if gold.is_empty() && !absent {
            return Ok(Err("its gold passage is not in the index"));
        }
        let kind = if absent {
            Kind::Unanswerable
        } else {
            self.kind(&mut random)
        };
        let mut passages = self.distractors(question, kind, &mut random)?;
        if kind == Kind::WithGold {
            passages.extend(most_of_the_answer(question, gold));
        }
        if passages.is_empty() {
            return Ok(Err("there is no passage to put into its prompt"));
        }
        random.shuffle(&mut passages);
        let prompt = self
            .prompts
            .prompt(
                self.answerer,
                &question.question,
                Some(&passages),
                self.settings.max_new_tokens,
            )
            .map_err(asking(format!("building the prompt of question {}", question.id)))?;
        let is_gold = |passage: &Passage| question.gold.iter().any(|gold| gold.covered_by(passage));
        let number = prompt.passages.iter().position(is_gold).map(|place| place + 1);
        if kind == Kind::WithGold && number.is_none() {
            return Ok(Err("its gold passage is over the prompt's budget"));
        }
        let content = match (kind, question.answers.first(), number) {
            (Kind::Unanswerable, ..) => self.settings.abstention.clone(),
            (_, None, _) => return Ok(Err("it has no answer")),
            (Kind::WithGold, Some(answer), Some(number)) if self.settings.cite => format!("{answer} [{number}]"),
            (_, Some(answer), _) => answer.clone(),
        };
        let mut messages = prompt.messages;
        messages.push(Message {
            role: Role::Assistant,
            content,
        });
        Ok(Ok(Row { messages, kind }))
    }

    fn kind(&self, random: &mut SplitMix64) -> Kind {
        let drawn = random.uniform();
        match drawn {
            drawn if drawn < self.settings.gold_share => Kind::WithGold,
            drawn if drawn < self.settings.gold_share + self.settings.unanswerable_share => Kind::Unanswerable,
            _ => Kind::FromMemory,
        }
    }

    /// Best ranked passages without the answer, and some from anywhere. One more stands in for a gold one that is missing:
    /// the number of passages must not tell whether the answer is among them.
    fn distractors(&self, question: &Question, kind: Kind, random: &mut SplitMix64) -> Result<Vec<Passage>> {
        let [least, most] = self.settings.distractors;
        let wanted = least + random.below(most - least + 1) + usize::from(kind != Kind::WithGold);
        let gold = |passage: &Passage| question.gold.iter().any(|gold| gold.covered_by(passage));
        let retriever = self.library.retrievers().into_iter().next().unwrap_or_default();
        let ranking = self
            .library
            .rank(&retriever, &question.question, 2 * most + 1 + question.gold.len())
            .map_err(asking(format!("retrieving for question {}", question.id)))?;
        let mut hard = ranking.into_iter().filter(|passage| !gold(passage));
        let mut found: Vec<Passage> = Vec::new();
        // Tries are bounded: a small index may have no other passage left.
        for _ in 0..20 * wanted {
            if found.len() == wanted {
                break;
            }
            let anywhere = random.uniform() < self.settings.random_share && !self.all.is_empty();
            let next = if anywhere {
                Some(self.all[random.below(self.all.len())].clone())
            } else {
                hard.next()
            };
            if let Some(next) = next
                && !gold(&next)
                && found.iter().all(|known| known.id != next.id)
            {
                found.push(next);
            }
        }
        Ok(found)
    }
}
