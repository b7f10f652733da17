//! Arms side by side on the same questions: ask, score, compare. The main path is [`evaluate`].
pub mod arm;
pub mod cache;
pub mod cost;
pub mod error;
pub mod integrity;
pub mod library;
mod material;
mod score;
pub mod settings;
mod summary;

use crate::error::first;
use crate::index::Staleness;
use crate::judge::{self, Ask};
use crate::metrics::{Metric, bleu, chrf, similarity};
use crate::question::{Gold, Question, Stratum};
use crate::results::{Asked, FORMAT, Given, Identity, LeftOut, Results};
use crate::verdict::verdict;
use crate::{Answer, Answerer, Embedder, Message, Passage, Prompt, Retrieved, Weights};
use arm::{Arm, Context};
use cache::{Cache, Entry, Key, Likelihood};
use cost::{Facts, break_even};
use error::{EvalError, Result, asking};
use integrity::{Found, Overlap, Overlaps};
use material::Material;
use settings::Eval;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Told each answer with its place among the conversations, to keep it.
type Keep<'a> = dyn FnMut(&mut Cache, (usize, &Answer)) -> Result<()> + 'a;

/// What an evaluation asks of the documents.
pub trait Library {
    /// Hash of what is indexed and how.
    fn identity(&self) -> anyhow::Result<String>;
    /// How the documents differ from what is indexed.
    fn stale(&self) -> anyhow::Result<Staleness>;
    /// Ways to retrieve, each measured by itself; the first is the one that [`Library::retrieve`] uses.
    fn retrievers(&self) -> Vec<String>;
    /// Best first, of one retriever alone.
    fn rank(&self, retriever: &str, question: &str, depth: usize) -> anyhow::Result<Vec<Passage>>;
    /// Just as a question is answered outside an evaluation.
    fn retrieve(&self, question: &str) -> anyhow::Result<Retrieved>;
    /// All passages that cover some of a gold span.
    fn covering(&self, gold: &Gold) -> anyhow::Result<Vec<Passage>>;
    fn each_passage(&self, see: &mut dyn FnMut(&Passage)) -> anyhow::Result<()>;
}

/// How a question, with passages or without, becomes a conversation within the model's context.
pub trait Prompts {
    fn prompt(
        &self,
        answerer: &dyn Answerer,
        question: &str,
        passages: Option<&[Passage]>,
        max_new_tokens: usize,
    ) -> anyhow::Result<Prompt>;
}

/// A row that weights were trained on, to find questions that it gives away.
pub struct TrainingText {
    pub weights: Weights,
    /// File and line.
    pub origin: String,
    pub text: String,
    /// Of it what the model learned to say.
    pub taught: String,
}

/// Everything an evaluation works with; what is `None` or empty is told as not measured.
pub struct Inputs<'a> {
    pub settings: &'a Eval,
    pub questions: &'a [Question],
    pub prompts: &'a dyn Prompts,
    pub answerer: &'a mut dyn Answerer,
    pub library: Option<&'a dyn Library>,
    pub embedder: Option<&'a dyn Embedder>,
    pub training: &'a [TrainingText],
    pub judge: Option<&'a mut dyn Ask>,
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// What will not be measured, told before the first answer.
    Warning(String),
    Retrieving {
        done: usize,
        of: usize,
    },
    /// `kept`: how many of `done` were answered before.
    Answering {
        arm: Arm,
        done: usize,
        of: usize,
        kept: usize,
    },
    Weighing {
        arm: Arm,
        done: usize,
        of: usize,
    },
    Embedding {
        texts: usize,
    },
    Judging {
        done: usize,
        of: usize,
    },
}

