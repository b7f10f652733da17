//! What can be typed. The doc comments are the help.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use tune_model::DeviceKind;

/// Said on every `--version`: PyTorch's torchtune installs a `tune` too.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (LoRA trainer in Rust; not torchtune)");

/// Fine-tunes language models with LoRA and exports what PEFT, transformers, llama.cpp and mistral.rs load; answers
/// questions from your documents; and measures which of base, RAG, fine-tuned and both together answers best.
#[derive(Debug, Parser)]
#[command(name = "tune", version = VERSION, max_term_width = 100, propagate_version = true)]
#[command(after_help = "\
A first run:
  tune init --base HuggingFaceTB/SmolLM2-135M-Instruct --data my.jsonl --out my.toml
  tune data check my.toml
  tune train my.toml
  tune chat --adapter runs/my

Answers from documents, and a comparison, with the config of an invented support desk:
  tune index configs/support/config.toml
  tune ask configs/support/config.toml \"How long do refunds take?\"
  tune eval configs/support/config.toml

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 error, 2 faults found or wrong usage, 130 interrupted.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Debug, Args)]
pub struct Talk {
    /// Say nothing but warnings, errors and what was asked for
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Colours; `auto` looks at the terminal and at NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,
}

/// Kinds of device a plan can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Cuda,
    Libtorch,
    Cpu,
}

