//! Question to passages: dense, BM25 or both fused, then reranked and made different from each other.
use crate::error::{RagError, Result};
use crate::settings::{Rag, Retriever};
use crate::store::{Filter, Hit, Store, content};
use crate::{Embedder, Passage, Reranker, TextKind};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

/// What one question brought up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// Best first, ties in the order of their ids; MMR may prefer a different passage to a better one. `score` is that
    /// of the last stage that ran.
    pub passages: Vec<Passage>,
    /// What each stage said of `passages[i]`.
    pub scores: Vec<Scores>,
    pub timings: Timings,
}

/// Scores by stage; `None` where the stage did not run or did not return the passage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Cosine.
    pub dense: Option<f64>,
    pub bm25: Option<f64>,
    /// Sum of `weight / (k + rank)`.
    pub fused: Option<f64>,
    pub rerank: Option<f64>,
}

/// Seconds; 0 for a stage that did not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    pub embed: f64,
    pub search: f64,
    pub rerank: f64,
}

/// Searches one index with one embedder.
#[derive(Clone)]
pub struct Searcher<'a> {
    store: &'a dyn Store,
    embedder: &'a dyn Embedder,
    reranker: Option<&'a dyn Reranker>,
    settings: &'a Rag,
    only: Filter,
    /// The last question with its vector, which clones share: retrievers that are compared embed it once.
    last: Rc<RefCell<(String, Vec<f32>)>>,
}

struct Candidate {
    id: String,
    scores: Scores,
    score: f64,
}

impl<'a> Searcher<'a> {
    /// `only`: what [`crate::filter::filter`] makes of `rag.only`. Refuses an index made with another embedder.
    pub fn new(store: &'a dyn Store, embedder: &'a dyn Embedder, settings: &'a Rag, only: Filter) -> Result<Self> {
        let manifest = store
            .manifest()?
            .ok_or_else(|| RagError::NoIndex { place: store.place() })?;
        let identity = embedder.identity();
        if content(&manifest.embedder) != content(&identity) {
            return Err(RagError::OtherEmbedder {
                found: short(&manifest.embedder),
                wanted: short(&identity),
            });
        }
        Ok(Self {
            store,
            embedder,
            reranker: None,
            settings,
            only,
            last: Rc::default(),
        })
    }

    pub fn with_reranker(mut self, reranker: &'a dyn Reranker) -> Self {
        self.reranker = Some(reranker);
        self
    }

    pub fn retrieve(&self, question: &str) -> Result<Retrieved> {
        self.retrieve_by(self.settings.retriever, question, self.settings.top_k)
    }

    pub fn retrieve_by(&self, retriever: Retriever, question: &str, top_k: usize) -> Result<Retrieved> {
        let mut timings = Timings::default();
        let depth = self.settings.candidates.max(top_k);
        let different = self.settings.mmr_lambda < 1.0;
        let vector = if retriever == Retriever::Bm25 {
            Vec::new()
        } else {
            timed(&mut timings.embed, || self.embed(question))?
        };
        let candidates = timed(&mut timings.search, || {
            self.candidates(retriever, question, &vector, depth)
        })?;
        let kept = if self.reranker.is_some() || different {
            depth
        } else {
            top_k
        };
        let mut found = timed(&mut timings.search, || self.fetch(candidates, kept))?;
        if let Some(reranker) = self.reranker {
            timed(&mut timings.rerank, || rerank(reranker, question, &mut found))?;
        }
        if different {
            found = timed(&mut timings.search, || {
                diversify(found, top_k, self.settings.mmr_lambda)
            });
        }
        found.truncate(top_k);
        let (passages, scores) = found.into_iter().map(|found| (found.passage, found.scores)).unzip();
        Ok(Retrieved {
            passages,
            scores,
            timings,
        })
    }

    fn embed(&self, question: &str) -> Result<Vec<f32>> {
        let mut last = self.last.borrow_mut();
        if last.1.is_empty() || last.0 != question {
            let vectors = self
                .embedder
                .embed(&[question], TextKind::Query)
                .map_err(|source| RagError::Model {
                    doing: "embedding the question",
                    source,
                })?;
            *last = (question.to_string(), vectors.into_iter().next().unwrap_or_default());
        }
        Ok(last.1.clone())
    }