/// Asks every arm every question, keeping each answer in `eval.output` as it comes, and compares.
pub fn evaluate(inputs: Inputs, watch: &mut dyn FnMut(Progress)) -> Result<Results> {
    let Inputs {
        settings,
        questions,
        prompts,
        answerer,
        library,
        embedder,
        training,
        mut judge,
        facts,
    } = inputs;
    settings.validate()?;
    let (arms, left_out) = runnable(settings, questions, answerer, library)?;
    if arms.is_empty() {
        let reason = |out: &LeftOut| format!("{}: {}", out.arm, out.reason);
        return Err(EvalError::NoArm {
            reasons: left_out.iter().map(reason).collect(),
        });
    }
    for LeftOut { arm, reason } in &left_out {
        watch(Progress::Warning(format!("arm {arm} left out: {reason}")));
    }
    let general = general(&settings.general)?;
    let stale = check_fresh(settings, library)?;
    fs_err::create_dir_all(&settings.output).map_err(|source| EvalError::Write {
        path: settings.output.clone(),
        source,
    })?;
    let mut cache = Cache::open(&settings.output.join("answers.jsonl"))?;
    let Found { overlaps, repeats } = overlaps(questions, library, training)?;
    let materials = material::gather(&arms, settings, questions, prompts, answerer, library, watch)?;
    if library.is_some() {
        unmeasured(questions, &materials)
            .into_iter()
            .for_each(|text| watch(Progress::Warning(text)));
    }
    let mut asker = Asker {
        settings,
        answerer,
        cache: &mut cache,
        watch,
    };
    let planned = summary::planned(&arms, settings);
    if let Some(judge) = &mut judge
        && !planned.is_empty()
        && asker.has_to_ask(&arms, &materials)?
    {
        judge::greet(&mut **judge, settings)?;
    }
    let mut asked = start(questions, overlaps, &materials);
    for &arm in &arms {
        let answers = asker.answers(arm, &materials)?;
        let likelihoods = asker.likelihoods(arm, questions, &materials)?;
        for (i, answer) in answers {
            let given = give(&asked[i], arm, answer, likelihoods.get(&i).copied(), settings);
            asked[i].answers.insert(arm, given);
        }
    }
    let forgetting = forgetting(&mut asker, &arms, &general)?;
    let identity = Identity {
        weights: arms
            .iter()
            .filter_map(|arm| Some((arm.weights, asker.answerer.identity(arm.weights)?)))
            .collect(),
        index: library
            .map(Library::identity)
            .transpose()
            .map_err(asking("naming the index"))?,
        stale,
        embedder: embedder.map(Embedder::identity),
        questions: hash(questions),
        prompts: hash(
            &materials
                .iter()
                .map(|material| &material.conversations)
                .collect::<Vec<_>>(),
        ),
    };
    if let Some(embedder) = embedder {
        (asker.watch)(Progress::Embedding {
            texts: asked.iter().map(|asked| asked.answers.len()).sum(),
        });
        embed_scores(&mut asked, embedder)?;
    }
    let judgements = match judge {
        Some(judge) => judge::compare(&asked, &planned, settings, judge, &mut cache, watch)?,
        None => Vec::new(),
    };
    let summaries = summary::arms(&arms, &asked, settings);
    let contrasts = summary::contrasts(&arms, &asked, settings);
    let verdict = verdict(&summaries, &contrasts, settings);
    let shipped = summaries.iter().filter(|summary| Arm::NAMED.contains(&summary.arm));
    let costs: Vec<_> = shipped.map(|summary| (summary.arm, &summary.cost)).collect();
    let references = || {
        questions
            .iter()
            .filter(|question| scored(question))
            .map(|question| question.answers.as_slice())
    };
    Ok(Results {
        format: FORMAT,
        break_even: break_even(&costs, &facts, &settings.rates),
        retrieval: summary::retrieval(&asked, material::depth(&asked)),
        settings: settings.clone(),
        identity,
        facts,
        verdict,
        arms: summaries,
        left_out,
        contrasts,
        forgetting,
        repeats: if library.is_some() { repeats } else { BTreeMap::new() },
        judgements,
        bleu_signature: bleu::signature(references()),
        chrf_signature: chrf::signature(references()),
        questions: asked,
    })
}

/// Questions with a reference to be compared with.
pub(crate) fn scored(question: &Question) -> bool {
    question.stratum != Stratum::NotInCorpus && !question.answers.is_empty()
}

