//! The command line as it is typed. `config` gives it a meaning.

use crate::instead::{OfClients, OfServers};
use clap::{Args, Parser, Subcommand};
use listen::parse_address;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Forebay turns storage into tokens: it serves open language models over the OpenAI API.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100, after_help = "Try:  forebay chat \"What is Forebay?\"")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// A TOML file; its keys are in docs/config.md. Environment and flags win over it.
    #[arg(long, global = true, env = "FOREBAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Sets any key of the configuration, e.g. `--set router.listen.connections_max=200`.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Asks no storage: models come from the cache, as they were last loaded, and from directories.
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// The log's filter, e.g. `debug` or `router=debug,info`.
    #[arg(long, global = true, env = "FOREBAY_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves models: router and worker in one process.
    #[command(after_help = "Example:  forebay serve ./Qwen3-0.6B --listen 127.0.0.1:8080")]
    Serve(ServeArgs),
    /// The front door alone, before workers that run elsewhere.
    #[command(
        after_help = "Example:  forebay router --worker http://127.0.0.1:8081 --worker https://worker-2.example:8081"
    )]
    Router(RouterArgs),
    /// One worker: an OpenAI server of its own, unscreened.
    #[command(after_help = "Example:  forebay worker ./Qwen3-0.6B --threads 8")]
    Worker(WorkerArgs),
    /// This machine's cache for other engines, without a worker: the hub's read protocol and plain files.
    #[command(
        after_help = "Examples:\n  forebay node\n  HF_ENDPOINT=http://127.0.0.1:8083 vllm serve Qwen/Qwen3-0.6B\n  \
                      forebay node tiny=s3://models/tiny && curl http://127.0.0.1:8083/models/tiny/config.json"
    )]
    Node(NodeArgs),
    /// Talks to a model: a running server's with --url, else one served for the occasion.
    #[command(
        after_help = "Examples:\n  forebay chat \"What is Forebay?\"\n  forebay chat --url http://127.0.0.1:8080 --model demo\n  \
                      forebay chat < question.txt"
    )]
    Chat(ChatArgs),
    /// Lists the models of a running server.
    #[command(after_help = "Example:  forebay models --url http://127.0.0.1:8080")]
    Models(ModelsArgs),
    /// Fetches a model into the cache of this machine; a local directory is read through.
    #[command(after_help = "Example:  forebay pull s3://models/qwen3-0.6b --json")]
    Pull(PullArgs),
    /// Shows what a load would read, in which order. Reads headers only.
    #[command(after_help = "Example:  forebay plan hf://Qwen/Qwen3-0.6B --rank 0 --ranks 2")]
    Plan(PlanArgs),
    /// Looks at this machine, and whether a model will run on it. Reads headers only.
    #[command(after_help = "Examples:\n  forebay doctor\n  forebay doctor ./gemma-3-270m-it-Q4_K_M.gguf")]
    Doctor(DoctorArgs),
    /// Computes a model's digest manifest, for its publisher to put beside the files.
    #[command(after_help = "Example:  forebay manifest ./Qwen3-0.6B --write")]
    Manifest(ManifestArgs),
    /// Reads every byte of a model and holds it against its manifest.
    #[command(after_help = "Example:  forebay verify ./Qwen3-0.6B")]
    Verify(ModelArgs),
    /// Shows and tends the node's cache of models.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Writes a model of a real geometry with random weights, for benchmarks.
    #[command(after_help = "Example:  forebay synth-model --arch qwen3 --size 0.6b --out /tmp/qwen3-0.6b")]
    SynthModel(SynthArgs),
    /// Measures a running server as a client would, and the screen of this program.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Shows the configuration in force, its documentation or its JSON Schema.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Collects what is known of a running server and its machine into one file, without any content.
    #[command(
        name = "support-bundle",
        after_help = "Example:  forebay support-bundle --url http://127.0.0.1:8081 --out bundle.tar"
    )]
    SupportBundle(BundleArgs),
    /// Makes digests of keys for a configuration, and looks at bundles of rules before they serve.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Makes certificates for trying TLS, and grants peers weights.
    #[command(subcommand)]
    Peers(PeersCommand),
    /// Prints the completions for a shell.
    #[command(after_help = "Example:  forebay completions bash > /etc/bash_completion.d/forebay")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A directory, a GGUF file or a URL.
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Open-loop load: latencies counted from when each request should have been sent.
    Load(Box<evals::load::LoadArgs>),
    /// Leaks of the screen: denied phrases in every spelling and place, however they are cut.
    Safety(evals::safety::SafetyArgs),
}

