"""The worked exchange of docs/protocol.md, section 9, read from the page."""

import pathlib
import re
from dataclasses import dataclass

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/protocol.md"


@dataclass(frozen=True)
class Step:
    title: str
    binary: bytes
    json: str

    @property
    def from_client(self):
        return ">" in self.title


def steps():
    section = PAGE.read_text(encoding="utf-8").split("\n## 9.")[1]
    block = section.split("```text\n")[1].split("```")[0]
    out = []
    for part in block.strip().split("\n\n"):
        title, *hexadecimal, text = part.split("\n")
        assert all(re.fullmatch(r"[0-9a-f]+", line) for line in hexadecimal) and text.startswith("{"), part
        out.append(Step(title, bytes.fromhex("".join(hexadecimal)), text))
    return out
