//! Evaluations of an echo that answers from passages or from memory as told, so that the right verdict is known.
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use tune_rag::eval::arm::{Arm, Context};
use tune_rag::eval::cost::Facts;
use tune_rag::eval::error::EvalError;
use tune_rag::eval::integrity::{Overlap, Repeats, Told};
use tune_rag::eval::settings::{Eval, Judge, Rates};
use tune_rag::eval::{Inputs, Library, Progress, Prompts, TrainingText, evaluate};
use tune_rag::index::{Reindex, Staleness};
use tune_rag::judge::Ask;
use tune_rag::metrics::Metric;
use tune_rag::question::{Gold, Question, Stratum};
use tune_rag::results::{Results, Stage};
use tune_rag::retrieve::Timings;
use tune_rag::verdict::Outcome;
use tune_rag::{Answer, Answerer, Embedder, Message, Passage, Prompt, Retrieved, Role, TextKind, Weights};

/// How many of ten facts each of the weights has by heart, and how many of ten it reads off a passage.
#[derive(Clone, Copy)]
struct Skill {
    knows: usize,
    reads: usize,
}

struct Echo {
    skills: BTreeMap<Weights, Skill>,
    /// Fails after so many answers, as a process that is killed.
    left: usize,
    asked: usize,
    /// Say so when no passage tells.
    cautious: bool,
}

const NO: &str = "That is not in the documents.";

impl Echo {
    fn new(skills: &[(Weights, usize, usize)]) -> Self {
        let skills = skills
            .iter()
            .map(|&(weights, knows, reads)| (weights, Skill { knows, reads }))
            .collect();
        Echo {
            skills,
            left: usize::MAX,
            asked: 0,
            cautious: false,
        }
    }

    fn reply(&self, weights: Weights, prompt: &str) -> String {
        let skill = self.skills[&weights];
        let item: usize = prompt
            .rsplit("item ")
            .next()
            .unwrap()
            .trim_end_matches('?')
            .parse()
            .unwrap_or(0);
        // The spread of luck over items, the same for all arms.
        let luck = (item * 7) % 10;
        let fact = format!("item {item} is K{item}.");
        let place = prompt.find(&fact).map(|at| &prompt[..at]);
        match place.and_then(|before| before.rsplit('[').next()?.split(']').next()) {
            Some(number) if luck < skill.reads => format!("It is K{item} [{number}]."),
            None if luck < skill.knows => format!("It is K{item}."),
            None if prompt.contains("[1]") && self.cautious => NO.into(),
            _ => "It is K0.".into(),
        }
    }
}

impl Answerer for Echo {
    fn identity(&self, weights: Weights) -> Option<String> {
        let skill = self.skills.get(&weights)?;
        Some(format!("{weights:?} {} {}", skill.knows, skill.reads))
    }

    fn count_tokens(&self, messages: &[Message]) -> anyhow::Result<usize> {
        Ok(messages
            .iter()
            .map(|message| message.content.split_whitespace().count())
            .sum())
    }

    fn context(&self) -> usize {
        1000
    }

    fn answer(
        &mut self,
        weights: Weights,
        conversations: &[Vec<Message>],
        max_new_tokens: usize,
        on_answer: &mut dyn FnMut(usize, &Answer),
    ) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for (i, messages) in conversations.iter().enumerate() {
            anyhow::ensure!(self.left > 0, "killed");
            self.left -= 1;
            self.asked += 1;
            let text = self.reply(weights, &messages[0].content);
            let words: Vec<&str> = text.split(' ').take(max_new_tokens).collect();
            let prompt_tokens = self.count_tokens(messages)?;
            let answer = Answer {
                text: words.join(" "),
                prompt_tokens,
                answer_tokens: words.len(),
                first_token_seconds: 0.001 * prompt_tokens as f64 + 0.1,
                seconds: 0.001 * prompt_tokens as f64 + 0.1 + 0.03 * words.len() as f64,
            };
            on_answer(i, &answer);
            answers.push(answer);
        }
        Ok(answers)
    }

    fn likelihood(
        &mut self,
        weights: Weights,
        conversations: &[(Vec<Message>, String)],
    ) -> anyhow::Result<Vec<(f64, usize)>> {
        let nll = |(messages, reference): &(Vec<Message>, String)| {
            let right = self.reply(weights, &messages[0].content).contains(reference.as_str());
            (if right { 0.3 } else { 4.7 }, 2)
        };
        Ok(conversations.iter().map(nll).collect())
    }
}

/// Letters counted, at length 1.
struct Letters;

impl Embedder for Letters {
    fn identity(&self) -> String {
        "letters".into()
    }

    fn dimensions(&self) -> usize {
        26
    }

    fn max_tokens(&self) -> usize {
        100
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: &[&str], _kind: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
        let one = |text: &&str| {
            let mut counts = [0.01f32; 26];
            let letters = text.bytes().filter(u8::is_ascii_alphabetic);
            letters.for_each(|letter| counts[usize::from(letter.to_ascii_lowercase() - b'a')] += 1.0);
            let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
            counts.iter().map(|count| count / length).collect()
        };
        Ok(texts.iter().map(one).collect())
    }
}

/// One passage an item, five a document. Finds an item's passage in second place, if `finds` says so.
struct Shelf {
    items: usize,
    finds: fn(usize) -> bool,
    stale: Vec<String>,
}

const PER_DOCUMENT: usize = 5;

fn passage(item: usize) -> Passage {
    let start = 100 * (item % PER_DOCUMENT);
    Passage {
        id: format!("p{item}"),
        document: format!("doc-{}.md", item / PER_DOCUMENT),
        start,
        end: start + 100,
        title: "Codes".into(),
        heading: format!("Codes > Shelf {}", item / PER_DOCUMENT),
        page: None,
        text: format!("The code of item {item} is K{item}."),
        score: 1.0 / (1.0 + item as f64),
    }
}

