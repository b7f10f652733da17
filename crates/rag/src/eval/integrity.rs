//! What was already told: word runs that questions and their answers share with training rows or documents, and training
//! rows with documents.
use super::TrainingText;
use crate::question::Question;
use crate::{Passage, Weights};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Words a shared run has (as for GPT-3, Brown et al. 2020, appendix C).
const RUN: usize = 13;
/// A question of fewer words overlaps where it stands whole, but not below this.
const SHORTEST: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// A row that these weights were trained on.
    Training(Weights),
    /// The reference answer, in what a row taught these weights to say.
    Answer(Weights),
    Corpus,
}

/// One a question and kind of source: the first that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    pub told: Told,
    /// File and line of a row, id of a passage.
    pub origin: String,
    /// The shared words.
    pub words: String,
}

/// Of the training rows of some weights, those that teach to say what a document says. Passages in a prompt are read, not
/// taught, and RAFT rows hold them on purpose: they do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats {
    pub rows: usize,
    pub of: usize,
}

/// What [`Overlaps`] saw.
pub struct Found {
    /// In the order of the questions.
    pub overlaps: Vec<Vec<Overlap>>,
    /// Of all weights that have training rows.
    pub repeats: BTreeMap<Weights, Repeats>,
}

/// Questions first, then training rows, then passages, one by one: no text but theirs is kept.
pub struct Overlaps<'a> {
    questions: Runs,
    /// References of [`RUN`] words or more. In a document they are what it is there for.
    answers: Runs,
    found: Vec<Vec<Overlap>>,
    training: &'a [TrainingText],
    /// Runs that training rows teach, and whether a document has them.
    taught: HashMap<u64, bool>,
}

impl<'a> Overlaps<'a> {
    pub fn new(questions: &[Question], training: &'a [TrainingText]) -> Self {
        let mut overlaps = Overlaps {
            questions: Runs::default(),
            answers: Runs::default(),
            found: vec![Vec::new(); questions.len()],
            training,
            taught: HashMap::new(),
        };
        for (index, question) in questions.iter().enumerate() {
            overlaps.questions.add(index, &words(&question.question), SHORTEST);
            for answer in &question.answers {
                overlaps.answers.add(index, &words(answer), RUN);
            }
        }
        for row in training {
            overlaps.see(Told::Training(row.weights), &row.origin, &words(&row.text));
            let taught = words(&row.taught);
            overlaps.see(Told::Answer(row.weights), &row.origin, &taught);
            overlaps
                .taught
                .extend(taught.windows(RUN).map(|run| (hash(run), false)));
        }
        overlaps
    }

    pub fn see_passage(&mut self, passage: &Passage) {
        let words = words(&passage.text);
        self.see(Told::Corpus, &passage.id, &words);
        if self.taught.is_empty() {
            return;
        }
        for run in words.windows(RUN) {
            if let Some(in_a_document) = self.taught.get_mut(&hash(run)) {
                *in_a_document = true;
            }
        }
    }

    fn see(&mut self, told: Told, origin: &str, words: &[String]) {
        let runs = match told {
            Told::Answer(_) => &self.answers,
            _ => &self.questions,
        };
        for (question, run) in runs.shared(words) {
            let found = &mut self.found[question];
            if found.iter().all(|overlap| overlap.told != told) {
                found.push(Overlap {
                    told,
                    origin: origin.to_string(),
                    words: run.join(" "),
                });
            }
        }
    }

    pub fn finish(self) -> Found {
        let mut repeats: BTreeMap<Weights, Repeats> = BTreeMap::new();
        for row in self.training {
            let words = words(&row.taught);
            let repeated = words.windows(RUN).any(|run| self.taught.get(&hash(run)) == Some(&true));
            let count = repeats.entry(row.weights).or_default();
            count.of += 1;
            count.rows += usize::from(repeated);
        }
        Found {
            overlaps: self.found,
            repeats,
        }
    }
}

#[derive(Default)]
struct Runs {
    /// Hash of a run to the questions that have it.
    questions: HashMap<u64, Vec<usize>>,
    lengths: BTreeSet<usize>,
}

