//! Whether a question was already told: n-grams it shares with training rows or documents.
use crate::Weights;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
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

/// Questions first, then everything that may hold them, one by one: memory is that of the questions.
pub struct Overlaps {
    /// Hash of a run to the questions that have it.
    runs: HashMap<u64, Vec<usize>>,
    lengths: BTreeSet<usize>,
    found: Vec<Vec<Overlap>>,
}

impl Overlaps {
    pub fn new<'a>(questions: impl IntoIterator<Item = &'a str>) -> Self {
        let mut overlaps = Overlaps {
            runs: HashMap::new(),
            lengths: BTreeSet::new(),
            found: Vec::new(),
        };
        for (index, question) in questions.into_iter().enumerate() {
            overlaps.found.push(Vec::new());
            let words = words(question);
            let length = words.len().min(RUN);
            if length < SHORTEST {
                continue;
            }
            overlaps.lengths.insert(length);
            for run in words.windows(length) {
                overlaps.runs.entry(hash(run)).or_default().push(index);
            }
        }
        overlaps
    }

    pub fn see(&mut self, told: Told, origin: &str, text: &str) {
        let words = words(text);
        for &length in &self.lengths {
            for run in words.windows(length) {
                for &question in self.runs.get(&hash(run)).into_iter().flatten() {
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
        }
    }

    /// In the order of the questions.
    pub fn finish(self) -> Vec<Vec<Overlap>> {
        self.found
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

    #[test]
    fn shared_runs_are_found_whatever_the_marks() {
        let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
        let mut overlaps = Overlaps::new([long, "How long may I return it?", "too short to tell"]);
        overlaps.see(Told::Corpus, "a", "How long may I return it, then? Too short to tell.");
        overlaps.see(
            Told::Training(Weights::Tuned),
            "b:3",
            "zero TWO three four five six seven eight nine ten eleven twelve",
        );
        overlaps.see(
            Told::Training(Weights::Tuned),
            "b:4",
            &format!("zero, {}", long.replacen("one ", "", 1)),
        );
        overlaps.see(Told::Training(Weights::Tuned), "b:5", long);
        let found = overlaps.finish();
        assert_eq!(found[0].len(), 1);
        assert_eq!(found[0][0].origin, "b:4");
        assert_eq!(found[1][0].words, "how long may i return it");
        assert!(found[2].is_empty());
    }
}