impl Library for Shelf {
    fn identity(&self) -> anyhow::Result<String> {
        Ok("shelf".into())
    }

    fn stale(&self) -> anyhow::Result<Staleness> {
        Ok(Staleness {
            changed: self.stale.clone(),
            ..Staleness::default()
        })
    }

    fn retrievers(&self) -> Vec<String> {
        vec!["hybrid".into(), "bm25".into()]
    }

    fn rank(&self, retriever: &str, question: &str, depth: usize) -> anyhow::Result<Vec<Passage>> {
        let item: usize = question
            .rsplit("item ")
            .next()
            .unwrap()
            .trim_end_matches('?')
            .parse()
            .unwrap();
        let others = (1..self.items).map(|step| passage((item + step * 3 + PER_DOCUMENT) % self.items));
        let mut ranking: Vec<Passage> = others.filter(|other| other.id != format!("p{item}")).collect();
        let known = item < self.items;
        if known && (self.finds)(item) {
            ranking.insert(if retriever == "bm25" { 3 } else { 1 }, passage(item));
        }
        ranking.truncate(depth);
        Ok(ranking)
    }

    fn retrieve(&self, question: &str) -> anyhow::Result<Retrieved> {
        let timings = Timings {
            embed: 0.004,
            search: 0.002,
            rerank: 0.0,
        };
        Ok(Retrieved {
            passages: self.rank("hybrid", question, 3)?,
            scores: Vec::new(),
            timings,
        })
    }

    fn covering(&self, gold: &Gold) -> anyhow::Result<Vec<Passage>> {
        Ok((0..self.items)
            .map(passage)
            .filter(|passage| gold.covered_by(passage))
            .collect())
    }

    fn each_passage(&self, see: &mut dyn FnMut(&Passage)) -> anyhow::Result<()> {
        (0..self.items).map(passage).for_each(|passage| see(&passage));
        Ok(())
    }
}

/// Two passages at most.
struct Plain;

impl Prompts for Plain {
    fn prompt(
        &self,
        answerer: &dyn Answerer,
        question: &str,
        passages: Option<&[Passage]>,
        _max_new_tokens: usize,
    ) -> anyhow::Result<Prompt> {
        let (shown, left_out) = passages
            .unwrap_or_default()
            .split_at(passages.map_or(0, |all| all.len().min(2)));
        let mut content = String::new();
        for (i, passage) in shown.iter().enumerate() {
            content.push_str(&format!("[{}] {}\n", i + 1, passage.text));
        }
        content.push_str(question);
        let messages = vec![Message {
            role: Role::User,
            content,
        }];
        let tokens = answerer.count_tokens(&messages)?;
        Ok(Prompt {
            messages,
            passages: shown.to_vec(),
            left_out: left_out.to_vec(),
            tokens,
        })
    }
}

fn questions(items: usize) -> Vec<Question> {
    let ask = |item: usize, stratum| Question {
        id: format!("q{item}"),
        question: format!("What is the code of item {item}?"),
        answers: if stratum == Stratum::NotInCorpus {
            vec![]
        } else {
            vec![format!("K{item}")]
        },
        gold: if stratum == Stratum::NotInCorpus {
            vec![]
        } else {
            let passage = passage(item);
            vec![Gold {
                document: passage.document,
                start: Some(passage.start + 10),
                end: Some(passage.end - 10),
            }]
        },
        stratum,
        regex: None,
        json_schema: None,
        tolerance: None,
        group: None,
    };
    let strata = [Stratum::UnseenInCorpus, Stratum::Paraphrase];
    let mut all: Vec<Question> = (0..items).map(|item| ask(item, strata[item % 2])).collect();
    all.extend((0..items / 10).map(|item| ask(10_000 + item, Stratum::NotInCorpus)));
    all
}

fn settings(folder: &Path) -> Eval {
    Eval {
        questions: "questions.jsonl".into(),
        output: folder.join("eval"),
        resamples: 2000,
        batch_size: 4,
        rates: Rates {
            prompt: 0.5,
            answer: 1.5,
            machine_hour: 2.0,
            ..Rates::default()
        },
        ..Eval::default()
    }
}

fn facts() -> Facts {
    Facts {
        title: "Codes".into(),
        machine: "echo".into(),
        base: "echo-1".into(),
        documents: Some(24),
        chunks: Some(120),
        index_seconds: Some(12.0),
        index_bytes: Some(1 << 20),
        reindex: Some(Reindex {
            documents: 1,
            chunks: 5,
            seconds: 0.3,
        }),
        training_rows: BTreeMap::from([(Weights::Tuned, 340)]),
        training_seconds: BTreeMap::from([(Weights::Tuned, 600.0), (Weights::Hybrid, 900.0)]),
        adapter_bytes: BTreeMap::new(),
        retriever: "hybrid".into(),
        ..Facts::default()
    }
}

struct World {
    echo: Echo,
    shelf: Shelf,
    items: usize,
}

/// As the program builds prompts, where so many tokens are room enough.
struct Short(usize);

impl Prompts for Short {
    fn prompt(
        &self,
        answerer: &dyn Answerer,
        question: &str,
        passages: Option<&[Passage]>,
        max_new_tokens: usize,
    ) -> anyhow::Result<Prompt> {
        let settings = tune_rag::settings::Rag {
            prompt_tokens: self.0,
            ..Default::default()
        };
        tune_rag::PromptBuilder::new(&settings, &[]).prompt(answerer, question, passages, max_new_tokens)
    }
}