fn hash(parts: &(impl serde::Serialize + ?Sized)) -> String {
    blake3::hash(&serde_json::to_vec(parts).unwrap_or_default())
        .to_hex()
        .to_string()
}

/// The arms that have all they need, and why the others have not.
fn runnable(
    settings: &Eval,
    questions: &[Question],
    answerer: &dyn Answerer,
    library: Option<&dyn Library>,
) -> Result<(Vec<Arm>, Vec<LeftOut>)> {
    let no_adapter = |key: &str, path: &Path| match path.as_os_str().is_empty() {
        true => format!("{key} names no adapter: `tune train` makes one"),
        false => format!("no adapter at {key} = {path:?}: `tune train` makes it"),
    };
    let lack = |arm: Arm| -> Result<Option<String>> {
        if answerer.identity(arm.weights).is_none() {
            return Ok(Some(match arm.weights {
                Weights::Base => "the base model is not at hand".into(),
                Weights::Tuned => no_adapter("eval.adapter", &settings.adapter),
                Weights::Hybrid => no_adapter("eval.hybrid_adapter", &settings.hybrid_adapter),
            }));
        }
        Ok(match (arm.context, library) {
            (Context::None, _) => None,
            (_, None) => Some("no documents: set rag.documents, then `tune index`".into()),
            (Context::Oracle, Some(library)) => no_oracle(questions, library)?,
            _ => None,
        })
    };
    let (mut arms, mut left_out) = (Vec::new(), Vec::new());
    for arm in settings.chosen() {
        match lack(arm)? {
            None => arms.push(arm),
            Some(reason) => left_out.push(LeftOut { arm, reason }),
        }
    }
    Ok((arms, left_out))
}

/// Why no question could be asked with its gold passage.
fn no_oracle(questions: &[Question], library: &dyn Library) -> Result<Option<String>> {
    let mut gold = questions.iter().flat_map(|question| &question.gold).peekable();
    if gold.peek().is_none() {
        return Ok(Some(NO_GOLD.into()));
    }
    for gold in gold {
        if !library.covering(gold).map_err(asking("reading the index"))?.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some("no question's gold is in the index".into()))
}

const NO_GOLD: &str = "no question has gold";

/// What cannot be said of retrieval.
fn unmeasured(questions: &[Question], materials: &[Material]) -> Option<String> {
    let labelled = materials.iter().filter(|material| material.indexed.is_some()).count();
    if labelled == 0 {
        return Some(format!("{NO_GOLD}: retrieval is not measured"));
    }
    let missing = questions
        .iter()
        .zip(materials)
        .filter(|(_, material)| material.indexed == Some(false));
    let missing: Vec<&str> = missing.map(|(question, _)| question.id.as_str()).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "of {labelled} questions with gold, {} name a document or span that is not in the index: {}",
            missing.len(),
            first(&missing)
        )
    })
}

fn check_fresh(settings: &Eval, library: Option<&dyn Library>) -> Result<Vec<String>> {
    let stale = library
        .map(Library::stale)
        .transpose()
        .map_err(asking("comparing the index with the documents"))?;
    let stale = stale.unwrap_or_default();
    if !stale.is_stale() || settings.allow_stale {
        Ok(stale.names())
    } else {
        Err(EvalError::Stale(stale))
    }
}

fn overlaps(questions: &[Question], library: Option<&dyn Library>, training: &[TrainingText]) -> Result<Found> {
    let mut overlaps = Overlaps::new(questions, training);
    if let Some(library) = library {
        let mut see = |passage: &Passage| overlaps.see_passage(passage);
        library.each_passage(&mut see).map_err(asking("reading the index"))?;
    }
    Ok(overlaps.finish())
}

fn start(questions: &[Question], overlaps: Vec<Vec<Overlap>>, materials: &[Material]) -> Vec<Asked> {
    let asked = |((question, overlaps), material): ((&Question, _), &Material)| Asked {
        question: question.clone(),
        overlaps,
        indexed: material.indexed,
        passages: material.passages.clone(),
        retrieval: material.retrieval,
        relevance: material.relevance.clone(),
        contexts: material.contexts.clone(),
        answers: BTreeMap::new(),
    };
    questions.iter().zip(overlaps).zip(materials).map(asked).collect()
}