impl Runs {
    /// Every run of a text; the whole of one that is shorter than a run, but not than `shortest`.
    fn add(&mut self, question: usize, words: &[String], shortest: usize) {
        let length = words.len().min(RUN);
        if length < shortest {
            return;
        }
        self.lengths.insert(length);
        for run in words.windows(length) {
            self.questions.entry(hash(run)).or_default().push(question);
        }
    }

    fn shared<'w>(&self, words: &'w [String]) -> impl Iterator<Item = (usize, &'w [String])> {
        let runs = self.lengths.iter().flat_map(|&length| words.windows(length));
        runs.flat_map(|run| {
            let questions = self.questions.get(&hash(run)).into_iter().flatten();
            questions.map(move |&question| (question, run))
        })
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect()
}

fn hash(run: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    run.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    const LONG: &str = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";

    fn row(line: usize, text: &str, taught: &str) -> TrainingText {
        TrainingText {
            weights: Weights::Tuned,
            origin: format!("b:{line}"),
            text: format!("{text}\n{taught}"),
            taught: taught.into(),
        }
    }

    fn question(question: &str, answer: &str) -> Question {
        from_value(json!({"id": "q", "question": question, "answers": [answer], "stratum": "seen"})).unwrap()
    }

    fn passage(text: &str) -> Passage {
        Passage {
            id: "a".into(),
            document: "d".into(),
            start: 0,
            end: text.len(),
            title: String::new(),
            heading: String::new(),
            page: None,
            text: text.into(),
            score: 0.0,
        }
    }

    #[test]
    fn shared_runs_are_found_whatever_the_marks() {
        let questions = [
            question(LONG, "x"),
            question("How long may I return it?", "x"),
            question("too short to tell", "x"),
        ];
        let training = [
            row(
                3,
                "zero TWO three four five six seven eight nine ten eleven twelve",
                "x",
            ),
            row(4, &format!("zero, {}", LONG.replacen("one ", "", 1)), "x"),
            row(5, LONG, "x"),
        ];
        let mut overlaps = Overlaps::new(&questions, &training);
        overlaps.see_passage(&passage("How long may I return it, then? Too short to tell."));
        let found = overlaps.finish().overlaps;
        assert_eq!(found[0].len(), 1);
        assert_eq!(found[0][0].origin, "b:4");
        assert_eq!(found[1][0].words, "how long may i return it");
        assert!(found[2].is_empty());
    }

    #[test]
    fn a_long_answer_that_training_teaches_is_a_leak_and_one_in_a_document_is_not() {
        let questions = [
            question("What is it?", LONG),
            question("And that?", "one two three four five"),
        ];
        let training = [row(1, LONG, "short"), row(2, "Say it!", &format!("Well: {LONG}."))];
        let mut overlaps = Overlaps::new(&questions, &training);
        overlaps.see_passage(&passage(LONG));
        let found = overlaps.finish().overlaps;
        assert_eq!(found[0].len(), 1, "{found:?}");
        assert_eq!(
            (found[0][0].told, found[0][0].origin.as_str()),
            (Told::Answer(Weights::Tuned), "b:2")
        );
        assert!(found[1].is_empty());
    }

    #[test]
    fn training_rows_that_teach_what_a_document_says_are_counted() {
        let hybrid = TrainingText {
            weights: Weights::Hybrid,
            // A passage in the prompt is no teaching.
            ..row(1, LONG, "fourteen [1]")
        };
        let training = [
            row(1, "Q", LONG),
            row(2, "Q", &format!("{LONG} {LONG}")),
            row(3, LONG, "x"),
            hybrid,
        ];
        let mut overlaps = Overlaps::new(&[], &training);
        overlaps.see_passage(&passage(&format!("zero {LONG}")));
        let repeats = overlaps.finish().repeats;
        let counts: Vec<_> = repeats
            .into_iter()
            .map(|(weights, found)| (weights, found.rows, found.of))
            .collect();
        assert_eq!(counts, [(Weights::Tuned, 2, 3), (Weights::Hybrid, 0, 1)]);
    }
}