#[test]
fn questions_that_are_too_long_are_all_named_before_the_first_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut questions = questions(60);
    for (place, words) in [(3, 40), (50, 90), (64, 40)] {
        questions[place].question = format!("{} item {place}?", "really ".repeat(words));
    }
    let mut world = World::new(60, &[(Base, 1, 9)]);
    let inputs = Inputs {
        settings: &settings,
        questions: &questions,
        prompts: &Short(60),
        answerer: &mut world.echo,
        library: Some(&world.shelf),
        embedder: None,
        training: &[],
        judge: None,
        facts: facts(),
    };
    let mut retrieved = false;
    let error = evaluate(inputs, &mut |told| {
        retrieved |= matches!(told, Progress::Retrieving { .. })
    })
    .unwrap_err();
    let ids = [3, 50, 64].map(|place: usize| questions[place].id.as_str()).join(", ");
    let told = error.to_string();
    assert!(
        told.starts_with(&format!(
            "questions too long to be asked: 3 of 66 ({ids}). Of the longest, "
        )),
        "{told}"
    );
    assert!(told.ends_with("tokens; the prompt may have 60"), "{told}");
    assert!(error.hint().unwrap().contains("rag.prompt_tokens"));
    assert!(world.echo.asked == 0 && !retrieved);
}

impl World {
    fn new(items: usize, skills: &[(Weights, usize, usize)]) -> Self {
        World {
            echo: Echo::new(skills),
            shelf: Shelf {
                items,
                finds: |_| true,
                stale: vec![],
            },
            items,
        }
    }

    fn run(&mut self, settings: &Eval) -> Result<Results, EvalError> {
        let questions = questions(self.items);
        let training = [TrainingText {
            weights: Weights::Tuned,
            origin: "train.jsonl:3".into(),
            text: questions[3].question.clone(),
            taught: String::new(),
        }];
        let inputs = Inputs {
            settings,
            questions: &questions,
            prompts: &Plain,
            answerer: &mut self.echo,
            library: Some(&self.shelf),
            embedder: Some(&Letters),
            training: &training,
            judge: None,
            facts: facts(),
        };
        evaluate(inputs, &mut |_| {})
    }
}

fn results(items: usize, skills: &[(Weights, usize, usize)], change: impl Fn(&mut Eval)) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    change(&mut settings);
    World::new(items, skills).run(&settings).unwrap()
}

use Weights::{Base, Hybrid, Tuned};

#[test]
fn rag_wins() {
    let results = results(120, &[(Base, 1, 9), (Tuned, 2, 5), (Hybrid, 1, 9)], |_| {});
    let verdict = &results.verdict;
    assert_eq!(
        (verdict.outcome, verdict.ship, verdict.exit_code()),
        (Outcome::ShownBetter, Arm::RAG, 0),
        "{verdict:?}"
    );
    assert!(
        verdict.line.starts_with("Ship rag: right answers +7"),
        "{}",
        verdict.line
    );
}

#[test]
fn tuned_wins() {
    let results = results(120, &[(Base, 1, 1), (Tuned, 8, 8), (Hybrid, 1, 2)], |settings| {
        settings.arms = vec!["base".into(), "rag".into(), "tuned".into()];
    });
    let verdict = &results.verdict;
    assert_eq!(
        (verdict.outcome, verdict.ship),
        (Outcome::ShownBetter, Arm::TUNED),
        "{verdict:?}"
    );
}

#[test]
fn hybrid_harms() {
    let skills = [(Base, 1, 9), (Tuned, 2, 5), (Hybrid, 1, 4)];
    let chosen = results(120, &skills, |settings| settings.candidate = "hybrid".into()).verdict;
    assert_eq!(
        (chosen.outcome, chosen.ship, chosen.exit_code()),
        (Outcome::Worse, Arm::RAG, 4),
        "{chosen:?}"
    );
    assert!(chosen.line.contains("hybrid harms"), "{}", chosen.line);
    let found = results(120, &skills, |_| {}).verdict;
    assert_eq!((found.outcome, found.ship), (Outcome::ShownBetter, Arm::RAG));
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.starts_with("hybrid is shown worse than rag")),
        "{found:?}"
    );
    let alone = results(120, &[(Base, 9, 9), (Hybrid, 1, 2)], |settings| {
        settings.arms = vec!["base".into(), "hybrid".into()];
    });
    assert_eq!(
        (alone.verdict.outcome, alone.verdict.ship),
        (Outcome::Worse, Arm::BASE),
        "{:?}",
        alone.verdict
    );
}

#[test]
fn too_few_questions_show_nothing() {
    let verdict = results(30, &[(Base, 1, 9), (Tuned, 2, 5), (Hybrid, 1, 9)], |_| {}).verdict;
    assert_eq!(
        (verdict.outcome, verdict.ship, verdict.exit_code()),
        (Outcome::NotShown, Arm::BASE, 3)
    );
    assert!(
        verdict.line.contains("too few questions: ask at least 50"),
        "{}",
        verdict.line
    );
}

#[test]
fn of_equal_arms_the_simplest_leads() {
    let verdict = results(30, &[(Base, 1, 9), (Tuned, 1, 1), (Hybrid, 1, 9)], |_| {}).verdict;
    assert!(verdict.line.starts_with("Not shown: rag,"), "{}", verdict.line);
}

#[test]
fn a_small_difference_is_not_shown_and_says_what_would_show_it() {
    let verdict = results(120, &[(Base, 1, 1), (Tuned, 1, 1), (Hybrid, 1, 1)], |_| {}).verdict;
    assert_eq!(verdict.outcome, Outcome::NotShown, "{verdict:?}");
}

