"""What comparing two commits takes: binaries of both, rounds in turn, medians and ratios. It measures nothing itself."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments(description):
    """A parser with what every comparison takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--old-binary", type=Path)
    parser.add_argument("--new-binary", type=Path)
    return parser


def binaries(args, scratch, target, output):
    """The binary of each side: a given one, or built of its commit by `cargo build` with the arguments `target`."""
    given = {"old": (args.old_binary, args.old), "new": (args.new_binary, args.new)}
    return {side: binary or build(commit, scratch, target, output) for side, (binary, commit) in given.items()}


def build(commit, scratch, target, output):
    """Builds a program of a commit, once in a scratch folder."""
    command = ["git", "-C", ROOT, "rev-parse", "--verify", f"{commit}^{{commit}}"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    binary, tree = scratch / f"{Path(output).name}-{commit[:12]}", scratch / "tree"
    if binary.exists():
        return binary
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", "--force", tree, commit], check=True)
    try:
        environment = os.environ | {"CARGO_TARGET_DIR": str(scratch / "target")}
        subprocess.run(["cargo", "build", "--quiet", "--release", *target], cwd=tree, env=environment, check=True)
        shutil.copy2(scratch / "target/release" / output, binary)
        return binary
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def run_first():
    """Puts this process and its children before all others, in an autogroup of their own."""
    if os.fork():  # A leader of a process group cannot begin a session.
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    os.setsid()
    Path("/proc/self/autogroup").write_text("-20")


def in_turn(rounds, measure):
    """The figures of both sides in each round: `measure(side)` gives them by name."""
    taken = []
    for number in range(rounds):
        # The side that goes first changes, so that neither always finds the caches warm.
        order = ["old", "new"] if number % 2 == 0 else ["new", "old"]
        found = {side: measure(side) for side in order}
        taken.append(found)
        first = next(iter(found["old"]))
        print(f"round {number + 1}: {first}:", {side: round(found[side][first], 2) for side in ("old", "new")}, flush=True)
    return taken


def report(args, taken, ratio_name=lambda figure: f"{figure}_new_over_old"):
    """Prints the medians, the median of the rounds' ratios, and as the last line one JSON object of those."""
    print(f"\n{processor()}; {args.old} against {args.new}; medians of {args.rounds} rounds")
    ratios = {}
    for figure in taken[0]["old"]:
        medians = [statistics.median(found[side][figure] for found in taken) for side in ("old", "new")]
        ratio = statistics.median(found["new"][figure] / found["old"][figure] for found in taken)
        ratios[ratio_name(figure)] = round(ratio, 4)
        print(f"{figure:24} old {medians[0]:9.2f}  new {medians[1]:9.2f}  new / old {ratio:.3f}")
    print(json.dumps(ratios))


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    family = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{family.get('model name')} (family {family.get('cpu family')}, model {family.get('model')})"