impl From<Kind> for DeviceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cuda => Self::Cuda,
            Kind::Libtorch => Self::LibTorch,
            Kind::Cpu => Self::Flex,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an adapter as a config says
    Train(Train),
    /// Look at training data, or make it (raft)
    #[command(subcommand)]
    Data(Data),
    /// Read documents into an index to retrieve from; touches only what changed
    Index(Index),
    /// Show the passages that retrieval brings up for a question
    Search(Search),
    /// Answer one question from the documents, with its sources
    Ask(Ask),
    /// Compare base, RAG, fine-tuned and hybrid answers on questions, with a verdict
    Eval(Eval),
    /// Say whether prompting, RAG, fine-tuning or both fit a task, and what to do next
    Advise(Advise),
    /// What was asked so far: numbers, questions to evaluate with, rows to train on
    #[command(subcommand)]
    Log(Log),
    /// Answer prompts with a base model, with or without an adapter
    Generate(Generate),
    /// Talk with a model, answers streamed as they come
    Chat(Chat),
    /// Write an adapter or a merged model for others to load, and prove that it is the same model
    Export(Export),
    /// Measure training steps or decoding: speed, memory against the plan, time by op
    Bench(Bench),
    /// Say what this binary is, what it finds here, and whether training works
    Doctor(Doctor),
    /// Write a commented config for a base model and a data file
    Init(Init),
    /// Turn a config of Axolotl, LLaMA-Factory, TRL, Unsloth or mlx-lm into one of tune, with an account of every key
    Import(Import),
    /// Print a completion script for a shell
    #[command(after_help = "Example: tune completions bash > ~/.local/share/bash-completion/completions/tune")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page a command into a folder
    #[command(after_help = "Example: tune man --dir ~/.local/share/man/man1")]
    Man {
        /// Folder to write `tune.1`, `tune-train.1`, … into
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// Where a setting comes from, the later winning: default, config file, environment, `--set`.
#[derive(Debug, Args)]
pub struct Config {
    /// The config (TOML); paths in it are relative to the folder you start in
    pub config: PathBuf,
    #[command(flatten)]
    pub set: Set,
    /// Print every setting with where it came from, as TOML that can be run, and stop
    #[arg(long)]
    pub show_settings: bool,
}

#[derive(Debug, Args)]
pub struct Set {
    /// Change one setting for this run, e.g. `--set train.learning_rate=1e-4`; may be repeated
    ///
    /// The value is TOML; text needs no quotes, and a list of text may be written a,b. The environment does the
    /// same: TUNE_TRAIN__LEARNING_RATE=1e-4, TUNE_DEVICE=cpu.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune train configs/lora.toml
  tune train configs/lora.toml --set train.learning_rate=1e-4 --set output.dir=runs/slow
  tune train configs/lora.toml --dry-run         what would happen: steps, tokens, memory, time
  tune train configs/lora.toml --dry-run --for cuda --memory 24GiB
  tune train configs/lora.toml --show-settings   every setting and where it came from
  tune train configs/lora.toml --resume runs/support

Ctrl-C saves a checkpoint and stops; a second one stops at once. --resume goes on as if nothing had happened.")]
pub struct Train {
    #[command(flatten)]
    pub config: Config,
    /// Go on from the last checkpoint of this run folder, or from this checkpoint
    #[arg(long, value_name = "RUN", conflicts_with = "show_settings")]
    pub resume: Option<PathBuf>,
    /// Start in a run folder that exists, or resume although data or settings changed
    #[arg(long)]
    pub force: bool,
    /// Plan for this much memory on the device instead of what is free there, e.g. 24GiB (or 24GB, powers of ten)
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// With --dry-run: plan for a kind of device that need not be here
    #[arg(long = "for", value_name = "KIND", requires = "dry_run")]
    pub planned_for: Option<Kind>,
    /// Print the plan and stop; reads the data and the base's headers, no weights
    #[arg(long, conflicts_with = "show_settings")]
    pub dry_run: bool,
    #[command(flatten)]
    pub ops: Ops,
}

fn ops_help() -> String {
    let names = tune_model::ops::switch::NAMES.join(", ");
    format!(
        "`reference` computes without kernels of ours, slowly; `no-NAME` leaves out one, and several are divided by \
         commas, as in no-rms_norm.cuda,no-graph\n\nNames: {names}"
    )
}

#[derive(Debug, Args)]
pub struct Ops {
    /// `reference` computes without kernels of ours, slowly; `no-rms_norm.cuda,no-graph` leaves out some
    #[arg(long = "ops", value_name = "OPS", default_value = "", hide_default_value = true, long_help = ops_help())]
    pub ops: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune index configs/support/config.toml
  tune index configs/support/config.toml --to qdrant://localhost:6333/support

--to moves an index as it is: nothing is embedded again.")]
pub struct Index {
    #[command(flatten)]
    pub config: Config,
    /// Copy the index to another store: qdrant://HOST:PORT/NAME, chroma://HOST:PORT/NAME (qdrants, chromas for TLS), or a folder
    #[arg(long, value_name = "STORE")]
    pub to: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune search configs/support/config.toml \"How long do refunds take?\"
  tune search configs/support/config.toml --only type:pdf --only page:1-3 \"How do I wind it?\"
  tune search configs/support/config.toml --queries datasets/support/questions.jsonl --json > hits.jsonl")]
pub struct Search {
    #[command(flatten)]
    pub config: Config,
    /// What to look for
    #[arg(required_unless_present = "queries", conflicts_with = "queries")]
    pub query: Option<String>,
    /// Many of them: JSONL with `query` or `question`
    #[arg(long, value_name = "FILE.jsonl")]
    pub queries: Option<PathBuf>,
    /// Passages a query, instead of rag.top_k
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Search these alone, instead of rag.only: a glob of paths, title:GLOB, heading:GLOB, page:A-B or type:pdf; may be
    /// repeated
    #[arg(long, value_name = "CONDITION")]
    pub only: Vec<String>,
    /// One JSON object a query
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune ask configs/support/config.toml \"How long do refunds take?\"
  tune ask configs/support/config.toml --arm hybrid --log runs/support/log.jsonl \"How long do refunds take?\"")]
pub struct Ask {
    #[command(flatten)]
    pub config: Config,
    /// The question
    pub question: String,
    /// Who answers: base, rag, tuned or hybrid
    #[arg(long, default_value = "rag")]
    pub arm: String,
    /// Search these alone, instead of rag.only: a glob of paths, title:GLOB, heading:GLOB, page:A-B or type:pdf; may be
    /// repeated
    #[arg(long, value_name = "CONDITION")]
    pub only: Vec<String>,
    /// Add question, passages, answer and timings to this interaction log, instead of log.path
    #[arg(long, value_name = "FILE.jsonl")]
    pub log: Option<PathBuf>,
    /// Log hashes in place of texts, as log.redact does
    #[arg(long)]
    pub redact: bool,
    /// The whole interaction as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune eval configs/support/config.toml
  tune eval configs/support/config.toml --set eval.arms=base,rag --set eval.output=runs/rag
  tune eval --report runs/support-eval               report.md and report.html again, without a model

Exit codes: 0 shown better, 3 not shown, 4 worse, 2 fault. Stopped at any moment, the same command goes on.")]
pub struct Eval {
    /// The config (TOML); paths in it are relative to the folder you start in
    #[arg(required_unless_present = "report")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub set: Set,
    /// Print every setting with where it came from, as TOML that can be run, and stop
    #[arg(long)]
    pub show_settings: bool,
    /// Write report.md and report.html again from the results.json in this folder, instead of evaluating
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "set", "show_settings"])]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune advise configs/support/config.toml            from [advise] and what can be counted
  tune advise configs/support/config.toml --ask      questions in the terminal
  tune advise runs/support-eval                      from what was measured; limits of [advise] or --latency, --budget")]
pub struct Advise {
    /// A config, or the results of an evaluation (folder or results.json)
    pub config_or_report: PathBuf,
    #[command(flatten)]
    pub set: Set,
    /// Ask the questions of the decision tree in the terminal
    #[arg(long)]
    pub ask: bool,
    /// Longest wait for an answer, in seconds; 0 = any
    #[arg(long, value_name = "SECONDS", value_parser = at_least_zero)]
    pub latency: Option<f64>,
    /// Most that 1,000 answers may cost, in the currency of eval.rates; 0 = any
    #[arg(long, value_name = "PRICE", value_parser = at_least_zero)]
    pub budget: Option<f64>,
    /// The advice as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Log {
    /// Questions, feedback, tokens and times by arm
    Stats {
        /// The log
        file: PathBuf,
    },
    /// What is known to be right, as questions for `tune eval` or as rows to train on
    Export {
        /// The log
        file: PathBuf,
        /// Rows to train on instead of questions
        #[arg(long)]
        training: bool,
    },
    /// Say what an answer was worth
    Feedback(Feedback),
}

#[derive(Debug, Args)]
pub struct Feedback {
    /// The log
    pub file: PathBuf,
    /// Id of the interaction
    pub id: String,
    /// Was it right?
    pub verdict: Judged,
    /// What should have been answered
    #[arg(long, value_name = "TEXT")]
    pub correction: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Judged {
    Good,
    Bad,
}

impl Judged {
    pub fn is_good(self) -> bool {
        self == Self::Good
    }
}

#[derive(Debug, Args)]
pub struct RaftArgs {
    #[command(flatten)]
    pub config: Config,
    /// Questions with answers and gold documents (JSONL); never those you evaluate on
    #[arg(long, value_name = "FILE.jsonl")]
    pub questions: PathBuf,
    /// Where the rows go (JSONL, chat messages)
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Data {
    /// Make training rows for a hybrid model: question, gold passage among distractors, answer
    ///
    /// Each question (RAFT, retrieval-augmented fine-tuning) becomes a row with the very prompt that `tune ask` builds:
    /// the passage that holds the answer (gold) among others from the index that do not (distractors), and the answer
    /// with its citation. Some rows lack the gold passage and are answered by saying so. A model trained on them reads
    /// its passages. [raft] in the config sets the shares; `tune index` comes first, `tune train` with
    /// --set data.train=FILE.jsonl after.
    #[command(after_help = "\
Example:
  tune data raft configs/support/config.toml --questions datasets/support/raft.jsonl --out runs/support/raft.jsonl")]
    Raft(RaftArgs),
    /// Read every row and report counts, lengths, duplicates, overlap and bad rows; exits 2 on faults
    #[command(after_help = "\
Examples:
  tune data check configs/lora.toml
  tune data check my.jsonl --base HuggingFaceTB/SmolLM2-135M-Instruct")]
    Check(DataInput),
    /// Print rows as the model sees them, learned tokens coloured, and a packed batch as a picture
    #[command(after_help = "Example: tune data show configs/lora.toml --rows 5")]
    Show {
        #[command(flatten)]
        input: DataInput,
        /// How many rows
        #[arg(long, default_value_t = 3)]
        rows: usize,
    },
    /// Print counts and lengths as JSON
    #[command(after_help = "Example: tune data stats configs/lora.toml | jq .tokens.learned")]
    Stats(DataInput),
}

#[derive(Debug, Args)]
pub struct DataInput {
    /// A config (`.toml`), or one data file (.jsonl, .json, .csv, .parquet, .txt, also .gz)
    #[arg(value_name = "CONFIG_OR_FILE")]
    pub input: PathBuf,
    #[command(flatten)]
    pub set: Set,
    /// Count tokens as this base does: folder, hub id or .gguf file. With a config it replaces model.base; without
    /// either, tokens are not counted
    #[arg(long, value_name = "PATH_OR_ID")]
    pub base: Option<String>,
}

/// Which model answers.
#[derive(Debug, Args)]
pub struct Model {
    /// Base model: folder, hub id or .gguf file; may be left out where the adapter names its base
    #[arg(long, value_name = "PATH_OR_ID", required_unless_present = "adapter")]
    pub base: Option<String>,
    /// Adapter folder (PEFT layout, ours or another's) or a run folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Branch, tag or commit of a hub id
    #[arg(long)]
    pub revision: Option<String>,
    /// Jinja file to use instead of the model's own chat template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Of the base: auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    pub dtype: BaseDtype,
    /// Hold the linear layers of the base in 4 or 8 bits
    #[arg(long, value_name = "FORM", default_value = "none")]
    pub quantize: Quantize,
    /// auto, or one that `tune doctor` lists (cpu, cuda:0)
    #[arg(long, default_value = "auto", env = "TUNE_DEVICE")]
    pub device: String,
}

/// How the next token is chosen.
#[derive(Debug, Args)]
pub struct Sampling {
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token every time
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = at_least_zero)]
    pub temperature: f64,
    /// Choose among the K likeliest tokens; 0 = all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub top_p: f64,
    /// Above 1, tokens already seen become less likely
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero)]
    pub repetition_penalty: f64,
    /// Same seed, same answer
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Put before the conversation as the system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune generate --adapter runs/support --prompt \"Do you ship abroad?\"
  tune generate --base model.gguf --prompt \"Once upon a time\" --raw --temperature 0.8 --top-p 0.95
  tune generate --adapter runs/support --prompts questions.jsonl --json > answers.jsonl

A prompts file is any data file: a line is {\"prompt\": \"…\"}, {\"messages\": […]} or another known format; a last \
answer is left out.")]
pub struct Generate {
    #[command(flatten)]
    pub model: Model,
    /// One prompt
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompts",
        conflicts_with = "prompts"
    )]
    pub prompt: Option<String>,
    /// Many prompts, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: Option<PathBuf>,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Prompts answered together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub batch_size: usize,
    /// Print one JSON object a prompt: prompt and answer tokens, text, why it ended
    #[arg(long)]
    pub json: bool,
    /// With --json: log-probabilities of each answer token and of the K likeliest
    #[arg(long, value_name = "K", default_value_t = 0, requires = "json")]
    pub logprobs: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune chat --adapter runs/support
  printf 'Do you ship abroad?\\n' | tune chat --base model.gguf