#[test]
fn where_nothing_can_be_told_it_says_why() {
    let level = |change: fn(&mut Eval)| results(120, &[(Base, 1, 1), (Tuned, 1, 1)], change).verdict.line;
    let ties = level(|settings| settings.arms = vec!["base".into(), "tuned".into()]);
    assert!(ties.ends_with("Keep base; no question told them apart."), "{ties}");
    let alone = level(|settings| settings.arms = vec!["base".into()]);
    assert!(alone.contains("base has no arm to be compared with"), "{alone}");
    let unscored = level(|settings| settings.metric = Metric::Json);
    assert!(unscored.contains("no question is scored by JSON"), "{unscored}");
}

#[test]
fn an_oracle_without_indexed_gold_is_left_out_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.arms = vec!["base".into(), "base+oracle".into()];
    settings.adapter = "runs/none".into();
    let mut run = |change: fn(&mut Question), arms: &[&str]| {
        settings.arms = arms.iter().map(ToString::to_string).collect();
        let mut questions = questions(60);
        questions.iter_mut().for_each(change);
        let mut told = Vec::new();
        let results = evaluate(
            Inputs {
                settings: &settings,
                questions: &questions,
                prompts: &Plain,
                answerer: &mut Echo::new(&[(Base, 1, 9)]),
                library: Some(&Shelf {
                    items: 60,
                    finds: |_| true,
                    stale: vec![],
                }),
                embedder: None,
                training: &[],
                judge: None,
                facts: Facts::default(),
            },
            &mut |progress| match progress {
                Progress::Warning(text) => told.push(text),
                Progress::Answering { .. } => told.push("answering".into()),
                _ => {}
            },
        );
        told.dedup();
        (results.unwrap(), told)
    };
    let elsewhere = |question: &mut Question| {
        question
            .gold
            .iter_mut()
            .for_each(|gold| gold.document = "moved.md".into());
    };
    let (results, told) = run(elsewhere, &["base", "base+oracle"]);
    assert_eq!(results.arms.len(), 1);
    assert_eq!(
        told,
        [
            "arm base+oracle left out: no question's gold is in the index",
            "of 60 questions with gold, 60 name a document or span that is not in the index: q0, q1, q2, q3, q4, …",
            "answering",
        ]
    );
    let (results, told) = run(|question| question.gold.clear(), &["base", "tuned", "hybrid"]);
    assert_eq!(
        told,
        [
            "arm tuned left out: no adapter at eval.adapter = \"runs/none\": `tune train` makes it",
            "arm hybrid left out: eval.hybrid_adapter names no adapter: `tune train` makes one",
            "no question has gold: retrieval is not measured",
            "answering",
        ]
    );
    assert_eq!(results.left_out.len(), 2);
    // Questions without a reference are not scored against one.
    let unanswered = |question: &mut Question| {
        question.answers.clear();
        question.regex = Some("K".into());
    };
    let (results, _) = run(unanswered, &["base"]);
    assert_eq!((results.arms[0].bleu, results.arms[0].chrf), (None, None));
    tune_rag::report::write(&results, folder.path()).unwrap();
    let text = fs_err::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(
        text.contains("| BLEU | not measured |") && text.contains("Regex"),
        "{text}"
    );
}

/// Gone after so many replies.
struct Mortal(usize);

impl Ask for Mortal {
    fn ask(&mut self, _body: &Value) -> anyhow::Result<String> {
        anyhow::ensure!(self.0 > 0, "gone");
        self.0 -= 1;
        Ok("TIE".into())
    }
}

#[test]
fn a_missing_text_or_judge_is_found_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.arms = vec!["base".into(), "rag".into()];
    settings.judge.url = "http://judge/v1".into();
    settings.judge.model = "m".into();
    let mut echo = Echo::new(&[(Base, 1, 9)]);
    let mut run = |settings: &Eval, replies: usize| {
        let inputs = Inputs {
            settings,
            questions: &questions(60),
            prompts: &Plain,
            answerer: &mut echo,
            library: Some(&Shelf {
                items: 60,
                finds: |_| true,
                stale: vec![],
            }),
            embedder: None,
            training: &[],
            judge: Some(&mut Mortal(replies)),
            facts: Facts::default(),
        };
        let result = evaluate(inputs, &mut |_| {});
        (result, std::mem::take(&mut echo.asked))
    };
    let (result, asked) = run(&settings, 0);
    assert!(matches!(result, Err(EvalError::Judge(_))) && asked == 0);
    let missing = Eval {
        general: folder.path().join("none.txt"),
        ..settings.clone()
    };
    let (result, asked) = run(&missing, 0);
    assert!(matches!(result, Err(EvalError::Read { .. })) && asked == 0);
    assert!(run(&settings, 1000).0.is_ok());
    // All is kept: nobody is asked again.
    let (result, asked) = run(&settings, 0);
    assert!(result.is_ok() && asked == 0);
}