/// An ID is a model's root or the beginning of one, or the URL it came from.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Lists models and loads that were broken off.
    #[command(after_help = "Example:  forebay cache ls --json | jq '.[].urls'")]
    Ls {
        /// Prints one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Removes models that nobody uses.
    #[command(after_help = "Example:  forebay cache rm hf://Qwen/Qwen3-0.6B")]
    Rm {
        /// The models to remove.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Prints one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Keeps models from being evicted or removed.
    #[command(after_help = "Example:  forebay cache pin 3f9a1c2b")]
    Pin {
        /// The models to keep.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Prints one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Undoes `pin`.
    #[command(after_help = "Example:  forebay cache unpin 3f9a1c2b")]
    Unpin {
        /// The models that may go again.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Prints one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Removes old broken-off loads and, least recently used first, what is over the quota.
    #[command(after_help = "Example:  forebay cache gc --target-bytes 50000000000 --dry-run")]
    Gc {
        /// The bytes that may stay, instead of the configured quota; 0 removes all that may go.
        #[arg(long, value_name = "BYTES")]
        target_bytes: Option<u64>,
        /// Says what would be removed, and removes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Reads every byte of models and compares it with their manifests; all models without an ID.
    #[command(after_help = "Example:  forebay cache verify hf://Qwen/Qwen3-0.6B --json")]
    Verify {
        /// The models to read.
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Prints one JSON array.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the configuration in force: file, environment and flags together, without secrets. Fails where it is
    /// wrong.
    #[command(after_help = "Example:  forebay config show --config forebay.toml")]
    Show,
    /// Prints docs/config.md.
    #[command(after_help = "Example:  forebay config docs > docs/config.md")]
    Docs,
    /// Prints docs/forebay.schema.json.
    #[command(after_help = "Example:  forebay config schema > docs/forebay.schema.json")]
    Schema,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Prints the SHA-256 of an API key read from standard input, for `key_sha256`.
    #[command(after_help = "Example:  printf %s \"$KEY\" | forebay policy hash-key")]
    HashKey,
    /// Compiles a bundle and prints its version and its numbers.
    #[command(after_help = "Example:  forebay policy check ./rules")]
    Check(RulesArgs),
    /// Runs the cases of a bundle; fails where one becomes what it must not.
    #[command(after_help = "Example:  forebay policy test ./rules")]
    Test(RulesArgs),
    /// Counts what a bundle makes of a file of requests, a JSON body a line; nothing is sent.
    #[command(after_help = "Example:  forebay policy replay ./rules requests.jsonl")]
    Replay {
        #[command(flatten)]
        bundle: RulesArgs,
        /// The file of requests.
        #[arg(value_name = "FILE")]
        requests: PathBuf,
    },
    /// Counts the requests of a file that two bundles decide over differently.
    #[command(after_help = "Example:  forebay policy diff ./rules ./new-rules requests.jsonl")]
    Diff {
        #[command(flatten)]
        old: RulesArgs,
        /// The other bundle's directory.
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// The file of requests.
        #[arg(value_name = "FILE")]
        requests: PathBuf,
    },
    /// Says why a text or a request's JSON on standard input is denied, replaced or noted: the line of the list, how it was
    /// read, and where.
    #[command(after_help = "Example:  forebay policy explain ./rules < request.json")]
    Explain(RulesArgs),
}

/// A bundle of rules.
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// The bundle's directory.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// Makes an authority and certificates of a worker and a router, to try TLS with; prints what to run next. In
    /// production they come from something that renews them, such as cert-manager.
    #[command(after_help = "Example:  forebay peers init tls --name worker-1.example --name 10.0.0.7")]
    Init(PeersInitArgs),
    /// Signs a capability: the right of one certificate to one model's weights, for an hour at most. Its text goes into
    /// the `forebay-capability` header of that peer's requests.
    #[command(
        after_help = "Example:  forebay peers grant --root 6c4f… --certificate worker.pem --key tls/capability-key.pem"
    )]
    Grant(PeersGrantArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PeersGrantArgs {
    /// The root of the model's manifest, with or without `blake3:`, as `forebay manifest` and `forebay cache ls` show
    /// it.
    #[arg(long, value_name = "ROOT")]
    pub(crate) root: String,
    /// The tenant whose weights they are, as the peers that have them name it (`peers.tenant`).
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) tenant: String,
    /// A PEM file with the certificate of the peer that may have them; nobody else can use the capability.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: PathBuf,
    /// A PEM file with the private key to sign with, on the curve P-256, in PKCS #8. Its public key is to be one of
    /// `peers.rights.capability_issuers`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The minutes for which it holds.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=60))]
    pub(crate) minutes: u16,
    /// Prints one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PeersInitArgs {
    /// The directory to write; nothing in it is overwritten.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A further host name or address that the certificates are for; may be repeated. They are always for localhost.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,
    /// The days that they are valid.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=825))]
    pub(crate) days: u16,
    /// Prints the files and the next commands as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The flags of a worker, shared by `serve` and `worker`.
#[derive(Debug, Default, Args)]
pub(crate) struct EngineFlags {
    /// The backend: `cpu`, `candle` (a slow reference) or `scripted` (no weights; simulation).
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// The device that computes: `cpu`, `cuda` or `cuda:N`, or `auto`, a GPU where there is one.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Further names of the one model, slashes and all (vLLM's name).
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) served_model_name: Vec<String>,
    /// Threads that compute; all cores where not given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The longest sequence, prompt and completion together, in tokens.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<usize>,
    /// The most sequences generated at a time.
    #[arg(long, value_name = "N")]
    pub(crate) max_num_seqs: Option<usize>,
    /// The most tokens one step computes, prompts and decodes together.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_num_batched_tokens: Option<usize>,
    /// Bytes of memory for the weights, activations and KV caches of all models together.
    #[arg(long, value_name = "BYTES", conflicts_with = "gpu_memory_utilization")]
    pub(crate) memory_bytes: Option<u64>,
    /// The same as a share of the machine's memory, e.g. 0.8 (vLLM's name; on CPUs, too).
    #[arg(long, value_name = "SHARE")]
    pub(crate) gpu_memory_utilization: Option<f64>,
    /// Bytes of the KV cache, per model.
    #[arg(long, value_name = "BYTES")]
    pub(crate) kv_cache_memory_bytes: Option<u64>,
    /// The format of keys and values: `auto`, `f32`, `f16` or `bf16`.
    #[arg(long, value_name = "NAME")]
    pub(crate) kv_cache_dtype: Option<String>,
    /// The format that weights are converted to when they are loaded: `q8_0` or `q4_k` (8 and 4 bits; copies beside the mapped file).
    #[arg(long, value_name = "NAME")]
    pub(crate) quantization: Option<String>,
    /// A tokenizer instead of the model's own: a directory, or a `tokenizer.json`, `tekken.json` or `tokenizer.model`.
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// A chat template instead of the model's own: a file, or the template itself (vLLM's name).
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<String>,
    /// The format of a model's calls of tools: `hermes`, `llama3_json`, `pythonic`, `mistral` or `json` (vLLM's name).
    #[arg(long, value_name = "NAME")]
    pub(crate) tool_call_parser: Option<String>,
    /// The marks around a model's thoughts: `think`, `mistral`, `seed_oss`, or `none` (vLLM's name).
    #[arg(long, value_name = "NAME")]
    pub(crate) reasoning_parser: Option<String>,
    /// Share KV blocks among requests that begin alike (the default).
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: bool,
    /// Compute every prompt as if it were the first.
    #[arg(long)]
    pub(crate) no_enable_prefix_caching: bool,
    /// The order of requests: `priority` (by the requests' `priority`) or `fcfs`.
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduling_policy: Option<String>,
}

/// The files of a listener that speaks TLS (vLLM's names).
#[derive(Debug, Default, Args)]
pub(crate) struct TlsFlags {
    /// A PEM file with the server's certificate; with it the listener speaks HTTPS alone.
    #[arg(long, value_name = "FILE", requires = "ssl_keyfile")]
    pub(crate) ssl_certfile: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    pub(crate) ssl_keyfile: Option<PathBuf>,
    /// A PEM file with the authorities whose certificates clients must bring (mutual TLS).
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,
}

/// Weights for peers, of a worker or a node.
#[derive(Debug, Default, Args)]
pub(crate) struct PeersFlags {
    /// The address at which peers get weights, e.g. 0.0.0.0:8082 [default: none is given]. Beyond loopback
    /// `worker.peers.tls`, or a node's `node.peers.tls`, must have certificates.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) peers_listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Models: directories as Hugging Face publishes them, or URLs as for `forebay pull`, optionally
    /// as NAME=MODEL; `demo` is the bundled model, and the default.
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// The address of the API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    #[command(flatten)]
    pub(crate) instead: OfServers,
    #[command(flatten)]
    pub(crate) engine: EngineFlags,
    #[command(flatten)]
    pub(crate) trust: TrustFlags,
}

#[derive(Debug, Args)]
pub(crate) struct RouterArgs {
    /// A worker's URL; may be repeated.
    #[arg(long = "worker", value_name = "URL")]
    pub(crate) workers: Vec<String>,
    /// The address of the API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    /// A PEM file with the authorities of workers at https:// URLs, in place of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) worker_cacert: Option<PathBuf>,
    /// A PEM file with the certificate that is shown to workers (mutual TLS).
    #[arg(long, value_name = "FILE", requires = "worker_key")]
    pub(crate) worker_cert: Option<PathBuf>,
    /// A PEM file with that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "worker_cert")]
    pub(crate) worker_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) instead: OfServers,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Directories or URLs, as for `forebay serve`, optionally as NAME=MODEL; `demo` is the bundled
    /// model.
    #[arg(value_name = "MODEL", required = true)]
    pub(crate) models: Vec<String>,
    /// The worker's address [default: 127.0.0.1:8081]. Beyond loopback an API key is required.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) peers: PeersFlags,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    #[command(flatten)]
    pub(crate) instead: OfServers,
    #[command(flatten)]
    pub(crate) engine: EngineFlags,
    #[command(flatten)]
    pub(crate) trust: TrustFlags,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Models to fill from the start and to give at /models/NAME/FILE: directories or URLs as for `forebay pull`,
    /// optionally as NAME=MODEL. Models of a hub need not be named here.
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// The node's address [default: 127.0.0.1:8083].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) peers: PeersFlags,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    #[command(flatten)]
    pub(crate) instead: OfServers,
    #[command(flatten)]
    pub(crate) trust: TrustFlags,
}

/// The server to talk to.
#[derive(Debug, Default, Args)]
pub(crate) struct Target {
    /// The server, e.g. http://127.0.0.1:8080.
    #[arg(long, alias = "base-url", env = "FOREBAY_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The key to send.
    #[arg(long, env = "FOREBAY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// A PEM file with the authorities of a server at an https:// URL, in place of the system's (curl's name).
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// A PEM file with the certificate to show to the server (curl's name).
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// A PEM file with that certificate's private key (curl's name).
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) instead: OfClients,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The prompt. Without it a conversation begins on a terminal; elsewhere the whole of standard input is one prompt.
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// With --url the model's name (default: the server's first); without, what to serve, as for
    /// `forebay serve`.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Instructions given before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// 0 is greedy [default: the model's own].
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// The most tokens of one answer [default: as many as fit].
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Keeps no history of prompts; otherwise it is in $XDG_STATE_HOME/forebay, readable by its owner only.
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) engine: EngineFlags,
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The tar file to write [default: forebay-support-TIME.tar here].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Prints the file's path and what is missing as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Prints the server's JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Leaves the weights in memory as well (the page cache), for a worker that starts soon.
    #[arg(long)]
    pub(crate) warm: bool,
}