In the chat: /reset forgets the conversation, /system TEXT sets the system message, /quit ends. Ctrl-C cuts an \
answer short.")]
pub struct Chat {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub sampling: Sampling,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune export runs/support --adapter out/adapter --merged out/merged --verify
  tune export runs/support --adapter out/adapter --profile portable      for vLLM, SGLang, mistral.rs
  tune export runs/support --gguf out/support.gguf --gguf-type q8_0      for llama.cpp
  tune export runs/support --gguf-lora out/lora.gguf --modelfile         for llama.cpp --lora, and Ollama
  tune export runs/support --mlx out/mlx                                 for mlx-lm
  tune export runs/support/checkpoints/step-000050 --merged out/step-50 --dtype bf16
  tune export an-adapter-of-peft --base org/name --merged out/merged --serve-target vllm
  tune export model.gguf --merged out/base           a base alone, in Hugging Face layout")]
pub struct Export {
    /// Run folder (its best adapter), a checkpoint of it, an adapter folder, ours or PEFT's, or a base alone
    #[arg(value_name = "RUN_OR_ADAPTER")]
    pub from: PathBuf,
    /// Write the adapter here, in PEFT layout with tokenizer and template
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Form of --adapter: as it was trained, or one that every server reads right, with one rank and the scale in the
    /// weights [default: portable where a server of --serve-target would misread the other]
    #[arg(long, value_name = "FORM", requires = "adapter")]
    pub profile: Option<Profile>,
    /// Write the adapter here as the GGUF that llama.cpp and Ollama load beside a base
    #[arg(long, value_name = "FILE")]
    pub gguf_lora: Option<PathBuf>,
    /// Write the adapter here in mlx-lm's layout
    #[arg(long, value_name = "DIR")]
    pub mlx: Option<PathBuf>,
    /// Write base and adapter as one model here, in Hugging Face layout
    #[arg(long, value_name = "DIR")]
    pub merged: Option<PathBuf>,
    /// Write base and adapter as one model here, as the GGUF that llama.cpp and Ollama load
    #[arg(long, value_name = "FILE")]
    pub gguf: Option<PathBuf>,
    /// Write a Modelfile for Ollama beside --gguf, or beside --gguf-lora
    #[arg(long)]
    pub modelfile: bool,
    /// Read what was written, compare it with the model it came from, and fail where they differ
    #[arg(long)]
    pub verify: bool,
    /// Store the merged model in this type instead of the base's
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
    /// Store the matrices of --gguf in this type instead of that of --dtype
    #[arg(long, value_name = "TYPE", requires = "gguf")]
    pub gguf_type: Option<GgufType>,
    /// Which base a merged model of a run with model.quantize is made of: the one it was trained on, written out, or the
    /// one before it was quantized
    #[arg(long, value_name = "BASE", default_value = "dequantized")]
    pub onto: Onto,
    /// Largest safetensors file of the merged model
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = bytes)]
    pub max_shard: u64,
    /// Base to use instead of the one the run or adapter names
    #[arg(long, value_name = "PATH_OR_ID")]
    pub base: Option<String>,
    /// Prompts (JSONL) for --verify instead of the run's validation rows
    #[arg(long, value_name = "FILE.jsonl", requires = "verify")]
    pub prompts: Option<PathBuf>,
    /// Leave the token ids and logits of the check here, for another program to compare
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub logits: Option<PathBuf>,
    /// Who will serve it: peft, vllm, sglang, llama.cpp, ollama, mistral.rs, mlx; what it cannot load is refused
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub serve_target: Vec<String>,
    /// Replace what is in the output folders, and output files
    #[arg(long)]
    pub force: bool,
    /// auto, or one that `tune doctor` lists (cpu, cuda:0)
    #[arg(long, default_value = "auto", env = "TUNE_DEVICE")]
    pub device: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