    fn candidates(&self, retriever: Retriever, question: &str, vector: &[f32], depth: usize) -> Result<Vec<Candidate>> {
        let only = &self.only;
        let dense = match retriever {
            Retriever::Bm25 => Vec::new(),
            _ => self.store.dense(vector, depth, only)?,
        };
        let bm25 = match retriever {
            Retriever::Dense => Vec::new(),
            _ => self.store.lexical(question, depth, only)?,
        };
        let mut found: HashMap<&str, Candidate> = HashMap::new();
        add(&mut found, &dense, |scores, score| scores.dense = Some(score));
        add(&mut found, &bm25, |scores, score| scores.bm25 = Some(score));
        if retriever == Retriever::Hybrid {
            self.fuse(&mut found, &dense, self.settings.dense_weight);
            self.fuse(&mut found, &bm25, self.settings.bm25_weight);
        }
        let mut found: Vec<Candidate> = found.into_values().collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// Reciprocal rank fusion: Cormack, Clarke, Büttcher, SIGIR 2009.
    fn fuse(&self, found: &mut HashMap<&str, Candidate>, hits: &[Hit], weight: f64) {
        for (index, hit) in hits.iter().enumerate() {
            let Some(candidate) = found.get_mut(hit.id.as_str()) else {
                continue;
            };
            let share = weight / (self.settings.rrf_k + (index + 1) as f64);
            let sum = candidate.scores.fused.unwrap_or_default() + share;
            candidate.scores.fused = Some(sum);
            candidate.score = sum;
        }
    }

    fn fetch(&self, candidates: Vec<Candidate>, k: usize) -> Result<Vec<Found>> {
        let ids: Vec<&str> = candidates
            .iter()
            .take(k)
            .map(|candidate| candidate.id.as_str())
            .collect();
        let mut points: HashMap<String, _> = HashMap::new();
        for point in self.store.points(&ids)? {
            points.insert(point.passage.id.clone(), point);
        }
        let found = candidates.iter().take(k).filter_map(|candidate| {
            let mut point = points.remove(&candidate.id)?;
            point.passage.score = candidate.score;
            Some(Found {
                passage: point.passage,
                scores: candidate.scores,
                vector: point.vector,
            })
        });
        Ok(found.collect())
    }
}

struct Found {
    passage: Passage,
    scores: Scores,
    vector: Vec<f32>,
}

/// An embedder's name without folders, and the beginning of its hash.
fn short(identity: &str) -> String {
    let name = identity.rsplit_once('@').map_or(identity, |(name, _)| name);
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    match identity.rsplit_once('@') {
        Some((_, hash)) => format!("{name}@{}", hash.get(..8).unwrap_or(hash)),
        None => name.to_string(),
    }
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *seconds += begun.elapsed().as_secs_f64();
    result
}

fn add<'h>(found: &mut HashMap<&'h str, Candidate>, hits: &'h [Hit], note: impl Fn(&mut Scores, f64)) {
    for hit in hits {
        let candidate = found.entry(&hit.id).or_insert_with(|| Candidate {
            id: hit.id.clone(),
            scores: Scores::default(),
            score: hit.score,
        });
        note(&mut candidate.scores, hit.score);
    }
}

fn rerank(reranker: &dyn Reranker, question: &str, found: &mut [Found]) -> Result<()> {
    let passages: Vec<&Passage> = found.iter().map(|found| &found.passage).collect();
    let scores = reranker.score(question, &passages).map_err(|source| RagError::Model {
        doing: "reranking",
        source,
    })?;
    for (found, score) in found.iter_mut().zip(scores) {
        found.scores.rerank = Some(score);
        found.passage.score = score;
    }
    found.sort_by(|a, b| {
        b.passage
            .score
            .total_cmp(&a.passage.score)
            .then_with(|| a.passage.id.cmp(&b.passage.id))
    });
    Ok(())
}

/// Maximal marginal relevance (Carbonell, Goldstein, SIGIR 1998): one by one, what is best by
/// `λ·relevance - (1 - λ)·(highest cosine to what was taken)`. Relevance is the score, spread over 0 to 1.
fn diversify(found: Vec<Found>, k: usize, lambda: f64) -> Vec<Found> {
    let scores = || found.iter().map(|found| found.passage.score);
    let (low, high) = (
        scores().fold(f64::INFINITY, f64::min),
        scores().fold(f64::NEG_INFINITY, f64::max),
    );
    let relevance: Vec<f64> = scores()
        .map(|score| (score - low) / (high - low).max(f64::MIN_POSITIVE))
        .collect();
    let mut rest: Vec<(f64, f64, Found)> = relevance
        .into_iter()
        .zip(found)
        .map(|(r, found)| (r, 0.0, found))
        .collect();
    let mut taken = Vec::new();
    while taken.len() < k && !rest.is_empty() {
        let gain = |(relevance, nearest, _): &(f64, f64, Found)| lambda * relevance - (1.0 - lambda) * nearest;
        // Of equals the first, so that the order stays that of the scores.
        let best = (0..rest.len()).reduce(|best, next| {
            if gain(&rest[next]) > gain(&rest[best]) {
                next
            } else {
                best
            }
        });
        let (_, _, best) = rest.remove(best.unwrap_or_default());
        for (_, nearest, other) in &mut rest {
            *nearest = nearest.max(cosine(&best.vector, &other.vector));
        }
        taken.push(best);
    }
    taken
}

