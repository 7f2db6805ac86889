//! From what was typed to what runs.

use crate::chat::{Client, talk, tls_of};
use crate::cli::{
    ChatArgs, Cli, Command, Common, ConfigCommand, EngineFlags, EvalCommand, ModelsArgs, PeersCommand, PeersFlags,
    PolicyCommand, RouterArgs, RulesArgs, SynthArgs, Target, TlsFlags, TrustFlags,
};
use crate::config::{self, Config, Loaded, Setting};
use crate::follow::Followed;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{bundle, cache, config_docs, doctor, model, node, out, peers, policy_bundle, safety, secrets, serve};
use anyhow::{Context, anyhow, bail};
use clap::CommandFactory;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// The connections of a server that one chat needs, with room for health checks.
const CHAT_CONNECTIONS: usize = 64;

/// Runs one command.
///
/// # Errors
/// Those of the command; the caller prints them once.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { common, command } = cli;
    match command {
        Command::Serve(args) => {
            let mut settings = with_listen("router", args.listen, engine_settings(&args.engine));
            settings.extend(trust_settings(&args.trust));
            settings.extend(tls_settings("router", &args.tls));
            let mut config = load(&common, settings.clone())?;
            policy_bundle::load_into(&mut config.config.router.policy)?;
            let models = serve::sources(&args.models, true)?;
            let followed = followed(&common, settings);
            in_runtime(&config, serve::until_signal(serve::both(&config, models, Some(followed)), true))
        }
        Command::Router(args) => {
            let mut settings = with_listen("router", args.listen, Vec::new());
            settings.extend(tls_settings("router", &args.tls));
            settings.extend(worker_tls_settings(&args));
            if !args.workers.is_empty() {
                settings.push(("router.workers".into(), toml::Value::from(args.workers).to_string()));
            }
            let mut config = load(&common, settings.clone())?;
            policy_bundle::load_into(&mut config.config.router.policy)?;
            let followed = followed(&common, settings);
            in_runtime(&config, serve::until_signal(serve::router(&config, followed), true))
        }
        Command::Worker(args) => {
            let mut settings = with_listen("worker", args.listen, engine_settings(&args.engine));
            settings.extend(peers_settings("worker", &args.peers));
            settings.extend(trust_settings(&args.trust));
            settings.extend(tls_settings("worker", &args.tls));
            let config = load(&common, settings)?;
            let models = serve::sources(&args.models, false)?;
            in_runtime(&config, serve::until_signal(serve::worker(&config, models), false))
        }
        Command::Node(args) => {
            let mut settings = with_listen("node", args.listen, trust_settings(&args.trust));
            settings.extend(peers_settings("node", &args.peers));
            settings.extend(tls_settings("node", &args.tls));
            let config = load(&common, settings)?;
            let models = node::named(&args.models)?;
            in_runtime(&config, serve::until_signal(node::start(&config, models), false))
        }
        Command::Chat(args) => chat(&common, args),
        Command::Models(args) => models(&common, args),
        Command::Pull(args) => {
            let config = quiet(&common, trust_settings(&args.model.trust))?;
            to_its_end(&config, model::pull(&config, &args))
        }
        Command::Plan(args) => {
            let config = quiet(&common, Vec::new())?;
            to_its_end(&config, model::plan(&config, &args))
        }
        Command::Doctor(args) => {
            let config = quiet(&common, Vec::new())?;
            let (_guard, runtime) = runtime(&config)?;
            let runs = runtime.block_on(doctor::doctor(&config, &args))?;
            Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Manifest(args) => {
            let config = quiet(&common, Vec::new())?;
            to_its_end(&config, model::manifest(&config, &args))
        }
        Command::Verify(args) => {
            let config = quiet(&common, trust_settings(&args.trust))?;
            to_its_end(&config, model::verify(&config, &args))
        }
        Command::Cache(command) => cache::run(&quiet(&common, Vec::new())?.loader.cache, command),
        Command::SynthModel(args) => synth(&args),
        Command::Eval(EvalCommand::Load(mut args)) => {
            args.tls = tls_of(&args.base_url()?, [&args.cacert, &args.cert, &args.key])?;
            let config = quiet(&common, Vec::new())?;
            let (_guard, runtime) = runtime(&config)?;
            let (code, text) = runtime.block_on(evals::load::command(*args))?;
            out::text(&text)?;
            Ok(ExitCode::from(code))
        }
        Command::Eval(EvalCommand::Safety(args)) => safety::command(&args),
        Command::Config(command) => show_config(&common, &command),
        Command::SupportBundle(args) => {
            let config = quiet(&common, Vec::new())?;
            to_its_end(&config, bundle::write(&config, &args))
        }
        Command::Policy(command) => on_policy(command),
        Command::Peers(PeersCommand::Init(args)) => peers::init(&args).map(|()| ExitCode::SUCCESS),
        Command::Peers(PeersCommand::Grant(args)) => peers::grant(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut script);
            out::write(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A configuration, with its warnings kept for when there is a log.
struct Configured {
    config: Config,
    warnings: Vec<String>,
}

impl std::ops::Deref for Configured {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

fn load(common: &Common, flags: Vec<Setting>) -> anyhow::Result<Configured> {
    let mut settings = common.set.iter().map(|text| config::setting(text)).collect::<anyhow::Result<Vec<_>>>()?;
    settings.extend(flags);
    if common.offline {
        settings.push(("loader.offline".into(), "true".into()));
    }
    if let Some(filter) = &common.log {
        settings.push(("telemetry.log_filter".into(), filter.clone()));
    }
    let Loaded { config, warnings } = config::load(common.config.as_deref(), std::env::vars_os(), &settings)?;
    Ok(Configured { config, warnings })
}

/// The configuration of this command, to be read again while it runs.
fn followed(common: &Common, flags: Vec<Setting>) -> Followed {
    let (file, common) = (common.config.clone(), common.clone());
    let read = move || {
        let mut config = load(&common, flags.clone())?.config;
        policy_bundle::load_into(&mut config.router.policy)?;
        Ok(config)
    };
    Followed { file, read: Arc::new(read) }
}

/// As `load`, for commands whose output is the point: they log warnings only, unless told.
fn quiet(common: &Common, mut flags: Vec<Setting>) -> anyhow::Result<Configured> {
    if common.log.is_none() {
        flags.push(("telemetry.log_filter".into(), "warn".into()));
    }
    load(common, flags)
}

fn with_listen(table: &str, address: Option<SocketAddr>, mut settings: Vec<Setting>) -> Vec<Setting> {
    if let Some(address) = address {
        settings.push((format!("{table}.listen.address"), address.to_string()));
    }
    settings
}

fn engine_settings(flags: &EngineFlags) -> Vec<Setting> {
    fn text(value: Option<impl ToString>) -> Option<String> {
        value.map(|value| value.to_string())
    }
    let caching = match (flags.enable_prefix_caching, flags.no_enable_prefix_caching) {
        (_, true) => Some(false),
        (true, false) => Some(true),
        (false, false) => None,
    };
    // A list of JSON strings is one of TOML's, too.
    let names = (!flags.served_model_name.is_empty()).then(|| serde_json::json!(flags.served_model_name));
    let settings = [
        ("served_model_name", text(names)),
        ("threads", text(flags.threads)),
        ("max_model_len", text(flags.max_model_len)),
        ("max_num_seqs", text(flags.max_num_seqs)),
        ("max_num_batched_tokens", text(flags.max_num_batched_tokens)),
        ("memory_bytes", text(flags.memory_bytes)),
        ("gpu_memory_utilization", text(flags.gpu_memory_utilization)),
        ("kv_cache_memory_bytes", text(flags.kv_cache_memory_bytes)),
        ("enable_prefix_caching", text(caching)),
        ("kv_cache_dtype", flags.kv_cache_dtype.clone()),
        ("quantization", flags.quantization.clone()),
        ("tokenizer", flags.tokenizer.as_ref().map(|path| path.display().to_string())),
        ("chat_template", flags.chat_template.clone()),
        ("tool_call_parser", flags.tool_call_parser.clone()),
        ("reasoning_parser", flags.reasoning_parser.clone()),
        ("scheduling_policy", flags.scheduling_policy.clone()),
        ("backend", flags.backend.clone()),
        ("device", flags.device.clone()),
    ];
    settings.into_iter().filter_map(|(key, value)| Some((format!("worker.{key}"), value?))).collect()
}

/// Where a worker or a node gives weights to peers.
fn peers_settings(role: &str, flags: &PeersFlags) -> Option<(String, String)> {
    flags.peers_listen.map(|address| (format!("{role}.peers.listen"), address.to_string()))
}

fn tls_settings(table: &str, flags: &TlsFlags) -> Vec<Setting> {
    let files = [
        ("certificate_file", &flags.ssl_certfile),
        ("key_file", &flags.ssl_keyfile),
        ("client_ca_file", &flags.ssl_ca_certs),
    ];
    path_settings(&format!("{table}.listen.tls"), files)
}

fn worker_tls_settings(args: &RouterArgs) -> Vec<Setting> {
    let files =
        [("ca_file", &args.worker_cacert), ("certificate_file", &args.worker_cert), ("key_file", &args.worker_key)];
    path_settings("router.worker_tls", files)
}

fn path_settings<const N: usize>(table: &str, files: [(&str, &Option<PathBuf>); N]) -> Vec<Setting> {
    let setting = |(key, path): (&str, &Option<PathBuf>)| {
        Some((format!("{table}.{key}"), path.as_ref()?.to_string_lossy().into_owned()))
    };
    files.into_iter().filter_map(setting).collect()
}

fn trust_settings(flags: &TrustFlags) -> Vec<Setting> {
    let required = flags.require_proof.then(|| ("trust.require_proof".to_owned(), "true".to_owned()));
    required.into_iter().collect()
}

fn runtime(config: &Configured) -> anyhow::Result<(telemetry::trace::Guard, tokio::runtime::Runtime)> {
    // Most systems start a process with room for 1,024 open files, which is 500 streams of a router.
    listen::raise_descriptor_limit();
    let guard = telemetry::trace::init(&config.telemetry.to_trace())?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    Ok((guard, runtime))
}

/// Runs a command that ends by itself, or by a signal.
fn to_its_end(config: &Configured, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    in_runtime(config, async { Signals::of_command()?.or_ended(work).await })
}

/// Runs `work` to its end; what is left of the runtime is not waited for beyond a moment.
fn in_runtime(config: &Configured, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let (guard, runtime) = runtime(config)?;
    // The loader ends the process when this returns: what was read since is not the model.
    loader::on_truncation(|file| tracing::error!(file, "a weights file shrank while it was mapped; ending"));
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    drop(guard);
    result.map(|()| ExitCode::SUCCESS)
}

fn chat(common: &Common, args: ChatArgs) -> anyhow::Result<ExitCode> {
    let mut settings = engine_settings(&args.engine);
    settings.push(("router.listen.address".into(), "127.0.0.1:0".into()));
    // One user, whatever the system's limits are.
    for role in ["router", "worker"] {
        settings.push((format!("{role}.listen.connections_max"), CHAT_CONNECTIONS.to_string()));
    }
    let mut config = quiet(common, settings)?;
    // It talks to itself, whatever the server of this configuration shows to others.
    config.config.router.listen.tls = listen::TlsConfig::default();
    in_runtime(&config, async {
        let mut signals = Signals::of_command()?;
        if args.target.url.is_some() {
            let (client, first) = signals.or_ended(connect(&args.target)).await?;
            return talk(&client, args.model.clone().unwrap_or(first), &args, signals).await;
        }
        let models = serve::sources(args.model.as_slice(), true)?;
        let starting = async {
            let mut running = serve::both(&config, models, None).await?;
            running.ready().await?;
            let target =
                Target { url: Some(running.url.clone()), api_key: args.target.api_key.clone(), ..Target::default() };
            let (client, first) = connect(&target).await?;
            Ok((running, client, first))
        };
        let (running, client, first) = signals.or_ended(starting).await?;
        let result = talk(&client, first, &args, signals).await;
        running.stop().await?;
        result
    })
}

/// A client, and the name of the server's first model.
async fn connect(target: &Target) -> anyhow::Result<(Client, String)> {
    let client = Client::of(target)?;
    let models = client.models().await?;
    let first = models.data.into_iter().next().ok_or_else(|| anyhow!("the server has no model"))?;
    Ok((client, first.id))
}

fn models(common: &Common, args: ModelsArgs) -> anyhow::Result<ExitCode> {
    let config = quiet(common, Vec::new())?;
    to_its_end(&config, async {
        let list = Client::of(&args.target)?.models().await?;
        if args.json {
            return out::line(serde_json::to_string(&list)?);
        }
        list.data.iter().try_for_each(|model| out::line(&model.id))
    })
}

fn synth(args: &SynthArgs) -> anyhow::Result<ExitCode> {
    let options =
        models::synth::SynthOptions::parse(&args.arch, &args.size, &args.dtype, &args.max_shard_size, args.seed)?;
    let mut progress = Progress::begin();
    let summary =
        models::synth::write(&options, &args.out, &mut |done, total| progress.show("writing", done, total, None))?;
    drop(progress);
    if args.json {
        out::line(serde_json::to_string(&summary)?)?;
    } else {
        out::line(format_args!("wrote {} ({} bytes of weights)", args.out.display(), summary.bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_config(common: &Common, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Docs => out::write(config_docs::markdown().as_bytes())?,
        ConfigCommand::Schema => out::write(config_docs::schema().as_bytes())?,
        ConfigCommand::Show => {
            let Configured { config, warnings } = load(common, Vec::new())?;
            warnings.iter().for_each(|warning| out::remark(format_args!("warning: {warning}")));
            out::write(secrets::shown(&config)?.as_bytes())?;
            let mut checked = config.clone();
            policy_bundle::load_into(&mut checked.router.policy)?;
            let problems = checked.problems();
            if !problems.is_empty() {
                bail!("the configuration is wrong: {}", problems.join("; "));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn on_policy(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::HashKey => hash_key(),
        PolicyCommand::Check(RulesArgs { dir, json }) => policy_bundle::check(&dir, json),
        PolicyCommand::Test(RulesArgs { dir, json }) => policy_bundle::test(&dir, json),
        PolicyCommand::Replay { bundle, requests } => policy_bundle::replay(&bundle.dir, &requests, bundle.json),
        PolicyCommand::Diff { old, new, requests } => policy_bundle::diff(&old.dir, &new, &requests, old.json),
        PolicyCommand::Explain(RulesArgs { dir, json }) => policy_bundle::explain(&dir, json),
    }
}

fn hash_key() -> anyhow::Result<ExitCode> {
    let mut key = String::new();
    std::io::stdin().read_to_string(&mut key).context("reading the key from standard input")?;
    let key = policy::Secret::new(key.trim_end_matches(['\r', '\n']));
    if let Some(problem) = key.key_problem() {
        bail!("the key on standard input {problem}");
    }
    out::line(policy::hash_key(key.reveal()))?;
    Ok(ExitCode::SUCCESS)
}