/// What the matrices of a GGUF are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

/// Forms of an adapter folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    Peft,
    Portable,
}

/// How the base is held and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BaseDtype {
    Auto,
    F32,
    Bf16,
}

/// What a merged model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Onto {
    Dequantized,
    Original,
}

/// What the linears of the base are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    None,
    Nf4,
    Int8,
}

impl From<Quantize> for tune_model::precision::Quantize {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::None => Self::None,
            Quantize::Nf4 => Self::Nf4,
            Quantize::Int8 => Self::Int8,
        }
    }
}

impl From<BaseDtype> for tune_model::precision::Dtype {
    fn from(dtype: BaseDtype) -> Self {
        match dtype {
            BaseDtype::Auto => Self::Auto,
            BaseDtype::F32 => Self::F32,
            BaseDtype::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune bench configs/lora.toml
  tune bench --shape llama-8b --batch 2 --seq 4096 --dtype bf16 --device cuda:0
  tune bench --shape llama-8b --packed 200-2000 --batch 2 --seq 4096 --json packed.json
  tune bench --shape llama-1b --generate --batch 16 --seq 256 --new-tokens 128
  tune bench --shape llama-8b --quantize nf4 --seq 78080 --dry-run --for cuda --memory 24GiB

A shape has the sizes of a published model and made-up weights. scripts/bench_peers.py runs PEFT on what --json left.")]
pub struct Bench {
    /// The config of a run: its base, its rows, its plan
    #[arg(required_unless_present = "shape", conflicts_with = "shape")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub set: Set,
    /// The sizes of a model instead, with made-up weights and tokens
    #[arg(long)]
    pub shape: Option<Shape>,
    #[command(flatten)]
    pub synthetic: Synthetic,
    /// auto, or one that `tune doctor` lists (cpu, cuda:0); of a config, instead of its own
    #[arg(long, env = "TUNE_DEVICE")]
    pub device: Option<String>,
    #[command(flatten)]
    pub ops: Ops,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "generate", value_parser = positive)]
    pub steps: usize,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2, conflicts_with = "generate", value_parser = positive)]
    pub warm_up: usize,
    /// Steps after them that wait for every op and say what each takes; 0 leaves that out
    #[arg(long, value_name = "N", default_value_t = 2, conflicts_with = "generate")]
    pub by_op: usize,
    /// Measure decoding: --batch prompts of --seq tokens together
    #[arg(long, conflicts_with = "config")]
    pub generate: bool,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 64, requires = "generate", value_parser = positive)]
    pub new_tokens: usize,
    /// Leave everything measured here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What a shape is measured with.
