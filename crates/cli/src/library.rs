//! Index, embedder and reranker of a config, opened together.
use crate::embedder::BertEncoder;
use crate::environment;
use crate::printer::Printer;
use burn::tensor::Device;
use tune_rag::Reranker;
use tune_rag::eval::library::Indexed;
use tune_rag::filter::filter;
use tune_rag::index::glance;
use tune_rag::settings::Rag;
use tune_rag::store::{self, Filter, Store};

pub struct Opened {
    pub store: Box<dyn Store>,
    pub embedder: BertEncoder,
    reranker: Option<BertEncoder>,
    /// What `rag.only` names in this index.
    only: Filter,
    rag: Rag,
}

impl Opened {
    /// `create`: make the index where there is none.
    pub fn open(rag: &Rag, device: &Device, create: bool, printer: &Printer) -> anyhow::Result<Self> {
        rag.validate()?;
        // The index first: it is refused in no time, the models take seconds.
        let store = store::open(rag, environment::store_key(rag.store).as_deref(), create)?;
        let only = match create {
            true => Filter::default(),
            false => filter(&*store, &rag.only)?,
        };
        if only.is_void() {
            let conditions = rag.only.join(", ");
            printer.warning(&format!(
                "rag.only = {conditions} matches nothing in the index: nothing will be found"
            ));
        }
        let load = |base: &str| BertEncoder::load(base, device, printer);
        Ok(Self {
            store,
            embedder: load(&rag.embedder)?,
            reranker: (!rag.reranker.is_empty()).then(|| load(&rag.reranker)).transpose()?,
            only,
            rag: rag.clone(),
        })
    }

    /// For whoever answers from the index without comparing it with its documents by content: tells where they differ at
    /// a glance.
    pub fn to_answer(rag: &Rag, device: &Device, printer: &Printer) -> anyhow::Result<Self> {
        let opened = Self::open(rag, device, false, printer)?;
        // One of another embedder is refused before it is called old.
        opened.library()?;
        match glance(&*opened.store, &opened.embedder, rag) {
            Ok(found) if !found.is_stale() => {}
            Ok(found) => {
                let what = match found.other_settings {
                    true => "not of these documents",
                    false => "older than its documents",
                };
                printer.warning(&format!("the index is {what} ({}): run `tune index`", found.counts()));
            }
            Err(error) => printer.warning(&format!("the index cannot be compared with its documents: {error}")),
        }
        Ok(opened)
    }

    /// Refuses an index made with another embedder.
    pub fn library(&self) -> tune_rag::Result<Indexed<'_>> {
        let reranker = self.reranker.as_ref().map(|reranker| reranker as &dyn Reranker);
        Indexed::new(&*self.store, &self.embedder, reranker, &self.rag, self.only.clone())
    }
}
