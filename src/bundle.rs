//! `forebay support-bundle`: what is known of a running server and its machine, in one tar file to hand to
//! whoever is to help.
//!
//! It holds versions, configuration with its secrets masked, status, metrics and the flight recorder: numbers
//! and names of ours. Prompts and completions are in none of them, and so in no bundle. What cannot be had is
//! named in `manifest.json`, with the reason: a bundle is asked for when something is broken.

mod machine;
mod tar;

use crate::chat::Client;
use crate::cli::BundleArgs;
use crate::config::Config;
use crate::{out, secrets};
use anyhow::Context;
use http::StatusCode;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tar::Tar;

/// The paths to ask the server for, and the file each answer goes to. A router has no flight recorder and answers for
/// its workers; a worker is asked itself.
const ASKED: [(&str, &str); 6] = [
    ("/status", "status.json"),
    ("/livez", "livez.txt"),
    ("/readyz", "readyz.txt"),
    ("/metrics", "metrics.txt"),
    ("/admin/flight-recorder", "flight-recorder.json"),
    ("/admin/workers", "workers.json"),
];
/// The time allowed for each answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes the bundle and says where it is.
///
/// # Errors
/// The file cannot be written. A server that does not answer is a fact for the bundle, not an error.
pub(crate) async fn write(config: &Config, args: &BundleArgs) -> anyhow::Result<()> {
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let to = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("forebay-support-{now_s}.tar")));
    let mut tar = Tar::new(format!("forebay-support-{now_s}"), now_s);
    let mut missing = serde_json::Map::new();
    let client = Client::of(&args.target)?;
    for (path, name) in ASKED {
        match tokio::time::timeout(PATIENCE, client.look(path)).await {
            Ok(Ok((status, body))) => {
                // A router has no flight recorder and a worker no workers: that is an answer, too.
                let is_absent = status == StatusCode::NOT_FOUND && path.starts_with("/admin/");
                if !status.is_success() && !is_absent {
                    missing.insert(path.into(), json!(format!("answered {status}")));
                }
                // A liveness that fails says why, which is what one wants to read.
                if status.is_success() || name.ends_with(".txt") {
                    tar.add(name, telemetry::mask(&String::from_utf8_lossy(&body)).as_bytes());
                }
            }
            Ok(Err(error)) => {
                drop(missing.insert(path.into(), json!(telemetry::mask(&wire::Chain(error.as_ref()).to_string()))))
            }
            Err(_) => drop(missing.insert(path.into(), json!(format!("no answer within {} s", PATIENCE.as_secs())))),
        }
    }
    tar.add("config.toml", secrets::shown(config)?.as_bytes());
    tar.add("machine.json", &pretty(&machine::facts()));
    let manifest = json!({
        "forebay": env!("CARGO_PKG_VERSION"),
        "made_unix_s": now_s,
        "server": telemetry::mask(client.base()),
        "missing": missing,
        "note": "config.toml is what this command was given, which is what the server was given where both run alike",
    });
    tar.add("manifest.json", &pretty(&manifest));
    save(&to, &tar.finish())?;
    if args.json {
        return out::line(json!({"path": to.display().to_string(), "missing": manifest["missing"]}));
    }
    out::line(format_args!("wrote {}", to.display()))?;
    for (path, why) in manifest["missing"].as_object().into_iter().flatten() {
        out::line(format_args!("  without {path}: {}", why.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

fn pretty(value: &Value) -> Vec<u8> {
    // A tree of JSON always serialises.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// Writes a new file; one that exists is somebody's.
fn save(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("creating {}; give another --out", path.display()))?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))
}
