"""Every relative link of the documentation, and every anchor in it, resolves."""

import re
import subprocess
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
CODE = re.compile(r"(?ms)^(```|~~~).*?^\1|`[^`\n]*`")


def pages() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.+?) *#*$", re.sub(r"(?ms)^```.*?^```", "", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{number}" if number else name)
    return found | set(re.findall(r"<a (?:name|id)=\"([^\"]+)\"", text))


@pytest.mark.parametrize("page", pages())
def test_links_and_anchors_resolve(page: str) -> None:
    path = ROOT / page
    broken = []
    for link in LINK.findall(CODE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = urllib.parse.unquote(link).partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_anchors_are_those_of_github() -> None:
    text = "# A `b` & c!\n## A [link](x.md)\n## A link\n```\n# no heading\n```\n"
    assert anchors(text) == {"a-b--c", "a-link", "a-link-1"}