#[derive(Debug, Args)]
pub struct Synthetic {
    /// Rows of a step
    #[arg(long, value_name = "ROWS", default_value_t = 1, conflicts_with = "config", value_parser = positive)]
    pub batch: usize,
    /// Tokens of a row
    #[arg(long, value_name = "TOKENS", default_value_t = 512, conflicts_with = "config", value_parser = positive)]
    pub seq: usize,
    /// Rank of the adapters, on all linears; alpha is twice that
    #[arg(long, value_name = "R", default_value_t = 16, conflicts_with_all = ["config", "generate"], value_parser = positive)]
    pub lora: usize,
    /// Of the base: auto, f32 or bf16
    #[arg(long, default_value = "auto", conflicts_with = "config")]
    pub dtype: BaseDtype,
    /// Hold the linear layers of the base in 4 or 8 bits
    #[arg(long, value_name = "FORM", default_value = "none", conflicts_with = "config")]
    pub quantize: Quantize,
    /// Share of each document that is learned, its end
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, conflicts_with_all = ["config", "generate"], value_parser = share)]
    pub learned: f64,
    /// Fill the rows with documents of LOW to HIGH tokens, their logarithms spread evenly
    #[arg(long, value_name = "LOW-HIGH", conflicts_with_all = ["config", "generate"], value_parser = lengths)]
    pub packed: Option<Lengths>,
    /// The same documents, each padded to HIGH tokens, in as many micro-batches as they take
    #[arg(long, value_name = "LOW-HIGH", conflicts_with_all = ["config", "packed", "generate"], value_parser = lengths)]
    pub padded: Option<Lengths>,
    /// Plan for this much memory on the device instead of what is free there, e.g. 24GiB (or 24GB, powers of ten)
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["config", "generate"], value_parser = bytes)]
    pub memory: Option<u64>,
    /// Blocks that keep their activations; as many as fit unless given
    #[arg(long, value_name = "N", conflicts_with_all = ["config", "generate"])]
    pub keep_blocks: Option<usize>,
    /// Print the plan and stop
    #[arg(long, conflicts_with_all = ["config", "generate"])]
    pub dry_run: bool,
    /// With --dry-run: plan for a kind of device that need not be here
    #[arg(long = "for", value_name = "KIND", requires = "dry_run")]
    pub planned_for: Option<Kind>,
}