#[test]
fn everything_is_measured_where_it_applies() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.arms = vec!["matrix".into()];
    settings.general = folder.path().join("general.txt");
    fs_err::write(
        &settings.general,
        "word item 1 ".repeat(20).trim_end().to_string() + " item 7?",
    )
    .unwrap();
    let mut world = World::new(60, &[(Base, 2, 9), (Tuned, 6, 5)]);
    world.shelf.finds = |item| !item.is_multiple_of(4);
    let results = world.run(&settings).unwrap();
    assert_eq!(results.arms.len(), 8);
    assert_eq!(results.left_out.len(), 4);
    assert!(results.left_out[0].reason.contains("eval.hybrid_adapter"));

    let rag = results.arm(Arm::RAG).unwrap();
    assert_eq!(rag.answered, 66);
    assert_eq!(rag.gold_in_prompt, Some(45.0 / 60.0));
    assert!(
        rag.failed[&Stage::NotRetrieved] > 8 && rag.failed[&Stage::NotUsed] > 0,
        "{:?}",
        rag.failed
    );
    assert_eq!(rag.failed[&Stage::NotAbstained], 6);
    assert_eq!(rag.harm_against, Some(Arm::BASE));
    assert_eq!(rag.abstention.recall, Some(0.0));
    let oracle = results
        .arm(Arm {
            weights: Base,
            context: Context::Oracle,
        })
        .unwrap();
    assert_eq!((oracle.answered, oracle.gold_in_prompt), (60, Some(1.0)));
    let distractors = results
        .arm(Arm {
            weights: Base,
            context: Context::Distractors,
        })
        .unwrap();
    assert_eq!((distractors.answered, distractors.gold_in_prompt), (66, Some(0.0)));
    assert!(rag.perplexity.unwrap() < results.arm(Arm::BASE).unwrap().perplexity.unwrap());
    assert_eq!(results.forgetting.len(), 2);

    let hybrid = results
        .retrieval
        .iter()
        .find(|summary| summary.retriever == "hybrid")
        .unwrap();
    assert_eq!(hybrid.n, 60);
    assert_eq!((hybrid.by_k[&1].hit, hybrid.by_k[&3].hit), (0.0, 0.75));
    assert!((hybrid.by_k[&10].mrr - 0.375).abs() < 1e-12);

    assert_eq!(
        results
            .questions
            .iter()
            .filter(|asked| !asked.overlaps.is_empty())
            .count(),
        1
    );
    assert_eq!(rag.clean.unwrap().n, 65);
    assert!(rag.cost.price_per_1000.unwrap() > 0.0 && rag.cost.search.is_some());
    assert!(
        results
            .break_even
            .iter()
            .any(|even| even.invest == Arm::TUNED && even.instead_of == Arm::RAG)
    );

    let path = folder.path().join("results.json");
    results.write(&path).unwrap();
    let read = Results::read(&path).unwrap();
    assert_eq!(read.verdict, results.verdict);
    assert_eq!(read.questions.len(), 66);
}

#[test]
fn killed_at_any_moment_and_resumed_it_is_the_same_result() {
    let skills = [(Base, 1, 9), (Tuned, 2, 5), (Hybrid, 1, 9)];
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut whole = World::new(30, &skills);
    let wanted = serde_json::to_value(whole.run(&settings).unwrap()).unwrap();
    let asked = whole.echo.asked;
    for moment in 0..20 {
        fs_err::remove_dir_all(&settings.output).unwrap();
        let mut world = World::new(30, &skills);
        world.echo.left = moment * asked / 20;
        assert!(matches!(world.run(&settings), Err(EvalError::Asking { .. })));
        let cache = settings.output.join("answers.jsonl");
        let bytes = fs_err::read(&cache).unwrap();
        fs_err::write(&cache, &bytes[..bytes.len() - bytes.len().min(17)]).unwrap();
        world.echo.left = usize::MAX;
        assert_eq!(
            serde_json::to_value(world.run(&settings).unwrap()).unwrap(),
            wanted,
            "killed at {moment}"
        );
    }
    let mut again = World::new(30, &skills);
    again.run(&settings).unwrap();
    assert_eq!(again.echo.asked, 0);
}

#[test]
fn saying_so_where_the_documents_do_not_tell_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(60, &[(Base, 0, 9)]);
    world.echo.cautious = true;
    let results = world.run(&settings(folder.path())).unwrap();
    let rag = results.arm(Arm::RAG).unwrap();
    assert_eq!(rag.abstention.recall, Some(1.0));
    assert_eq!(rag.strata[&Stratum::NotInCorpus].mean, 1.0);
    assert_eq!(results.arm(Arm::BASE).unwrap().strata[&Stratum::NotInCorpus].mean, 0.0);
}

#[test]
fn a_stale_index_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let mut world = World::new(60, &[(Base, 1, 9)]);
    world.shelf.stale = vec!["doc-1.md".into()];
    let error = world.run(&settings).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the index is not of these documents: 1 changed (doc-1.md)"
    );
    assert!(error.hint().unwrap().contains("tune index"));
    settings.allow_stale = true;
    assert_eq!(world.run(&settings).unwrap().identity.stale, ["doc-1.md"]);
}

#[test]
fn without_documents_the_arms_that_need_none_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let inputs = Inputs {
        settings: &settings,
        questions: &questions(60),
        prompts: &Plain,
        answerer: &mut Echo::new(&[(Base, 1, 9), (Tuned, 8, 9), (Hybrid, 1, 1)]),
        library: None,
        embedder: None,
        training: &[],
        judge: None,
        facts: Facts::default(),
    };
    let results = evaluate(inputs, &mut |_| {}).unwrap();
    assert_eq!(
        (results.verdict.outcome, results.verdict.ship),
        (Outcome::ShownBetter, Arm::TUNED)
    );
    assert_eq!(
        results.left_out.iter().map(|out| out.arm).collect::<Vec<_>>(),
        [Arm::RAG, Arm::HYBRID]
    );
    assert!(results.retrieval.is_empty());
    tune_rag::report::write(&results, folder.path()).unwrap();
    let html = fs_err::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(html.contains("not measured") && !html.contains("NaN"));
}

#[test]
fn without_any_arm_it_is_an_error_that_names_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Eval {
        arms: vec!["tuned".into(), "hybrid".into()],
        ..settings(folder.path())
    };
    let error = World::new(60, &[(Base, 1, 9)]).run(&settings).unwrap_err().to_string();
    assert!(
        error.contains("eval.adapter") && error.contains("eval.hybrid_adapter"),
        "{error}"
    );
}

/// Prefers an answer with the right code; of two others the first.
struct Fair(usize);

