//! The environment: which of its variables set a key, which mean something to a command, and which are mistakes.

use super::schema::{Schema, nearest};
use anyhow::{anyhow, bail};
use clap::CommandFactory;
use std::ffi::OsString;

/// The prefix of our variables.
const PREFIX: &str = "FOREBAY_";
/// Variables of ours that the loader reads itself.
const OF_THE_LOADER: [&str; 2] = ["FOREBAY_CACHE", "FOREBAY_OFFLINE"];

/// Settings and warnings from the environment.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Variable, path of the key, text.
    pub(super) settings: Vec<(String, String, String)>,
    pub(super) warnings: Vec<String>,
}

/// Reads our variables; others are nobody's business.
///
/// # Errors
/// A name that is a key's but for its underscores, since whoever wrote it takes the key for set; or text that is none.
pub(super) fn read(variables: impl Iterator<Item = (OsString, OsString)>, schema: &Schema) -> anyhow::Result<Read> {
    let mut read = Read::default();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if rest.contains("__") {
            let path = rest.to_ascii_lowercase().replace("__", ".");
            let value =
                value.into_string().map_err(|_| anyhow!("the environment variable {name} is not UTF-8 text"))?;
            read.settings.push((name.into(), path, value));
        } else if !is_known(name) && !is_of_a_service(rest) {
            read.warnings.extend(unknown(name, schema)?);
        }
    }
    Ok(read)
}

/// The complaint about a variable that nobody reads.
fn unknown(name: &str, schema: &Schema) -> anyhow::Result<Option<String>> {
    let keys: Vec<String> = schema.leaves().iter().map(|path| variable(path)).collect();
    let bare = |name: &str| name.replace('_', "");
    let given = bare(name);
    // A table's name stands for the first of its keys.
    let meant = keys.iter().find(|key| bare(key) == given);
    let meant =
        meant.or_else(|| keys.iter().find(|key| key.rsplit_once("__").is_some_and(|(table, _)| bare(table) == given)));
    if let Some(meant) = meant {
        bail!("the environment variable {name} sets nothing: levels are parted by two underscores, as in {meant}");
    }
    let known = known();
    let near = nearest(name, keys.iter().chain(&known).map(String::as_str));
    Ok(Some(match near {
        Some(near) => format!("nobody reads the environment variable {name}; did you mean {near}?"),
        None => format!("nobody reads the environment variable {name}; docs/config.md says how keys are spelled"),
    }))
}

/// The variable of a key.
fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

fn is_known(name: &str) -> bool {
    known().iter().any(|known| known == name)
}

/// The variables that commands and the loader read.
fn known() -> Vec<String> {
    let mut names: Vec<String> = OF_THE_LOADER.map(str::to_owned).into();
    of_flags(&crate::cli::Cli::command(), &mut names);
    names
}

fn of_flags(command: &clap::Command, names: &mut Vec<String>) {
    names.extend(command.get_arguments().filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned)));
    command.get_subcommands().for_each(|command| of_flags(command, names));
}

/// Recognises the variables that Kubernetes makes for a Service whose name begins with ours.
fn is_of_a_service(rest: &str) -> bool {
    let of_port = |(_, end): (&str, &str)| end.is_empty() || end.starts_with('_');
    rest.ends_with("SERVICE_HOST")
        || rest.split_once("SERVICE_PORT").is_some_and(of_port)
        || rest.rsplit_once("PORT_").is_some_and(|(_, end)| end.starts_with(|char: char| char.is_ascii_digit()))
        || rest == "PORT"
        || rest.ends_with("_PORT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn read_one(name: &str) -> anyhow::Result<Read> {
        read([(name.into(), "x".into())].into_iter(), &Schema::of_config())
    }

    #[test]
    fn a_key_with_one_underscore_is_refused_with_its_right_name() {
        for (given, meant) in [
            ("FOREBAY_ROUTER_LISTEN", "FOREBAY_ROUTER__LISTEN__ADDRESS"),
            ("FOREBAY_ROUTER_LISTEN_ADDRESS", "FOREBAY_ROUTER__LISTEN__ADDRESS"),
            ("FOREBAY_WORKER_API_KEY", "FOREBAY_WORKER__API_KEY"),
            ("FOREBAY_TELEMETRY_LOG_FILTER", "FOREBAY_TELEMETRY__LOG_FILTER"),
        ] {
            let told = read_one(given).expect_err(given).to_string();
            assert!(told.contains(given) && told.contains(meant), "{told}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_one() {
        for (given, near) in
            [("FOREBAY_CONFG", "FOREBAY_CONFIG"), ("FOREBAY_CASHE", "FOREBAY_CACHE"), ("FOREBAY_XYZZY_PLUGH", "")]
        {
            let warnings = read_one(given).expect("a warning").warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(given) && warnings[0].contains(near), "{warnings:?}");
        }
    }

    #[test]
    fn known_names_and_those_of_services_are_let_be() {
        for name in [
            "FOREBAY_CONFIG",
            "FOREBAY_LOG",
            "FOREBAY_URL",
            "FOREBAY_API_KEY",
            "FOREBAY_CACHE",
            "FOREBAY_SERVICE_HOST",
            "FOREBAY_SERVICE_PORT",
            "FOREBAY_SERVICE_PORT_HTTP",
            "FOREBAY_PORT",
            "FOREBAY_PORT_80_TCP_ADDR",
            "FOREBAY_WORKER_PORT_8081_TCP",
            "FOREBAYS_OWN",
            "PATH",
        ] {
            let read = read_one(name).expect(name);
            assert!(read.warnings.is_empty() && read.settings.is_empty(), "{name}: {read:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_in_ours_and_nothing_in_others() {
        let bytes = || OsString::from_vec(vec![0xff, 0xfe]);
        let pairs = [("OTHER".into(), bytes()), (bytes(), "x".into()), ("FOREBAY_".into(), bytes())];
        assert!(read(pairs.into_iter(), &Schema::of_config()).is_ok());
        let told = read([("FOREBAY_WORKER__BACKEND".into(), bytes())].into_iter(), &Schema::of_config());
        assert!(told.expect_err("refused").to_string().contains("FOREBAY_WORKER__BACKEND"));
    }
}