/// Models whose sizes can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Llama 3.1 8B
    #[value(name = "llama-8b")]
    Llama8b,
    /// Llama 3.2 1B
    #[value(name = "llama-1b")]
    Llama1b,
    /// SmolLM2 135M
    #[value(name = "smollm2-135m")]
    SmolLm2,
    /// Two blocks of 64, which any machine runs in a second
    #[value(name = "tiny")]
    Tiny,
}

/// Of documents, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    pub low: usize,
    pub high: usize,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// auto, or one that `tune doctor` lists (cpu, cuda:0)
    #[arg(long, default_value = "auto", env = "TUNE_DEVICE")]
    pub device: String,
    /// Leave out the self-test
    #[arg(long)]
    pub no_self_test: bool,
    #[command(flatten)]
    pub ops: Ops,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example: tune init --base HuggingFaceTB/SmolLM2-135M-Instruct --data my.jsonl --out my.toml

If you have a config of another trainer: tune import --help")]
pub struct Init {
    /// Base model: folder, hub id or .gguf file
    #[arg(long, value_name = "PATH_OR_ID")]
    pub base: String,
    /// Training data; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub data: Vec<PathBuf>,
    /// Key of the prompt in the rows, where it is not `prompt`
    #[arg(long, value_name = "KEY")]
    pub prompt_key: Option<String>,
    /// Key of the answer in the rows, where it is not `response`
    #[arg(long, value_name = "KEY")]
    pub response_key: Option<String>,
    /// Where to write the config; `-` prints it
    #[arg(long, value_name = "FILE", default_value = "tune.toml")]
    pub out: PathBuf,
    /// Replace a file that exists
    #[arg(long)]
    pub force: bool,
}

