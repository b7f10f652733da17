//! The index and the prompt builder that questions are answered with, as an evaluation asks them.
use super::{Library, Prompts};
use crate::index::{Staleness, identity, staleness};
use crate::question::Gold;
use crate::retrieve::Searcher;
use crate::settings::{Rag, Retriever, StoreKind};
use crate::store::{Filter, Store};
use crate::{Answerer, Embedder, Passage, Prompt, PromptBuilder, Reranker, Result, Retrieved};

pub struct Indexed<'a> {
    store: &'a dyn Store,
    embedder: &'a dyn Embedder,
    settings: &'a Rag,
    searcher: Searcher<'a>,
    /// Of those whose names end in `+reranker`.
    reranking: Option<Searcher<'a>>,
}

const RERANKER: &str = "+reranker";

impl<'a> Indexed<'a> {
    /// `only`: as in [`Searcher::new`].
    pub fn new(
        store: &'a dyn Store,
        embedder: &'a dyn Embedder,
        reranker: Option<&'a dyn Reranker>,
        settings: &'a Rag,
        only: Filter,
    ) -> Result<Self> {
        let searcher = Searcher::new(store, embedder, settings, only)?;
        Ok(Self {
            store,
            embedder,
            settings,
            reranking: reranker.map(|reranker| searcher.clone().with_reranker(reranker)),
            searcher,
        })
    }
}

impl Library for Indexed<'_> {
    fn identity(&self) -> anyhow::Result<String> {
        Ok(identity(self.store)?)
    }

    fn stale(&self) -> anyhow::Result<Staleness> {
        Ok(staleness(self.store, self.embedder, self.settings)?)
    }

    fn retrievers(&self) -> Vec<String> {
        let used = self.settings.retriever;
        let others: &[Retriever] = match self.settings.store {
            StoreKind::Chroma => &[],
            _ => &[Retriever::Hybrid, Retriever::Dense, Retriever::Bm25],
        };
        let others = others
            .iter()
            .filter(|&&other| other != used)
            .map(|other| other.name().to_string());
        let reranked = self.reranking.as_ref().map(|_| format!("{}{RERANKER}", used.name()));
        reranked
            .into_iter()
            .chain([used.name().to_string()])
            .chain(others)
            .collect()
    }

    fn rank(&self, retriever: &str, question: &str, depth: usize) -> anyhow::Result<Vec<Passage>> {
        let (name, searcher) = match (retriever.strip_suffix(RERANKER), &self.reranking) {
            (Some(name), Some(reranking)) => (name, reranking),
            _ => (retriever, &self.searcher),
        };
        let known = [Retriever::Hybrid, Retriever::Dense, Retriever::Bm25]
            .into_iter()
            .find(|known| known.name() == name);
        let retriever = known.unwrap_or(self.settings.retriever);
        Ok(searcher.retrieve_by(retriever, question, depth)?.passages)
    }

    fn retrieve(&self, question: &str) -> anyhow::Result<Retrieved> {
        Ok(self.reranking.as_ref().unwrap_or(&self.searcher).retrieve(question)?)
    }

    fn covering(&self, gold: &Gold) -> anyhow::Result<Vec<Passage>> {
        let points = self.store.points_of(&gold.document)?;
        Ok(points
            .into_iter()
            .map(|point| point.passage)
            .filter(|passage| gold.covered_by(passage))
            .collect())
    }

    fn each_passage(&self, see: &mut dyn FnMut(&Passage)) -> anyhow::Result<()> {
        for record in self.store.records()?.iter().filter(|record| record.chunks > 0) {
            self.store
                .points_of(&record.path)?
                .iter()
                .for_each(|point| see(&point.passage));
        }
        Ok(())
    }
}

impl Prompts for PromptBuilder {
    fn prompt(
        &self,
        answerer: &dyn Answerer,
        question: &str,
        passages: Option<&[Passage]>,
        max_new_tokens: usize,
    ) -> anyhow::Result<Prompt> {
        Ok(match passages {
            Some(passages) => self.with_passages(answerer, question, passages, max_new_tokens)?,
            None => self.without_passages(answerer, question, max_new_tokens)?,
        })
    }
}