/// Scores that need no embeddings.
fn give(asked: &Asked, arm: Arm, answer: Answer, likelihood: Option<Likelihood>, settings: &Eval) -> Given {
    let shown = |context: Context| asked.contexts.get(&context);
    let texts = shown(arm.context).into_iter().flat_map(|shown| &shown.passages);
    let all = |context| {
        shown(context)
            .into_iter()
            .flat_map(|shown| shown.passages.iter().chain(&shown.left_out))
    };
    let evidence = score::Evidence {
        context: arm.context,
        passages: texts
            .map(|&i| (asked.passages[i].passage.text.as_str(), asked.passages[i].gold))
            .collect(),
        indexed: asked.indexed,
        retrieved: all(Context::Retrieved).any(|&i| asked.passages[i].gold),
    };
    let scored = score::score(&asked.question, &answer.text, &evidence, &settings.abstentions);
    Given {
        answer,
        abstained: scored.abstained,
        scores: scored.scores,
        likelihood,
        failed: scored.failed,
    }
}

/// Cosine to the closest reference, and groundedness in the passages of the prompt.
fn embed_scores(asked: &mut [Asked], embedder: &dyn Embedder) -> Result<()> {
    let mut texts = Texts::default();
    let places: Vec<Places> = asked.iter().map(|asked| Places::of(asked, &mut texts)).collect();
    let vectors = texts.embed(embedder)?;
    let at = |places: &[usize]| -> Vec<&[f32]> { places.iter().map(|&place| vectors[place].as_slice()).collect() };
    for (asked, places) in asked.iter_mut().zip(&places) {
        let references = at(&places.references);
        for ((arm, given), (whole, sentences)) in asked.answers.iter_mut().zip(&places.answers) {
            let to_reference = |reference: &&[f32]| similarity::cosine(&vectors[*whole], reference);
            if let Some(best) = references.iter().map(to_reference).reduce(f64::max) {
                given.scores.insert(Metric::Cosine, best);
            }
            let shown = asked.contexts.get(&arm.context).into_iter();
            let passages = shown.flat_map(|shown| &shown.passages);
            let context: Vec<&[f32]> = passages.flat_map(|&i| at(&places.passages[i])).collect();
            if let Some(grounded) = similarity::groundedness(&at(sentences), &context) {
                given.scores.insert(Metric::Groundedness, grounded);
            }
        }
    }
    Ok(())
}

/// Where the texts of a question stand among those to embed.
struct Places {
    references: Vec<usize>,
    /// Each answer whole, and its sentences.
    answers: Vec<(usize, Vec<usize>)>,
    /// The sentences of each passage.
    passages: Vec<Vec<usize>>,
}

impl Places {
    fn of<'a>(asked: &'a Asked, texts: &mut Texts<'a>) -> Self {
        let references = asked.question.answers.iter().filter(|_| scored(&asked.question));
        let answers = asked.answers.values().map(|given| given.answer.text.as_str());
        let passages = asked.passages.iter().map(|seen| seen.passage.text.as_str());
        Self {
            references: references.map(|text| texts.add(text)).collect(),
            answers: answers.map(|text| (texts.add(text), texts.sentences(text))).collect(),
            passages: passages.map(|text| texts.sentences(text)).collect(),
        }
    }
}

/// Texts to embed, each once: passages come up again and again.
#[derive(Default)]
struct Texts<'a> {
    texts: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Texts<'a> {
    fn add(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }

    fn sentences(&mut self, text: &'a str) -> Vec<usize> {
        similarity::sentences(text)
            .into_iter()
            .map(|text| self.add(text))
            .collect()
    }

    fn embed(self, embedder: &dyn Embedder) -> Result<Vec<Vec<f32>>> {
        let vectors = similarity::embed(embedder, &self.texts).map_err(asking("embedding answers"))?;
        if vectors.len() == self.texts.len() {
            return Ok(vectors);
        }
        let source = anyhow::anyhow!("{} vectors for {} texts", vectors.len(), self.texts.len());
        Err(EvalError::Asking {
            doing: "embedding answers".into(),
            source,
        })
    }
}