impl Ask for Fair {
    fn ask(&mut self, body: &Value) -> anyhow::Result<String> {
        self.0 += 1;
        let text = body["messages"][1]["content"].as_str().unwrap();
        let between = |tag: &str| {
            text.split(&format!("<{tag}>"))
                .nth(1)
                .unwrap()
                .split("</")
                .next()
                .unwrap()
        };
        let reference = between("reference");
        let right = |tag: &str| between(tag).contains(reference);
        Ok(if right("answer_b") && !right("answer_a") {
            "B"
        } else {
            "A"
        }
        .into())
    }
}

#[test]
fn a_judge_is_asked_in_both_orders_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.judge = Judge {
        url: "http://localhost/v1".into(),
        model: "fair".into(),
        ..Judge::default()
    };
    settings.arms = vec!["base".into(), "rag".into()];
    let mut judge = Fair(0);
    let run = |judge: &mut Fair| {
        let questions = questions(60);
        let shelf = Shelf {
            items: 60,
            finds: |_| true,
            stale: vec![],
        };
        let inputs = Inputs {
            settings: &settings,
            questions: &questions,
            prompts: &Plain,
            answerer: &mut Echo::new(&[(Base, 1, 9)]),
            library: Some(&shelf),
            embedder: None,
            training: &[],
            judge: Some(judge),
            facts: Facts::default(),
        };
        evaluate(inputs, &mut |_| {}).unwrap().judgements
    };
    let found = run(&mut judge);
    // Twice a pair; where both answers are the same, once.
    assert!((66..=132).contains(&judge.0), "{}", judge.0);
    assert_eq!((found[0].first, found[0].second), (Arm::RAG, Arm::BASE));
    assert!(found[0].wins > 40 && found[0].losses == 0, "{found:?}");
    assert_eq!(found[0].agreement, Some(1.0));
    let before = judge.0;
    assert_eq!(run(&mut judge), found);
    assert_eq!(judge.0, before, "kept replies are not asked for again");
}

#[test]
fn raft_rows_are_the_prompts_that_are_asked() {
    use tune_rag::raft::{Kind, Raft, rows};
    let shelf = Shelf {
        items: 200,
        finds: |_| true,
        stale: vec![],
    };
    let mut questions = questions(200);
    let echo = Echo::new(&[(Base, 1, 9)]);
    let settings = Raft {
        distractors: [1, 1],
        gold_share: 0.7,
        unanswerable_share: 0.2,
        ..Raft::default()
    };
    let make = |settings: &Raft| rows(settings, &questions, &shelf, &Plain, &echo, &mut |_| {}).unwrap();
    let found = make(&settings);
    assert_eq!(found.rows, make(&settings).rows);
    assert_eq!((found.rows.len(), found.skipped.len()), (220, 0));
    let share = |kind: Kind| found.counts[&kind] as f64 / 220.0;
    assert!(
        (share(Kind::WithGold) - 0.7 * 200.0 / 220.0).abs() < 0.08,
        "{:?}",
        found.counts
    );
    assert!(
        (share(Kind::FromMemory) - 0.1 * 200.0 / 220.0).abs() < 0.06,
        "{:?}",
        found.counts
    );
    let mut places = [0, 0];
    for (row, question) in found.rows.iter().zip(&questions) {
        let prompt = &row.messages[0].content;
        let passages: Vec<Passage> = prompt
            .lines()
            .filter_map(|line| line.split_once("item "))
            .map(|(_, rest)| rest.split(' ').next().unwrap().parse().map(passage))
            .filter_map(Result::ok)
            .take(prompt.lines().count() - 1)
            .collect();
        let asked = Plain.prompt(&echo, &question.question, Some(&passages), 64).unwrap();
        assert_eq!(asked.messages[..], row.messages[..1]);
        assert_eq!(passages.len(), 2, "their number tells whether the answer is among them");
        let answer = &row.messages[1].content;
        match row.kind {
            Kind::WithGold => {
                let place = usize::from(answer.ends_with("[2]"));
                places[place] += 1;
                assert!(answer.starts_with(&question.answers[0]), "{answer}");
                assert!(passages[place].text.contains(&question.answers[0]));
            }
            Kind::FromMemory => assert_eq!(answer, &question.answers[0]),
            Kind::Unanswerable => assert_eq!(answer, NO),
        }
    }
    assert!(places[0] > 40 && places[1] > 40, "{places:?}");
    let other = make(&Raft {
        seed: 1,
        ..settings.clone()
    });
    assert_ne!(found.rows, other.rows);

    // Where a whole document is gold, the prompt holds the passage of it that answers.
    questions
        .iter_mut()
        .flat_map(|question| &mut question.gold)
        .for_each(|gold| (gold.start, gold.end) = (None, None));
    let whole = rows(&settings, &questions, &shelf, &Plain, &echo, &mut |_| {}).unwrap();
    let with_gold = whole
        .rows
        .iter()
        .zip(&questions)
        .filter(|(row, _)| row.kind == Kind::WithGold);
    for (row, question) in with_gold {
        assert!(
            row.messages[0]
                .content
                .contains(&format!("is {}.", question.answers[0])),
            "{row:?}"
        );
    }
}

