//! Index, embedder and reranker of a config, opened together; prompts as its `[rag]` section builds them.
use crate::embedder::BertEncoder;
use crate::environment;
use crate::printer::Printer;
use burn::tensor::Device;
use tune_data::Codec;
use tune_rag::eval::{Library, Prompts};
use tune_rag::index::{identity, staleness};
use tune_rag::question::Gold;
use tune_rag::retrieve::Searcher;
use tune_rag::settings::{Rag, Retriever};
use tune_rag::store::{self, Store};
use tune_rag::{Answerer, Passage, Prompt, PromptBuilder, Retrieved};

pub struct Opened {
    pub store: Box<dyn Store>,
    pub embedder: BertEncoder,
    reranker: Option<BertEncoder>,
    rag: Rag,
}

impl Opened {
    /// `create`: make the index where there is none.
    pub fn open(rag: &Rag, device: &Device, create: bool, printer: &Printer) -> anyhow::Result<Self> {
        rag.validate()?;
        // The index first: it is refused in no time, the models take seconds.
        let store = store::open(rag, environment::store_key(rag.store).as_deref(), create)?;
        let load = |base: &str| BertEncoder::load(base, device, printer);
        Ok(Self {
            store,
            embedder: load(&rag.embedder)?,
            reranker: (!rag.reranker.is_empty()).then(|| load(&rag.reranker)).transpose()?,
            rag: rag.clone(),
        })
    }

    pub fn searcher(&self) -> tune_rag::Result<Searcher<'_>> {
        let searcher = Searcher::new(&*self.store, &self.embedder, &self.rag)?;
        Ok(match &self.reranker {
            Some(reranker) => searcher.with_reranker(reranker),
            None => searcher,
        })
    }
}

/// As the setting `rag.retriever` names them.
const RETRIEVERS: [(Retriever, &str); 3] = [
    (Retriever::Dense, "dense"),
    (Retriever::Bm25, "bm25"),
    (Retriever::Hybrid, "hybrid"),
];

impl Library for Opened {
    fn identity(&self) -> anyhow::Result<String> {
        Ok(identity(&*self.store)?)
    }

    fn stale(&self) -> anyhow::Result<Vec<String>> {
        let found = staleness(&*self.store, &self.embedder, &self.rag)?;
        let settings = found
            .other_settings
            .then(|| "the settings it was made with".to_string());
        let documents = found.added.into_iter().chain(found.changed).chain(found.removed);
        Ok(settings.into_iter().chain(documents).collect())
    }

    fn retrievers(&self) -> Vec<String> {
        let used = |entry: &&(Retriever, &str)| entry.0 == self.rag.retriever;
        let others = RETRIEVERS.iter().filter(|entry| !used(entry));
        RETRIEVERS
            .iter()
            .filter(used)
            .chain(others)
            .map(|(_, name)| name.to_string())
            .collect()
    }

    fn rank(&self, retriever: &str, question: &str, depth: usize) -> anyhow::Result<Vec<Passage>> {
        let known = RETRIEVERS.iter().find(|(_, name)| *name == retriever);
        let retriever = known.map_or(self.rag.retriever, |(retriever, _)| *retriever);
        Ok(self.searcher()?.retrieve_by(retriever, question, depth)?.passages)
    }

    fn retrieve(&self, question: &str) -> anyhow::Result<Retrieved> {
        Ok(self.searcher()?.retrieve(question)?)
    }

    fn covering(&self, gold: &Gold) -> anyhow::Result<Vec<Passage>> {
        let points = self.store.points_of(&gold.document)?.into_iter();
        Ok(points
            .map(|point| point.passage)
            .filter(|passage| gold.covered_by(passage))
            .collect())
    }

    fn each_passage(&self, see: &mut dyn FnMut(&Passage)) -> anyhow::Result<()> {
        for record in self.store.records()? {
            for point in self.store.points_of(&record.path)? {
                see(&point.passage);
            }
        }
        Ok(())
    }
}

/// The prompts of a config, safe against the special tokens of its base.
pub struct Prompting(PromptBuilder);

impl Prompting {
    pub fn new(rag: &Rag, codec: &Codec) -> Self {
        Self(PromptBuilder::new(rag, &codec.special_tokens()))
    }
}

impl Prompts for Prompting {
    fn prompt(
        &self,
        answerer: &dyn Answerer,
        question: &str,
        passages: Option<&[Passage]>,
        max_new_tokens: usize,
    ) -> anyhow::Result<Prompt> {
        Ok(match passages {
            Some(passages) => self.0.with_passages(answerer, question, passages, max_new_tokens)?,
            None => self.0.without_passages(answerer, question, max_new_tokens)?,
        })
    }
}