/// Empty where none is named.
fn general(path: &Path) -> Result<String> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    fs_err::read_to_string(path).map_err(|source| EvalError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Perplexity of a general text, under each of the weights: the second half of each paragraph after the first.
/// Paragraphs whose first half fills the context are passed over.
fn forgetting(asker: &mut Asker, arms: &[Arm], text: &str) -> Result<BTreeMap<Weights, f64>> {
    let mut pairs = Vec::new();
    for pair in text.split("\n\n").filter_map(halves).take(64) {
        let tokens = asker
            .answerer
            .count_tokens(&pair.0)
            .map_err(asking("reading eval.general"))?;
        if tokens < asker.answerer.context() {
            pairs.push(pair);
        }
    }
    let mut found = BTreeMap::new();
    for arm in arms {
        if !found.contains_key(&arm.weights)
            && let Some(perplexity) = perplexity(asker.weigh(*arm, &pairs)?.into_iter())
        {
            found.insert(arm.weights, perplexity);
        }
    }
    Ok(found)
}

/// Of paragraphs of at least 40 words.
fn halves(paragraph: &str) -> Option<(Vec<Message>, String)> {
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let (first, second) = words.split_at(words.len() / 2);
    let content = format!("Continue this text:\n\n{}", first.join(" "));
    (words.len() >= 40).then(|| {
        (
            vec![Message {
                role: crate::Role::User,
                content,
            }],
            second.join(" "),
        )
    })
}

pub use summary::MIN_CLUSTERS;

/// `None` without tokens.
pub(crate) fn perplexity(likelihoods: impl Iterator<Item = Likelihood>) -> Option<f64> {
    let (nll, tokens) = likelihoods.fold((0.0, 0), |sum, next| (sum.0 + next.nll, sum.1 + next.tokens));
    (tokens > 0).then(|| (nll / tokens as f64).exp())
}

/// Asks the model what is not in the cache, and keeps it there.
struct Asker<'a> {
    settings: &'a Eval,
    answerer: &'a mut dyn Answerer,
    cache: &'a mut Cache,
    watch: &'a mut dyn FnMut(Progress),
}