/// Trainers whose configs can be moved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rival {
    Axolotl,
    Llamafactory,
    Trl,
    Unsloth,
    Mlx,
}

impl std::fmt::Display for Rival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tune import axolotl.yml --out -       the config on stdout, the account on stderr
  tune import llama3_lora_sft.yaml --out my.toml
  tune import lora_config.yaml --from mlx --out my.toml

Which trainer a config is for is seen by its keys. Every key of it is accounted for: taken, changed and why, dropped \
and why, or not needed; where a key is left out, the other trainer's default is written, so that the run is the same. \
The account stands in the config as well, and ends with what is left for you to do: data sets of the hub are to be \
written to files (the command is given), and what depends on the data is to be looked up.

Full fine-tuning, preferences and rewards (DPO, KTO, PPO, GRPO) are refused: nothing is written, the exit code is 2.")]
pub struct Import {
    /// The other trainer's config (YAML)
    pub config: PathBuf,
    /// Which trainer it is for, where its keys do not say
    #[arg(long, value_name = "TRAINER")]
    pub from: Option<Rival>,
    /// Where to write the config; `-` prints it. A chat template that stands in the other config goes beside it
    #[arg(long, value_name = "FILE", default_value = "tune.toml")]
    pub out: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
}

fn number(text: &str, fits: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|x| x.is_finite() && fits(*x))
        .ok_or_else(|| format!("wanted {wanted}"))
}

fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number, 0 or more")
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1")
}

/// `5GB`, `500MB`, `1000000`: powers of ten, as the hub counts; `24GiB`: powers of two, as memory is counted.
fn bytes(text: &str) -> Result<u64, String> {
    const WANTED: &str = "a size such as 5GB, 500MB or 24GiB";
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match upper[digits.len()..].trim_end_matches('B') {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "KI" => 1 << 10,
        "MI" => 1 << 20,
        "GI" => 1 << 30,
        _ => return Err(format!("wanted {WANTED}")),
    };
    let count = number(digits.trim(), |x| x > 0.0, WANTED)?;
    Ok((count * unit as f64) as u64)
}

fn positive(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "wanted a whole number above 0".into())
}

/// `200-2000`
fn lengths(text: &str) -> Result<Lengths, String> {
    let pair = text.split_once('-').and_then(|(low, high)| {
        Some(Lengths {
            low: low.parse().ok()?,
            high: high.parse().ok()?,
        })
    });
    pair.filter(|lengths| lengths.low >= 2 && lengths.low <= lengths.high)
        .ok_or_else(|| "wanted the shortest and the longest, at least 2, such as 200-2000".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_in_powers_of_ten_or_two() {
        assert_eq!(bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(bytes("1.5 mb"), Ok(1_500_000));
        assert_eq!(bytes("700"), Ok(700));
        assert_eq!(bytes("24GiB"), Ok(24 << 30));
        assert!(bytes("5 apples").is_err());
        assert!(bytes("-1GB").is_err());
    }
}