/// A model, wherever it is.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A directory or a URL: az://ACCOUNT/CONTAINER/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// https://HOST/PREFIX/, hf://ORG/NAME or hf://ORG/NAME@REV.
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Prints the result as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trust: TrustFlags,
}

/// Demands on the proof of models.
#[derive(Debug, Default, Args)]
pub(crate) struct TrustFlags {
    /// Load only what is proven by a manifest, a signature or the store's own checksum.
    #[arg(long)]
    pub(crate) require_proof: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A directory or a URL, as for `forebay pull`.
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// The rank in a tensor-parallel group, from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) rank: usize,
    /// The number of ranks in the group.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) ranks: usize,
    /// Prints the plan as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// A directory or a URL, as for `forebay pull`.
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Writes forebay.manifest.json into the directory instead of printing it.
    #[arg(long)]
    pub(crate) write: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// The family: llama, qwen2, qwen3 or mistral.
    #[arg(long, value_name = "ARCH")]
    pub(crate) arch: String,
    /// Its size: llama 1b 3b 8b, qwen2 0.5b 1.5b, qwen3 0.6b 1.7b 4b 8b, mistral 7b.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: String,
    /// The directory to write; it must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// bf16, f16 or f32.
    #[arg(long, default_value = "bf16", value_name = "DTYPE")]
    pub(crate) dtype: String,
    /// The largest shard file, e.g. 5GB or 200MB.
    #[arg(long, default_value = "5GB", value_name = "SIZE")]
    pub(crate) max_shard_size: String,
    /// Same seed, same bytes.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Prints the summary as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
