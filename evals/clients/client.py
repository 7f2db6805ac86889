"""What engines do with the hub's clients, done through `forebay node` before a hub of the fault origin.

  client.py FOREBAY ORIGIN FIXTURES SCRATCH
"""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

FOREBAY, ORIGIN, FIXTURES, SCRATCH = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
REPOSITORY = "org/tiny"
PATIENCE_S = 60
started = []
checks = 0


def check(claim: str, holds: bool) -> None:
    global checks
    if not holds:
        raise SystemExit(f"huggingface_hub {VERSION}: {claim}: does not hold")
    checks += 1


def start(name: str, command: list, environment: dict) -> tuple[subprocess.Popen, str]:
    """Starts a server and waits for the URL that it says."""
    log = open(SCRATCH / f"{name}.log", "w")
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    started.append(child)
    line = child.stdout.readline()
    words = [word for word in line.split() if word.startswith("http://")]
    if not words:
        raise SystemExit(f"{name} did not start: {(SCRATCH / f'{name}.log').read_text()}")
    return child, words[0]


def stop(child: subprocess.Popen) -> None:
    child.terminate()
    child.wait(PATIENCE_S)


def read(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def repository() -> dict[str, bytes]:
    """A sharded model with its tokenizer, as it is published."""
    folder = SCRATCH / "hub" / REPOSITORY
    shutil.copytree(FIXTURES / "llama_sharded", folder)
    shutil.copy(FIXTURES / "tokenizers/bpe_small/tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "README.md").write_text("# tiny\n")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(bytes(range(1, 256)) * 400)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plain(environment: dict) -> dict:
    keep = {name: value for name, value in environment.items() if not name.startswith(("HF_", "FOREBAY_", "HUGGING"))}
    return keep | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def fresh(name: str) -> Path:
    """A client's cache that holds nothing."""
    return SCRATCH / "clients" / name


def same(folder: str, files: dict[str, bytes]) -> bool:
    return all((Path(folder) / name).read_bytes() == content for name, content in files.items())


def downloads(files: dict[str, bytes], origin: str) -> None:
    folder = hub.snapshot_download(REPOSITORY, cache_dir=fresh("first"))
    check("a snapshot is what the hub has", same(folder, files))
    sent = read(f"{origin}/__origin/account")["bytes_sent"]
    again = hub.snapshot_download(REPOSITORY, cache_dir=fresh("second"))
    check("a second snapshot is, too", same(again, files))
    check("and costs the hub no bytes", read(f"{origin}/__origin/account")["bytes_sent"] == sent)
    commit = hub.HfApi().model_info(REPOSITORY).sha
    check("the snapshot is named by its commit", Path(folder).name == commit)
    shard = "model-00002-of-00004.safetensors"
    pinned = hub.hf_hub_download(REPOSITORY, shard, revision=commit, cache_dir=fresh("pinned"))
    check("a file by its commit is the same", Path(pinned).read_bytes() == files[shard])
    command = [Path(sys.executable).parent / "hf", "download", REPOSITORY, "--local-dir", fresh("command")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    check("`hf download` brings the same", same(fresh("command"), files))


def facts(files: dict[str, bytes]) -> None:
    api = hub.HfApi()
    check("all files are listed", set(api.list_repo_files(REPOSITORY)) == set(files))
    tree = {entry.path: entry.size for entry in api.list_repo_tree(REPOSITORY, recursive=True)}
    check("sizes are listed", tree == {name: len(content) for name, content in files.items()})
    check("a file exists", hub.file_exists(REPOSITORY, "config.json"))
    check("another does not", not hub.file_exists(REPOSITORY, "adapter_config.json"))
    url = hub.hf_hub_url(REPOSITORY, "model-00001-of-00004.safetensors")
    metadata = hub.get_hf_file_metadata(url)
    check("a file's length is true", metadata.size == len(files["model-00001-of-00004.safetensors"]))
    check("its tag is the hub's SHA-256", len(metadata.etag) == 64)
    check("nothing leads to Xet", getattr(metadata, "xet_file_data", None) is None)


def refusals() -> None:
    def refused(claim: str, kind: type, *arguments: str) -> None:
        try:
            hub.hf_hub_download(*arguments, cache_dir=fresh("refused"))
        except kind:
            check(claim, True)
        else:
            check(claim, False)

    errors = hub.errors
    refused("a missing file is one", errors.EntryNotFoundError, REPOSITORY, "nowhere.json")
    refused("a missing repository is one", errors.RepositoryNotFoundError, "org/unknown", "config.json")
    try:
        hub.HfApi().dataset_info("org/data")
    except errors.HfHubHTTPError as error:
        check("datasets are refused by name", "datasets" in str(error) and error.response.status_code == 501)
    else:
        check("datasets are refused by name", False)


def resumed(files: dict[str, bytes]) -> None:
    """A download that broke off goes on where it was."""
    name = "model-00003-of-00004.safetensors"
    metadata = hub.get_hf_file_metadata(hub.hf_hub_url(REPOSITORY, name))
    blobs = fresh("resumed") / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{metadata.etag}.incomplete").write_bytes(files[name][: len(files[name]) // 2])
    path = hub.hf_hub_download(REPOSITORY, name, cache_dir=fresh("resumed"))
    check("a resumed file is whole", Path(path).read_bytes() == files[name])


def gated(folder: Path) -> None:
    """A hub that wants a token of everyone, behind a node that has none."""
    command = [ORIGIN, "--shape", "hf", "--dir", folder, "--require-credentials"]
    origin_process, origin = start("gated-hub", command, plain(os.environ))
    child, url = start("gated-node", [FOREBAY, "node", "--listen", "127.0.0.1:0"], environment("gated", origin))
    api = hub.HfApi(endpoint=url)
    path = api.hf_hub_download(REPOSITORY, "config.json", token="hf_any", cache_dir=fresh("gated"))
    check("a gated file comes with the caller's token", Path(path).is_file())
    try:
        api.hf_hub_download(REPOSITORY, "config.json", token=False, cache_dir=fresh("stranger"))
    except hub.errors.GatedRepoError:
        check("and not without, though it is cached", True)
    else:
        check("and not without, though it is cached", False)
    stop(child)
    stop(origin_process)


def peers(files: dict[str, bytes], origin: str) -> None:
    """Two nodes over mutual TLS: one has the repository, a client of the other gets the weights from there."""
    tls = SCRATCH / "tls"
    subprocess.run([FOREBAY, "peers", "init", tls], check=True, stdout=subprocess.DEVNULL)
    pair = f"certificate_file='{tls}/worker.pem',key_file='{tls}/worker-key.pem'"
    rule = "[{identities=['spiffe://forebay/worker'],tenants=['default']}]"
    giving = ["--peers-listen", "127.0.0.1:0", "--set", f"node.peers.tls={{{pair},client_ca_file='{tls}/ca.pem'}}"]
    giving += ["--set", f"node.peers.rights.allow={rule}"]
    node = [FOREBAY, "node", "--listen", "127.0.0.1:0"]
    giver, giver_url = start("giver", node + giving, environment("giver", origin))
    hub.HfApi(endpoint=giver_url).snapshot_download(REPOSITORY, cache_dir=fresh("giver"))
    end = time.monotonic() + PATIENCE_S
    weights = [len(content) for name, content in files.items() if name.endswith(".safetensors")]
    # Files that are read one by one are offered one by one; the model is the one with all its shards.
    seeding = read(f"{giver_url}/status")["seeding"]
    while not any(root["extents"] >= len(weights) for root in seeding["roots"]):
        if time.monotonic() > end:
            raise SystemExit(f"what a node has is not offered to peers: {seeding}")
        time.sleep(0.1)
        seeding = read(f"{giver_url}/status")["seeding"]
    address = seeding["address"].removeprefix("https://")
    taking = ["--set", f"peers.discovery.static=['{address}']", "--set", f"peers.tls={{{pair},ca_file='{tls}/ca.pem'}}"]
    taker, taker_url = start("taker", node + taking, environment("taker", origin))
    folder = hub.HfApi(endpoint=taker_url).snapshot_download(REPOSITORY, cache_dir=fresh("taker"))
    check("a snapshot through a node that fills from another is what the hub has", same(folder, files))
    brought = lambda: sum(source["bytes"] for source in read(f"{taker_url}/status").get("sources", []))
    # Extents are shown as they are verified; who brought them is noted when the read of them has ended.
    end = time.monotonic() + PATIENCE_S
    while brought() < sum(weights) and time.monotonic() < end:
        time.sleep(0.1)
    check(f"the other node brought every byte of the weights, {brought()} of {sum(weights)}", brought() == sum(weights))
    stop(taker)
    stop(giver)


def transformed() -> None:
    """transformers' own loading of configuration and tokenizer, and the weights as safetensors reads them."""
    try:
        import transformers
    except ImportError:
        return
    from safetensors.numpy import load_file

    os.environ["HF_HUB_CACHE"] = str(fresh("transformers"))
    config = transformers.AutoConfig.from_pretrained(REPOSITORY, cache_dir=fresh("transformers"))
    check("transformers reads the configuration", config.model_type == "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(REPOSITORY, cache_dir=fresh("transformers"))
    check("and the tokenizer", len(tokenizer("hello").input_ids) > 0)
    index = hub.hf_hub_download(REPOSITORY, "model.safetensors.index.json", cache_dir=fresh("transformers"))
    names = json.loads(Path(index).read_text())["weight_map"]
    found = set()
    for shard in sorted(set(names.values())):
        found |= set(load_file(hub.hf_hub_download(REPOSITORY, shard, cache_dir=fresh("transformers"))))
    check("every tensor of the index is there", found == set(names))


def environment(name: str, origin: str) -> dict:
    return plain(os.environ) | {"FOREBAY_CACHE": str(SCRATCH / f"{name}-cache"), "HF_ENDPOINT": origin}


def main() -> None:
    files = repository()
    folder = SCRATCH / "hub"
    origin_process, origin = ORIGIN_AT
    downloads(files, origin)
    facts(files)
    refusals()
    resumed(files)
    peers(files, origin)
    transformed()
    gated(folder)
    stop(origin_process)
    away = hub.snapshot_download(REPOSITORY, cache_dir=fresh("away"))
    check("with the hub gone, a new client gets everything from the node", same(away, files))
    print(f"huggingface_hub {VERSION}: {checks} passed, 0 failed")


SCRATCH.mkdir(parents=True)
(SCRATCH / "hub").mkdir()
try:
    ORIGIN_AT = start("hub", [ORIGIN, "--shape", "hf", "--dir", SCRATCH / "hub"], plain(os.environ))
    NODE, URL = start("node", [FOREBAY, "node", "--listen", "127.0.0.1:0"], environment("node", ORIGIN_AT[1]))
    # Before the client is imported: it reads its environment once.
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ |= {"HF_ENDPOINT": URL, "HF_HOME": str(SCRATCH / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    import huggingface_hub as hub

    VERSION = hub.__version__
    main()
finally:
    for child in started:
        if child.poll() is None:
            stop(child)
