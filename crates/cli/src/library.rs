//! Index, embedder and reranker of a config, opened together.
use crate::embedder::BertEncoder;
use crate::environment;
use crate::printer::Printer;
use burn::tensor::Device;
use tune_rag::Reranker;
use tune_rag::eval::library::Indexed;
use tune_rag::settings::Rag;
use tune_rag::store::{self, Store};

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

    /// Refuses an index made with another embedder.
    pub fn library(&self) -> tune_rag::Result<Indexed<'_>> {
        let reranker = self.reranker.as_ref().map(|reranker| reranker as &dyn Reranker);
        Indexed::new(&*self.store, &self.embedder, reranker, &self.rag)
    }
}
