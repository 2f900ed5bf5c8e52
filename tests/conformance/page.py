"""What docs/protocol.md itself holds: the worked exchange of section 9 and the table of codes of section 8."""

import pathlib
import re
from dataclasses import dataclass

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")


def section(number):
    return TEXT.split(f"\n## {number}.")[1].split("\n## ")[0]


@dataclass(frozen=True)
class Code:
    number: int
    status: int | None  # of a REST answer
    retry: str | None  # never, same, after, refresh; None for what comes in Goodbye only


def _codes():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| (\d+|–) \| (\w+|–) \|", section(8), re.M)
    return {name: Code(int(number), None if status == "–" else int(status), None if retry == "–" else retry) for name, number, status, retry in rows}


CODES = _codes()


@dataclass(frozen=True)
class Step:
    title: str
    binary: bytes
    json: str

    @property
    def from_client(self):
        return ">" in self.title


def steps():
    block = section(9).split("```text\n")[1].split("```")[0]
    out = []
    for part in block.strip().split("\n\n"):
        title, *hexadecimal, text = part.split("\n")
        assert all(re.fullmatch(r"[0-9a-f]+", line) for line in hexadecimal) and text.startswith("{"), part
        out.append(Step(title, bytes.fromhex("".join(hexadecimal)), text))
    return out
