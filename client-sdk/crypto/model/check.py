"""Runs the symbolic models and compares every query's outcome with what is expected of it.

    python3 client-sdk/crypto/model/check.py

Needs Python 3.11 or later and cargo; Verifpal is built once, at the version below, into a cache folder (a few minutes).
Exit status: 0 all as expected, 1 an outcome differs, 2 the tool could not be had or a run did not end in time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOL_VERSION = "1.6.7"
BUILD_SECONDS, TOTAL_SECONDS, WORKERS = 1_200, 120, 2
FOLDER = Path(__file__).parent


class Unusable(Exception):
    """The tool cannot be had, or an expectation does not fit its model."""


def tool() -> Path:
    """The pinned Verifpal, installed with cargo if the cache does not hold it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kith" / f"verifpal-{TOOL_VERSION}"
    program = cache / "bin" / "verifpal"
    if not program.exists():
        print(f"building Verifpal {TOOL_VERSION} into {cache}", flush=True)
        # It declares a newer compiler than ours but builds with ours, hence --ignore-rust-version.
        command = ["cargo", "install", "verifpal", "--version", f"={TOOL_VERSION}", "--locked", "--ignore-rust-version",
                   "--root", str(cache)]
        try:
            subprocess.run(command, check=True, timeout=BUILD_SECONDS, cwd=FOLDER)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unusable(f"Verifpal {TOOL_VERSION} could not be built: {error}") from None
    found = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout.split()
    if found != ["verifpal", TOOL_VERSION]:
        raise Unusable(f"{program} is not Verifpal {TOOL_VERSION}")
    return program


def changed(case: dict) -> str:
    """The model's text with the case's changes made, each of which must fit exactly once."""
    text = (FOLDER / case["model"]).read_text()
    for old, new in case.get("changes", []):
        if text.count(old) != 1:
            raise Unusable(f"{case['name']}: {old!r} stands {text.count(old)} times in {case['model']}")
        text = text.replace(old, new)
    return text


def run(program: Path, folder: Path, case: dict, deadline: float) -> tuple[dict, str, float]:
    """The case, its result code (or why there is none) and the seconds it took."""
    began = time.monotonic()
    path = folder / f"{case['name']}.vp"
    path.write_text(changed(case))
    command = [program, "verify", path, "--sessions", str(case["sessions"]), "--result-code", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, deadline - began))
    except subprocess.TimeoutExpired:
        return case, "no answer in time", time.monotonic() - began
    lines = done.stdout.split()
    outcome = lines[-1] if done.returncode == 0 and lines else f"failed: {(done.stderr or done.stdout).strip()}"
    return case, outcome, time.monotonic() - began


def main() -> int:
    cases = json.loads((FOLDER / "expectations.json").read_text())["cases"]
    try:
        program = tool()
        for case in cases:
            changed(case)
    except Unusable as error:
        print(error)
        return 2
    deadline, worst = time.monotonic() + TOTAL_SECONDS, 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        for case, outcome, seconds in pool.map(lambda case: run(program, Path(folder), case, deadline), cases):
            good = outcome == case["expect"]
            print(f"{'ok  ' if good else 'FAIL'} {case['name']:<34} {outcome:<20} {seconds:5.1f} s  {case['says']}", flush=True)
            if not good:
                print(f"     expected {case['expect']}")
                worst = max(worst, 1 if outcome[:1] in "ca" and " " not in outcome else 2)
    return worst


if __name__ == "__main__":
    sys.exit(main())
