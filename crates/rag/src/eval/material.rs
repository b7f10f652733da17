//! Per question, before any model answers: what each retriever ranks, and the conversation of each context.
use super::arm::{Arm, Context};
use super::error::{EvalError, Result, asking};
use super::settings::Eval;
use super::{Library, Progress, Prompts};
use crate::metrics::retrieval::relevance;
use crate::question::Question;
use crate::results::{Asked, Seen, Shown};
use crate::retrieve::Timings;
use crate::{Answerer, Message, Passage, Prompt, RagError};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Ranks looked at for the metrics of retrievers; more where more than half of it goes into a prompt.
const DEPTH: usize = 10;

#[derive(Debug, Clone, Default)]
pub struct Material {
    pub indexed: Option<bool>,
    pub passages: Vec<Seen>,
    pub retrieval: Option<Timings>,
    pub relevance: BTreeMap<String, Vec<bool>>,
    pub contexts: BTreeMap<Context, Shown>,
    pub conversations: BTreeMap<Context, Conversation>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub tokens: usize,
}

/// The deepest rank any retriever was asked for.
pub fn depth(asked: &[Asked]) -> usize {
    asked
        .iter()
        .flat_map(|asked| asked.relevance.values())
        .map(Vec::len)
        .max()
        .unwrap_or(0)
}

pub fn gather(
    arms: &[Arm],
    settings: &Eval,
    questions: &[Question],
    prompts: &dyn Prompts,
    answerer: &dyn Answerer,
    library: Option<&dyn Library>,
    watch: &mut dyn FnMut(Progress),
) -> Result<Vec<Material>> {
    let wanted = |context: Context| arms.iter().any(|arm| arm.context == context);
    let contexts: Vec<Context> = Context::ALL.into_iter().filter(|&context| wanted(context)).collect();
    let gatherer = Gatherer {
        contexts,
        settings,
        prompts,
        answerer,
        library,
    };
    gatherer.all_fit(questions)?;
    let mut materials = Vec::with_capacity(questions.len());
    for question in questions {
        materials.push(gatherer.material(question)?);
        watch(Progress::Retrieving {
            done: materials.len(),
            of: questions.len(),
        });
    }
    Ok(materials)
}

struct Gatherer<'a> {
    contexts: Vec<Context>,
    settings: &'a Eval,
    prompts: &'a dyn Prompts,
    answerer: &'a dyn Answerer,
    library: Option<&'a dyn Library>,
}

impl Gatherer<'_> {
    /// Refuses questions that no prompt has room for, all at once and before anything is retrieved or answered.
    fn all_fit(&self, questions: &[Question]) -> Result<()> {
        // Those with passages are all as long, while there are none.
        let mut kinds: Vec<Option<&[Passage]>> = self
            .contexts
            .iter()
            .map(|context| (*context != Context::None).then_some(&[][..]))
            .collect();
        kinds.dedup();
        let over = |question: &Question, passages: Option<&[Passage]>| match self
            .prompt(question, passages)
            .err()?
            .downcast()
            .ok()?
        {
            error @ RagError::Budget { tokens, .. } => Some((tokens, error)),
            _ => None,
        };
        let (mut ids, mut longest) = (Vec::new(), None);
        for question in questions {
            let found = kinds.iter().filter_map(|&passages| over(question, passages));
            let Some((tokens, error)) = found.max_by_key(|(tokens, _)| *tokens) else {
                continue;
            };
            ids.push(question.id.clone());
            if longest.as_ref().is_none_or(|(most, _)| tokens > *most) {
                longest = Some((tokens, error));
            }
        }
        match longest {
            None => Ok(()),
            Some((_, longest)) => Err(EvalError::TooLong {
                ids,
                of: questions.len(),
                longest: Box::new(longest),
            }),
        }
    }

    fn prompt(&self, question: &Question, passages: Option<&[Passage]>) -> anyhow::Result<Prompt> {
        let limit = self.settings.max_new_tokens;
        self.prompts.prompt(self.answerer, &question.question, passages, limit)
    }

    fn material(&self, question: &Question) -> Result<Material> {
        let mut material = Material::default();
        let mut found = BTreeMap::new();
        if let Some(library) = self.library {
            found = self.look_up(library, question, &mut material)?;
        }
        for &context in &self.contexts {
            let passages = found.get(&context).map(Vec::as_slice);
            let has_what_it_needs = context == Context::None || passages.is_some();
            if !has_what_it_needs {
                continue;
            }
            let prompt = self
                .prompt(question, passages)
                .map_err(asking(format!("building the prompt of question {}", question.id)))?;
            material.show(context, question, prompt);
        }
        Ok(material)
    }

    /// The passages of each context. An oracle is only there for questions with gold in the index.
    fn look_up(
        &self,
        library: &dyn Library,
        question: &Question,
        material: &mut Material,
    ) -> Result<BTreeMap<Context, Vec<Passage>>> {
        let failed = || asking(format!("retrieving for question {}", question.id));
        let retrieved = library.retrieve(&question.question).map_err(failed())?;
        let top_k = retrieved.passages.len();
        let depth = DEPTH.max(2 * top_k);
        let mut first: Option<Vec<Passage>> = None;
        for retriever in library.retrievers() {
            let ranking = library.rank(&retriever, &question.question, depth).map_err(failed())?;
            if !question.gold.is_empty() {
                material
                    .relevance
                    .insert(retriever, relevance(&ranking, &question.gold));
            }
            first.get_or_insert(ranking);
        }
        let is_gold = |passage: &Passage| question.gold.iter().any(|gold| gold.covered_by(passage));
        let ranking = first.unwrap_or_else(|| retrieved.passages.clone());
        let distractors = ranking
            .into_iter()
            .filter(|passage| !is_gold(passage))
            .take(top_k.max(1))
            .collect();
        let mut oracle = Vec::new();
        for gold in &question.gold {
            oracle.extend(library.covering(gold).map_err(failed())?);
        }
        let mut seen = HashSet::new();
        oracle.retain(|passage| seen.insert(passage.id.clone()));
        material.indexed = (!question.gold.is_empty()).then_some(!oracle.is_empty());
        material.retrieval = Some(retrieved.timings);
        let mut found = BTreeMap::from([
            (Context::Retrieved, retrieved.passages),
            (Context::Distractors, distractors),
        ]);
        if !oracle.is_empty() {
            // A whole document may be gold: no more of it than retrieval would have given.
            oracle.truncate(top_k.max(1));
            found.insert(Context::Oracle, oracle);
        }
        Ok(found)
    }
}

impl Material {
    fn show(&mut self, context: Context, question: &Question, prompt: Prompt) {
        let mut places = |passages: Vec<Passage>| {
            passages
                .into_iter()
                .map(|passage| self.place(question, passage))
                .collect()
        };
        let shown = Shown {
            passages: places(prompt.passages),
            left_out: places(prompt.left_out),
        };
        if context != Context::None {
            self.contexts.insert(context, shown);
        }
        self.conversations.insert(
            context,
            Conversation {
                messages: prompt.messages,
                tokens: prompt.tokens,
            },
        );
    }

    fn place(&mut self, question: &Question, passage: Passage) -> usize {
        let known = self.passages.iter().position(|seen| seen.passage.id == passage.id);
        known.unwrap_or_else(|| {
            let gold = question.gold.iter().any(|gold| gold.covered_by(&passage));
            self.passages.push(Seen { passage, gold });
            self.passages.len() - 1
        })
    }
}