impl Asker<'_> {
    /// Whether any answer is not kept yet.
    fn has_to_ask(&self, arms: &[Arm], materials: &[Material]) -> Result<bool> {
        for &arm in arms {
            let identity = self.identity(arm)?;
            let mut asked = materials
                .iter()
                .filter_map(|material| material.conversations.get(&arm.context));
            let key = |messages: &[Message]| Key::of_answer(&identity, messages, self.settings.max_new_tokens);
            if asked.any(|asked| self.cache.answer(&key(&asked.messages)).is_none()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// By question. Batches are made of all conversations, shortest first, so that an answer's company is the same
    /// whether or not a crash lies between.
    fn answers(&mut self, arm: Arm, materials: &[Material]) -> Result<BTreeMap<usize, Answer>> {
        let identity = self.identity(arm)?;
        let limit = self.settings.max_new_tokens;
        let mut order: Vec<usize> = (0..materials.len())
            .filter(|&i| materials[i].conversations.contains_key(&arm.context))
            .collect();
        let conversation = |i: usize| &materials[i].conversations[&arm.context];
        order.sort_by_key(|&i| (conversation(i).tokens, i));
        let key = |i: usize| Key::of_answer(&identity, &conversation(i).messages, limit);
        let kept = order.iter().filter(|&&i| self.cache.answer(&key(i)).is_some()).count();
        let mut done = 0;
        let mut warm = false;
        let of = order.len();
        (self.watch)(Progress::Answering { arm, done, of, kept });
        for batch in order.chunks(self.settings.batch_size) {
            if batch.iter().any(|&i| self.cache.answer(&key(i)).is_none()) {
                let messages: Vec<Vec<Message>> = batch.iter().map(|&i| conversation(i).messages.clone()).collect();
                if !warm {
                    // The first answer of freshly loaded weights pays for more than itself.
                    self.ask(arm, &messages[..1], 1, &mut |_, _| Ok(()))?;
                    warm = true;
                }
                let keys: Vec<Key> = batch.iter().map(|&i| key(i)).collect();
                self.ask(arm, &messages, limit, &mut |cache, (i, answer)| {
                    cache.insert(keys[i].clone(), Entry::Answer(answer.clone()))
                })?;
            }
            done += batch.len();
            (self.watch)(Progress::Answering { arm, done, of, kept });
        }
        let answer = |i: usize| Some((i, self.cache.answer(&key(i))?.clone()));
        Ok(order.into_iter().filter_map(answer).collect())
    }

    /// Every answer is told once, as soon as it is there.
    fn ask(&mut self, arm: Arm, conversations: &[Vec<Message>], limit: usize, keep: &mut Keep<'_>) -> Result<()> {
        let mut kept = Ok(());
        let cache = &mut *self.cache;
        let mut told = |i: usize, answer: &Answer| {
            if kept.is_ok() && i < conversations.len() {
                kept = keep(cache, (i, answer));
            }
        };
        let answers = self
            .answerer
            .answer(arm.weights, conversations, limit, &mut told)
            .map_err(asking(format!("answering ({arm})")))?;
        kept?;
        if answers.len() != conversations.len() {
            let (found, wanted) = (answers.len(), conversations.len());
            return Err(EvalError::Answers {
                arm: arm.name(),
                found,
                wanted,
            });
        }
        answers
            .iter()
            .enumerate()
            .try_for_each(|answer| keep(self.cache, answer))
    }

    /// Of the first reference of each question that has one; empty where this is switched off.
    fn likelihoods(
        &mut self,
        arm: Arm,
        questions: &[Question],
        materials: &[Material],
    ) -> Result<HashMap<usize, Likelihood>> {
        if !self.settings.perplexity {
            return Ok(HashMap::new());
        }
        let pairs = questions
            .iter()
            .zip(materials)
            .enumerate()
            .filter_map(|(i, (question, material))| {
                let conversation = material.conversations.get(&arm.context)?;
                scored(question).then(|| (i, (conversation.messages.clone(), question.answers[0].clone())))
            });
        let (places, pairs): (Vec<usize>, Vec<_>) = pairs.unzip();
        Ok(places.into_iter().zip(self.weigh(arm, &pairs)?).collect())
    }

    fn weigh(&mut self, arm: Arm, pairs: &[(Vec<Message>, String)]) -> Result<Vec<Likelihood>> {
        let identity = self.identity(arm)?;
        let key = |pair: &(Vec<Message>, String)| Key::of_likelihood(&identity, &pair.0, &pair.1);
        let mut all = Vec::with_capacity(pairs.len());
        for batch in pairs.chunks(self.settings.batch_size) {
            if batch.iter().any(|pair| self.cache.likelihood(&key(pair)).is_none()) {
                let found = self
                    .answerer
                    .likelihood(arm.weights, batch)
                    .map_err(asking(format!("weighing references ({arm})")))?;
                if found.len() != batch.len() {
                    let (found, wanted) = (found.len(), batch.len());
                    return Err(EvalError::Answers {
                        arm: arm.name(),
                        found,
                        wanted,
                    });
                }
                for (pair, (nll, tokens)) in batch.iter().zip(found) {
                    self.cache
                        .insert(key(pair), Entry::Likelihood(Likelihood { nll, tokens }))?;
                }
            }
            all.extend(batch.iter().filter_map(|pair| self.cache.likelihood(&key(pair))));
            (self.watch)(Progress::Weighing {
                arm,
                done: all.len(),
                of: pairs.len(),
            });
        }
        Ok(all)
    }

    fn identity(&self, arm: Arm) -> Result<String> {
        let gone = || EvalError::Asking {
            doing: format!("naming the weights of {arm}"),
            source: anyhow::anyhow!("they are no longer at hand"),
        };
        self.answerer.identity(arm.weights).ok_or_else(gone)
    }
}
