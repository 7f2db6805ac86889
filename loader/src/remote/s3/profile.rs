//! The AWS tools' shared files, as much of them as names credentials: `~/.aws/credentials` and
//! `~/.aws/config`. Reads files; knows no network.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::remote::Env;

/// The most read of a shared file: thousands of profiles.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Settings that mean credentials we do not know how to get.
const UNKNOWN_WAYS: [&str; 5] =
    ["credential_process", "sso_session", "sso_start_url", "source_profile", "credential_source"];

/// One profile of both files.
#[derive(Default)]
pub(super) struct Profile {
    name: String,
    settings: BTreeMap<String, String>,
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<String>,
}

/// Credentials as a profile names them.
pub(super) enum Credentials {
    /// Long-lived or temporary keys.
    Keys { key_id: String, secret: String, token: Option<String> },
    /// A role assumed with a token in a file.
    WebIdentity { token_file: String, role_arn: String },
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or `default`; none if there is none by default.
    ///
    /// # Errors
    /// The named profile is in neither file, or a file cannot be read.
    pub(super) fn read(env: &Env) -> Result<Option<Self>, String> {
        let named = env.get("AWS_PROFILE").or_else(|| env.get("AWS_DEFAULT_PROFILE"));
        let name = named.unwrap_or("default");
        let of = |variable: &str, file: &str| {
            env.path(variable).or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".aws").join(file)))
        };
        let config = section(of("AWS_CONFIG_FILE", "config"), &[&format!("profile {name}"), name])?;
        let credentials = section(of("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &[name])?;
        if config.is_none() && credentials.is_none() {
            return match named {
                Some(name) => {
                    Err(format!("AWS_PROFILE names `{name}`, which is in neither ~/.aws/config nor ~/.aws/credentials"))
                }
                None => Ok(None),
            };
        }
        let mut settings = config.unwrap_or_default();
        settings.extend(credentials.unwrap_or_default());
        let [region, endpoint_url] = ["region", "endpoint_url"].map(|key| settings.get(key).cloned());
        Ok(Some(Self { name: name.to_owned(), settings, region, endpoint_url }))
    }

    /// The credentials of the profile, if any.
    ///
    /// # Errors
    /// It names a way to get them that only the AWS tools know.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, String> {
        let setting = |key: &str| self.settings.get(key).cloned();
        if let (Some(key_id), Some(secret)) = (setting("aws_access_key_id"), setting("aws_secret_access_key")) {
            return Ok(Some(Credentials::Keys { key_id, secret, token: setting("aws_session_token") }));
        }
        if let (Some(token_file), Some(role_arn)) = (setting("web_identity_token_file"), setting("role_arn")) {
            return Ok(Some(Credentials::WebIdentity { token_file, role_arn }));
        }
        match UNKNOWN_WAYS.iter().find(|way| self.settings.contains_key(**way)) {
            Some(way) => Err(format!(
                "profile `{name}` gets its credentials by {way}, which only the AWS tools can do; run \
                 `aws configure export-credentials --profile {name} --format env` and set what it prints",
                name = self.name
            )),
            None => Ok(None),
        }
    }
}

/// The first of `names` in a file of `[section]` and `key = value` lines; none if there is no file.
fn section(path: Option<PathBuf>, names: &[&str]) -> Result<Option<BTreeMap<String, String>>, String> {
    let Some(path) = path else { return Ok(None) };
    let problem = |error: std::io::Error| format!("reading {}: {error}", path.display());
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => return Err(format!("{} is too long to be read", path.display())),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error)),
    }
    let text = std::fs::read_to_string(&path).map_err(problem)?;
    Ok(names.iter().find_map(|name| settings(&text, name)))
}

fn settings(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(title, _)| title) {
            inside = title.split_whitespace().eq(name.split_whitespace());
            if inside {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if let (true, false, Some((key, value))) = (inside, is_nested, line.split_once('=')) {
            found.get_or_insert_with(BTreeMap::new).insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    const CONFIG: &str = "# a comment\n[default]\nregion=eu-north-1\n\n[profile  work]\ns3 =\n  max_queue_size = 3\n\
                          role_arn = arn:x\nweb_identity_token_file = /token\n[profile sso]\nsso_session = corp\n";

    fn env_of(folder: &tempfile::TempDir, profile: &'static str) -> Env {
        let config = folder.path().join("config");
        std::fs::write(&config, CONFIG).unwrap();
        let credentials = folder.path().join("credentials");
        std::fs::write(&credentials, "[default]\naws_access_key_id = K\naws_secret_access_key=a=b\n").unwrap();
        let [config, credentials] = [config, credentials].map(|path| path.to_str().unwrap().to_owned());
        let pairs = [
            ("AWS_CONFIG_FILE", config.as_str()),
            ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
            ("AWS_PROFILE", profile),
        ];
        Env::from_pairs(pairs)
    }

    #[test]
    fn both_files_make_one_profile() {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile::read(&env_of(&folder, "")).unwrap().unwrap();
        assert_eq!(profile.region.as_deref(), Some("eu-north-1"));
        let Some(Credentials::Keys { key_id, secret, token: None }) = profile.credentials().unwrap() else {
            panic!("keys are in the file");
        };
        assert_eq!((key_id.as_str(), secret.as_str()), ("K", "a=b"));
    }

    #[test]
    fn a_named_profile_may_assume_a_role() {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile::read(&env_of(&folder, "work")).unwrap().unwrap();
        assert!(matches!(profile.credentials().unwrap(), Some(Credentials::WebIdentity { .. })));
        assert!(!profile.settings.contains_key("max_queue_size"));
    }

    #[test]
    fn ways_that_only_the_tools_know_are_refused_with_the_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let problem = Profile::read(&env_of(&folder, "sso")).unwrap().unwrap().credentials().err().unwrap();
        assert!(problem.contains("export-credentials --profile sso"), "{problem}");
        assert!(Profile::read(&env_of(&folder, "other")).err().unwrap().contains("`other`"));
    }
}
