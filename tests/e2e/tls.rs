//! `forebay peers init`, and a fleet under its certificates.

use crate::client::chat_body;
use crate::process::{Server, eventually, forebay, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

/// The answer to one request over TLS, as curl would ask with `--cacert` and, where `shown` names one, `--cert`.
fn ask(url: &str, dir: &Path, shown: Option<&str>, request: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(role) => {
            let certificate = CertificateDer::from_pem_file(dir.join(format!("{role}.pem"))).expect("PEM");
            let key = PrivateKeyDer::from_pem_file(dir.join(format!("{role}-key.pem"))).expect("a key");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
    };
    let address = url.strip_prefix("https://").expect("an https URL");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
}

fn chat() -> String {
    let body = chat_body("Hello", r#","max_tokens":4"#);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The files of a fresh directory, as flags take them.
pub(crate) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let made = run(&["peers", "init", dir.path().join("tls").to_str().expect("text")]);
        assert!(made.status.success(), "{}", text(&made));
        Self { dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("tls")
    }

    pub(crate) fn of(&self, name: &str) -> String {
        self.path().join(name).to_str().expect("text").to_owned()
    }

    fn listener(&self, role: &str) -> Vec<String> {
        let key = format!("{role}-key.pem");
        vec!["--ssl-certfile".into(), self.of(&format!("{role}.pem")), "--ssl-keyfile".into(), self.of(&key)]
    }
}

fn start(args: &[&str], more: &[String]) -> Server {
    let args: Vec<&str> = args.iter().copied().chain(more.iter().map(String::as_str)).collect();
    Server::start(&args)
}

#[test]
fn a_fleet_speaks_mutual_tls_with_the_certificates_of_peers_init() {
    let files = Files::make();
    let dir = files.path();
    let mut of_worker = files.listener("worker");
    of_worker.extend(["--ssl-ca-certs".to_owned(), files.of("ca.pem")]);
    let worker = start(&["worker", "demo"], &of_worker);
    assert!(worker.url.starts_with("https://"), "{}", worker.url);
    let mut of_router = files.listener("router");
    let to_worker = ["--worker-cacert", "ca.pem", "--worker-cert", "router.pem", "--worker-key", "router-key.pem"];
    of_router.extend(to_worker.map(|word| if word.starts_with("--") { word.to_owned() } else { files.of(word) }));
    let router = start(&["router", "--worker", &worker.url], &of_router);
    eventually("ready", || ask(&router.url, &dir, None, &get("/readyz")).is_ok_and(|answer| answer.contains(" 200 ")));
    let answer = ask(&router.url, &dir, None, &chat()).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("chat.completion"), "{answer}");

    // The worker takes nobody without a certificate, not even for its health.
    for path in ["/livez", "/v1/models"] {
        assert!(ask(&worker.url, &dir, None, &get(path)).is_err(), "{path}");
    }
    let answer = ask(&worker.url, &dir, Some("router"), &get("/v1/models")).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // A router without one has no worker, and one that trusts other authorities neither.
    let other = Files::make();
    for more in [
        vec!["--worker-cacert".to_owned(), files.of("ca.pem")],
        vec![
            "--worker-cacert".to_owned(),
            other.of("ca.pem"),
            "--worker-cert".to_owned(),
            files.of("router.pem"),
            "--worker-key".to_owned(),
            files.of("router-key.pem"),
        ],
    ] {
        let refused = start(&["router", "--worker", &worker.url], &more);
        let ready = ureq::get(format!("{}/readyz", refused.url)).call();
        assert!(matches!(ready, Err(ureq::Error::StatusCode(503))), "{ready:?}");
    }

    // The terminal's commands speak it, too.
    let load = ["eval", "load", &router.url, "--rate", "20", "--duration", "300ms", "--max-tokens", "2", "--json"];
    let load = |ca: &Files| run(&[&load[..], &["--cacert", &ca.of("ca.pem")]].concat());
    let (trusting, doubting) = (load(&files), load(&other));
    assert!(text(&trusting).contains("\"ok\":"), "{}", text(&trusting));
    assert!(!trusting.stdout.is_empty() && doubting.status.code() == Some(1), "{}", text(&doubting));
    assert!(text(&doubting).contains("certificate"), "{}", text(&doubting));
    let models = run(&["models", "--url", &router.url, "--cacert", &files.of("ca.pem")]);
    assert!(models.status.success() && text(&models).contains("demo"), "{}", text(&models));
    let models = run(&["models", "--url", &router.url, "--cacert", &other.of("ca.pem")]);
    assert_eq!(models.status.code(), Some(1), "{}", text(&models));
    let shown = ["--cert".to_owned(), files.of("router.pem"), "--key".to_owned(), files.of("router-key.pem")];
    let args: Vec<&str> = ["models", "--url", &worker.url, "--cacert"].into_iter().collect();
    let models = forebay().args(args).arg(files.of("ca.pem")).args(&shown).output().expect("runs");
    assert!(models.status.success(), "{}", text(&models));

    let plain = ureq::get(format!("http://{}/v1/models", router.url.trim_start_matches("https://"))).call();
    assert!(matches!(plain, Err(ureq::Error::StatusCode(400))), "{plain:?}");
}

#[test]
fn serve_speaks_tls_to_clients_alone() {
    let files = Files::make();
    let server = start(&["serve"], &files.listener("router"));
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let answer = ask(&server.url, &files.path(), None, &chat()).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn peers_init_writes_for_its_owner_alone_and_overwrites_nothing() {
    let files = Files::make();
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(files.path()).expect("reads").flatten() {
        assert_eq!(entry.metadata().expect("facts").permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().expect("text"));
    }
    names.sort();
    let expected = [
        "ca-key.pem",
        "ca.pem",
        "capability-issuer.pem",
        "capability-key.pem",
        "router-key.pem",
        "router.pem",
        "worker-key.pem",
        "worker.pem",
    ];
    assert_eq!(names, expected);
    let before = std::fs::read(files.path().join("ca.pem")).expect("reads");
    let again = run(&["peers", "init", files.path().to_str().expect("text")]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("not overwritten"), "{}", text(&again));
    assert_eq!(std::fs::read(files.path().join("ca.pem")).expect("reads"), before);
    let wrong = run(&["peers", "init", files.of("more").as_str(), "--name", "http://x"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
    assert!(!files.path().join("more").exists(), "nothing is made for a wrong name");
}

#[test]
fn files_that_do_not_fit_together_are_said_at_the_start() {
    let files = Files::make();
    let of = |certificate: &str, key: &str| {
        run(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--ssl-certfile",
            &files.of(certificate),
            "--ssl-keyfile",
            &files.of(key),
        ])
    };
    for (certificate, key, word) in [
        ("router.pem", "worker-key.pem", "worker-key.pem"),
        ("absent.pem", "router-key.pem", "absent.pem"),
        ("router-key.pem", "router-key.pem", "no certificate"),
    ] {
        let refused = of(certificate, key);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains(word) && !text(&refused).contains("BEGIN"), "{}", text(&refused));
    }
    let lonely = run(&["serve", "--ssl-certfile", &files.of("router.pem")]);
    assert_eq!(lonely.status.code(), Some(2), "{}", text(&lonely));
}

#[test]
fn a_worker_gives_its_weights_to_peers_that_a_rule_names() {
    let files = Files::make();
    let model = files.dir.path().join("model").to_str().expect("text").to_owned();
    for args in
        [&["synth-model", "--arch", "qwen3", "--size", "tiny", "--out", &model][..], &["manifest", &model, "--write"]]
    {
        let made = run(args);
        assert!(made.status.success(), "{}", text(&made));
    }
    let mut args: Vec<String> =
        ["worker", &format!("m={model}"), "--peers-listen", "127.0.0.1:0"].map(str::to_owned).into();
    for (key, value) in [
        ("tls.certificate_file", files.of("worker.pem")),
        ("tls.key_file", files.of("worker-key.pem")),
        ("tls.client_ca_file", files.of("ca.pem")),
        ("rights.allow", r#"[{identities=["spiffe://forebay/router"],tenants=["default"]}]"#.to_owned()),
    ] {
        args.extend(["--set".to_owned(), format!("worker.peers.{key}={value}")]);
    }
    let worker = Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let seeding = || crate::client::get(&format!("{}/status", worker.url)).json()["seeding"].clone();
    eventually("it is offered", || seeding()["roots"][0]["is_loading"] == false);
    let (seeding, dir) = (seeding(), files.path());
    let root = seeding["roots"][0]["root"].as_str().expect("a root").to_owned();
    assert_eq!(seeding["roots"][0]["proof"], "proven");
    let address = seeding["address"].as_str().expect("a URL");
    let path = format!("/weights/{}/manifest", root.trim_start_matches("blake3:"));
    let answer = ask(address, &dir, Some("router"), &get(&path)).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&root), "{answer}");
    let outsider = ask(address, &dir, Some("worker"), &get(&path)).expect("an answer");
    assert!(outsider.starts_with("HTTP/1.1 404"), "{outsider}");
    assert!(ask(address, &dir, None, &get(&path)).is_err(), "without a certificate");
    eventually("the metrics tell of it", || {
        let metrics = crate::client::get(&format!("{}/metrics", worker.url)).text;
        metrics.contains("forebay_seeding_models 1") && metrics.contains("code=\"404\"} 1")
    });
}
