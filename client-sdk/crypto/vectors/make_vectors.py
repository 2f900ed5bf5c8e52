"""Writes the test vectors of the encryption specification beside itself; two runs give the same bytes.

    python -m venv /tmp/vectors && /tmp/vectors/bin/pip install -r requirements.txt && /tmp/vectors/bin/python make_vectors.py

With `--check` it writes nothing and fails if a file differs from what it would write.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import identity_cases
import messages_cases
import pqxdh_cases
import ratchet_cases

VERSION = 1
CHECKED_AGAINST = {"X3DH": "1.3.0", "DoubleRatchet": "1.3.0", "kyber-py": "1.2.0", "cryptography": "50.0.2"}
FILES = {
    "pqxdh.json": (pqxdh_cases.cases, "written from the specification; classical part equal to X3DH 1.3.0; "
                   "ML-KEM-768 by kyber-py 1.2.0, equal to cryptography 50.0.2"),
    "ratchet.json": (ratchet_cases.cases, "written from the specification; cases with checked_by_package equal, byte for "
                     "byte, to DoubleRatchet 1.3.0"),
    "messages.json": (messages_cases.cases, "written from the specification"),
    "identity.json": (identity_cases.cases, "written from the specification; signatures by cryptography 50.0.2, strict "
                      "verification over plain integers"),
}


def plain(value):
    """Bytes as lower-case hex, everything else as JSON has it."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def render(cases, source) -> str:
    """One case per line, so that a change shows as the cases it touches."""
    lines = ",\n".join(json.dumps(plain(case), separators=(",", ":"), ensure_ascii=True) for case in cases)
    return f'{{"version":{VERSION},"source":{json.dumps(source)},"cases":[\n{lines}\n]}}\n'


def main() -> int:
    for package, wanted in CHECKED_AGAINST.items():
        if version(package) != wanted:
            print(f"{package} is {version(package)}, not {wanted}: install requirements.txt")
            return 1
    different = []
    for name, (make, source) in FILES.items():
        made, path = render(make(), source), Path(__file__).parent / name
        if "--check" not in sys.argv[1:]:
            path.write_text(made)
        elif not path.exists() or path.read_text() != made:
            different.append(name)
    if different:
        print("differ from what would be written: " + ", ".join(different))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