#[test]
fn advice_follows_the_numbers() {
    use tune_rag::advise::{Approach, Limits, Names, advise_from};
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(120, &[(Base, 1, 9), (Tuned, 2, 5), (Hybrid, 1, 4)]);
    world.shelf.finds = |item| item % 10 < 7;
    let limits = Limits {
        latency_seconds: 0.1,
        budget_per_1000: 0.01,
    };
    let results = world.run(&settings(folder.path())).unwrap();
    let advice = advise_from(&results, &limits, &Names::default());
    assert_eq!(advice.approach, Approach::Rag);
    assert_eq!(advice.next, ["tune ask <your config> --arm rag \"…\""]);
    let minded = |words: &str| advice.cautions.iter().any(|caution| caution.contains(words));
    assert!(minded("s for 4 answers at once at the 95th percentile"), "{advice:?}");
    assert!(minded("1,000 answers of rag cost"), "{advice:?}");
    assert!(
        advice
            .cautions
            .iter()
            .any(|caution| caution.contains("finds 70 % of the gold")),
        "{advice:?}"
    );
    assert!(
        advice
            .cautions
            .iter()
            .any(|caution| caution.contains("95th percentile")),
        "{advice:?}"
    );
    assert!(
        advice
            .reasons
            .iter()
            .any(|reason| reason.contains("hybrid is shown worse than rag")),
        "{advice:?}"
    );
}

/// The retriever of the prompts is judged, whatever the others find; and base alone by its form.
#[test]
fn advice_looks_at_what_was_used() {
    use tune_rag::advise::{Limits, Names, advise_from};
    let mut results = results(60, &[(Base, 1, 9)], |settings| {
        settings.arms = vec!["base".into(), "rag".into()];
    });
    for summary in &mut results.retrieval {
        let recall = if summary.retriever == "bm25" { 0.5 } else { 0.975 };
        summary.by_k.values_mut().for_each(|scores| scores.recall = recall);
    }
    let base = results
        .arms
        .iter_mut()
        .find(|summary| summary.arm == Arm::BASE)
        .unwrap();
    let mut form = base.scores[&Metric::Right];
    form.mean = 0.12;
    base.scores.insert(Metric::Regex, form);
    let advice = advise_from(&results, &Limits::default(), &Names::default());
    let said = advice.reasons.join("\n");
    assert!(
        said.contains("hybrid finds 98 % of the gold passages among the first 5"),
        "{said}"
    );
    assert!(
        said.contains("the form is missing: Regex adherence 12 for base"),
        "{said}"
    );
    assert!(said.contains("1,000 answers of rag cost"), "{said}");
    assert_eq!(advice.cautions, Vec::<String>::new());
    results.facts.retriever = "bm25".into();
    let advice = advise_from(&results, &Limits::default(), &Names::default());
    assert!(advice.cautions[0].starts_with("bm25 finds 50 %"), "{advice:?}");
}

#[test]
fn advice_names_the_arm_that_is_ahead_and_what_would_show_it() {
    use tune_rag::advise::{Approach, Limits, Names, advise_from};
    let few = results(30, &[(Base, 1, 2), (Tuned, 2, 5), (Hybrid, 1, 9)], |_| {});
    assert_eq!(few.verdict.ship, Arm::BASE);
    let advice = advise_from(&few, &Limits::default(), &Names::default());
    assert_eq!(advice.approach, Approach::Hybrid, "{advice:?}");
    assert_eq!(
        advice.headline,
        "hybrid leads base by 72.7 points, not shown yet: about 50 questions would tell"
    );
    let level = results(120, &[(Base, 1, 1), (Tuned, 1, 1), (Hybrid, 1, 1)], |_| {});
    let advice = advise_from(&level, &Limits::default(), &Names::default());
    assert_eq!(
        (advice.approach, advice.headline.as_str()),
        (Approach::Prompting, "a better prompt")
    );
}

#[test]
fn a_report_tells_what_training_gives_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut results = results(60, &[(Base, 2, 8), (Tuned, 5, 5)], |_| {});
    assert_eq!(results.repeats[&Tuned], Repeats { rows: 0, of: 1 });
    results.repeats.insert(Tuned, Repeats { rows: 12, of: 1340 });
    results.questions[5].overlaps.push(Overlap {
        told: Told::Answer(Tuned),
        origin: "train.jsonl:9".into(),
        words: "a <long> answer".into(),
    });
    tune_rag::report::write(&results, folder.path()).unwrap();
    let page = |name: &str| fs_err::read_to_string(folder.path().join(name)).unwrap();
    for page in ["report.md", "report.html"].map(page) {
        assert!(page.contains("2 of 66 questions share 13 words in a row"));
        assert!(page.contains("a reference answer of which a training row teaches so much (1)"));
        assert!(page.contains("12 of the 1,340 training rows of tuned teach an answer"));
    }
    let chip = "title=\"train.jsonl:9: a &lt;long&gt; answer\">answer in the training rows of tuned<";
    assert!(page("report.html").contains(chip));
}

#[test]
fn a_report_says_what_was_not_measured_and_is_written_again_from_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let results = results(60, &[(Base, 2, 8), (Tuned, 5, 5)], |settings| {
        settings.perplexity = false;
        settings.rates = Rates::default();
    });
    tune_rag::report::write(&results, folder.path()).unwrap();
    let page = |name: &str| fs_err::read_to_string(folder.path().join(name)).unwrap();
    let pages = ["report.md", "report.html"].map(page);
    let cells = |row: &str| {
        let line = pages[0].lines().find(|line| line.starts_with(&format!("| {row} |")));
        line.unwrap_or_default()
            .split(" | ")
            .skip(1)
            .map(|cell| cell.trim_end_matches(" |").to_string())
            .collect()
    };
    let missing = vec!["not measured"; 3];
    for row in [
        "Perplexity of the reference",
        "Perplexity of a general text",
        "Cost: per 1,000 answers",
    ] {
        let found: Vec<String> = cells(row);
        assert_eq!(found, missing, "{row}");
    }
    let found: Vec<String> = cells("Latency: of it embedding, p50 / p95");
    assert_eq!(found, ["none", "none", "4 ms / 4 ms"]);
    let found: Vec<String> = cells("Latency: of it reranking, p50 / p95");
    assert_eq!(found, ["none", "none", "none"]);
    for page in &pages {
        assert!(page.contains("Break-even number of answers: not measured, eval.rates.machine_hour"));
    }
    assert!(pages[0].contains("without overlaps"));
    // Of each kind of question as well.
    assert!(pages[0].contains("## Differences by stratum") && pages[1].contains("Within each kind of question"));

    for name in ["report.md", "report.html"] {
        fs_err::remove_file(folder.path().join(name)).unwrap();
    }
    let read = Results::read(&folder.path().join("results.json")).unwrap();
    tune_rag::report::render(&read, folder.path()).unwrap();
    assert_eq!(["report.md", "report.html"].map(page), pages);
}