/// Of unit vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::filter;
    use crate::index::index;
    use crate::store::Sqlite;
    use crate::testing::{Words, vector};
    use fs_err as fs;

    fn found(id: &str, text: &str, score: f64) -> Found {
        Found {
            passage: Passage {
                id: id.into(),
                document: "d".into(),
                start: 0,
                end: 0,
                title: String::new(),
                heading: String::new(),
                page: None,
                text: text.into(),
                score,
            },
            scores: Scores::default(),
            vector: vector(text),
        }
    }

    struct Shortest;

    impl Reranker for Shortest {
        fn score(&self, _: &str, passages: &[&Passage]) -> anyhow::Result<Vec<f64>> {
            Ok(passages.iter().map(|passage| -(passage.text.len() as f64)).collect())
        }
    }

    fn searched<T>(change: impl FnOnce(&mut Rag), work: impl FnOnce(&Searcher) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fs::create_dir_all(docs.join("en")).unwrap();
        for (name, text) in [
            ("en/returns.md", "# Returns\n\nSend the laptop back within thirty days."),
            (
                "en/warranty.md",
                "# Warranty\n\nThe warranty of a laptop ends after two years.",
            ),
            ("hours.txt", "Open from nine to five on weekdays."),
        ] {
            fs::write(docs.join(name), text).unwrap();
        }
        let mut settings = Rag {
            documents: vec![docs.display().to_string()],
            top_k: 2,
            ..Rag::default()
        };
        change(&mut settings);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let words = Words::default();
        index(&mut store, &words, &settings, &mut |_| ()).unwrap();
        work(
            &Searcher::new(&store, &words, &settings, filter(&store, &settings.only).unwrap())
                .unwrap()
                .with_reranker_if(&settings),
        )
    }

    impl<'a> Searcher<'a> {
        fn with_reranker_if(self, settings: &Rag) -> Self {
            if settings.reranker.is_empty() {
                self
            } else {
                self.with_reranker(&Shortest)
            }
        }
    }

    fn documents(retrieved: &Retrieved) -> Vec<&str> {
        retrieved
            .passages
            .iter()
            .map(|passage| passage.document.as_str())
            .collect()
    }

    #[test]
    fn every_retriever_finds_the_passage_and_says_its_scores() {
        searched(
            |_| (),
            |searcher| {
                for retriever in [Retriever::Dense, Retriever::Bm25, Retriever::Hybrid] {
                    let found = searcher.retrieve_by(retriever, "laptop warranty", 1).unwrap();
                    assert_eq!(documents(&found), ["en/warranty.md"], "{retriever:?}");
                    let scores = found.scores[0];
                    assert_eq!(scores.dense.is_some(), retriever != Retriever::Bm25);
                    assert_eq!(scores.bm25.is_some(), retriever != Retriever::Dense);
                }
                let fused = searcher.retrieve("laptop warranty").unwrap();
                assert!((fused.scores[0].fused.unwrap() - 2.0 / 61.0).abs() < 1e-12);
                assert_eq!(fused.passages[0].score, fused.scores[0].fused.unwrap());
            },
        );
    }

    #[test]
    fn only_the_documents_asked_for() {
        let only = |settings: &mut Rag| settings.only = vec!["*.txt".into()];
        searched(only, |searcher| {
            for retriever in [Retriever::Dense, Retriever::Bm25, Retriever::Hybrid] {
                let found = searcher.retrieve_by(retriever, "laptop from", 3).unwrap();
                assert_eq!(documents(&found), ["hours.txt"], "{retriever:?}");
            }
        });
    }

    #[test]
    fn a_reranker_has_the_last_word() {
        let with = |settings: &mut Rag| settings.reranker = "shortest".into();
        searched(with, |searcher| {
            let found = searcher.retrieve("laptop warranty").unwrap();
            assert_eq!(documents(&found), ["hours.txt", "en/returns.md"]);
            assert_eq!(found.scores[0].rerank, Some(found.passages[0].score));
        });
    }

    #[test]
    fn any_question_is_survived() {
        searched(
            |_| (),
            |searcher| {
                let endless = "word ".repeat(50_000);
                for question in [
                    "",
                    "\"",
                    "NEAR(a b)",
                    "a AND",
                    "x: y*",
                    "(((",
                    "'; DROP TABLE chunk; --",
                    "\0",
                    &endless,
                ] {
                    searcher.retrieve(question).unwrap();
                }
            },
        );
    }

    #[test]
    fn mmr_prefers_what_is_new() {
        let three = || {
            vec![
                found("a", "laptop warranty years", 1.0),
                found("b", "laptop warranty years", 0.9),
                found("c", "opening hours", 0.5),
                found("d", "nothing", 0.0),
            ]
        };
        let order = |lambda: f64| -> String {
            diversify(three(), 2, lambda)
                .into_iter()
                .map(|found| found.passage.id)
                .collect()
        };
        assert_eq!((order(1.0).as_str(), order(0.5).as_str()), ("ab", "ac"));
    }
}