#[test]
fn a_report_holds_every_question_and_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.arms = vec!["matrix".into()];
    let mut world = World::new(60, &[(Base, 2, 8), (Tuned, 5, 5)]);
    world.shelf.finds = |item| !item.is_multiple_of(5);
    let mut results = world.run(&settings).unwrap();
    results.facts.title = "<script>alert(1)</script>".into();
    let given = results.questions[0].answers.get_mut(&Arm::RAG).unwrap();
    given.answer.text = "</blockquote><img src=x onerror=alert(1)> | `x` \u{1b}[31m\u{0}\u{7}".into();
    tune_rag::report::write(&results, folder.path()).unwrap();
    let html = fs_err::read_to_string(folder.path().join("report.html")).unwrap();
    let markdown = fs_err::read_to_string(folder.path().join("report.md")).unwrap();
    for question in &results.questions {
        assert!(html.contains(&question.question.question));
    }
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("http"));
    assert!(!html.chars().any(|c| c.is_control() && c != '\n'));
    for text in [&html, &markdown] {
        assert!(text.contains("not retrieved") && text.contains("eval.hybrid_adapter"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
    // Everything that was opened is closed.
    for tag in [
        "details",
        "section",
        "div",
        "span",
        "article",
        "table",
        "svg",
        "blockquote",
        "p",
    ] {
        let (opened, closed) = (
            html.matches(&format!("<{tag}")).count(),
            html.matches(&format!("</{tag}>")).count(),
        );
        let longer = if tag == "p" {
            html.matches("<polyline").count()
        } else {
            0
        };
        assert_eq!(opened - longer, closed, "{tag}");
    }
}

/// Words hashed to places, at length 1.
#[derive(Default)]
struct Words {
    queries: Cell<usize>,
}

impl Embedder for Words {
    fn identity(&self) -> String {
        "words".into()
    }

    fn dimensions(&self) -> usize {
        256
    }

    fn max_tokens(&self) -> usize {
        256
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
        if kind == TextKind::Query {
            self.queries.set(self.queries.get() + texts.len());
        }
        let one = |text: &&str| {
            let mut counts = vec![1e-3f32; 256];
            for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()) {
                counts[usize::from(blake3::hash(word.as_bytes()).as_bytes()[0])] += 1.0;
            }
            let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
            counts.iter().map(|count| count / length).collect()
        };
        Ok(texts.iter().map(one).collect())
    }
}

#[test]
fn a_real_index_is_asked_as_it_answers() {
    use tune_rag::eval::library::Indexed;
    use tune_rag::{PromptBuilder, index, settings::Rag, store};
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("docs");
    fs_err::create_dir_all(&documents).unwrap();
    for item in 0..60 {
        let text = format!("# Shelf {item}\n\nThe code of item {item} is K{item}. It stands on the box.\n");
        fs_err::write(documents.join(format!("doc-{item}.md")), text).unwrap();
    }
    let rag = Rag {
        documents: vec![documents.to_string_lossy().into()],
        path: folder.path().join("index"),
        embedder: "words".into(),
        top_k: 3,
        ..Rag::default()
    };
    rag.validate().unwrap();
    let words = Words::default();
    let mut store = store::open(&rag, None, true).unwrap();
    index::index(store.as_mut(), &words, &rag, &mut |_| {}).unwrap();
    let questions: Vec<Question> = questions(60)
        .into_iter()
        .map(|mut question| {
            let item = question.id.trim_start_matches('q').to_string();
            question.gold.iter_mut().for_each(|gold| {
                *gold = Gold {
                    document: format!("doc-{item}.md"),
                    start: None,
                    end: None,
                };
            });
            question
        })
        .collect();
    let library = Indexed::new(store.as_ref(), &words, None, &rag, store::Filter::default()).unwrap();
    let settings = settings(folder.path());
    let mut echo = Echo::new(&[(Base, 1, 9)]);
    let mut run = || {
        let inputs = Inputs {
            settings: &settings,
            questions: &questions,
            prompts: &PromptBuilder::new(&rag, &[]),
            answerer: &mut echo,
            library: Some(&library),
            embedder: Some(&words),
            training: &[],
            judge: None,
            facts: Facts::default(),
        };
        evaluate(inputs, &mut |_| {})
    };
    let results = run().unwrap();
    assert_eq!(
        words.queries.get(),
        questions.len(),
        "each question is embedded once for all retrievers"
    );
    let names: Vec<&str> = results
        .retrieval
        .iter()
        .map(|summary| summary.retriever.as_str())
        .collect();
    assert_eq!(names, ["bm25", "dense", "hybrid"]);
    assert!(
        results.retrieval.iter().all(|summary| summary.by_k[&3].recall > 0.9),
        "{:?}",
        results.retrieval
    );
    assert_eq!(
        (results.verdict.outcome, results.verdict.ship),
        (Outcome::ShownBetter, Arm::RAG)
    );
    assert!(results.questions.iter().all(|asked| asked.indexed != Some(false)));
    fs_err::write(documents.join("doc-3.md"), "# Shelf 3\n\nEmpty.\n").unwrap();
    let error = run().unwrap_err().to_string();
    assert!(error.contains("doc-3.md"), "{error}");
}
