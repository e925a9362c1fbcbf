"""A prompt set from a user's own copy of a published release, whose wording is not ours to ship.

DiagCoT: github.com/TMLSIAT/DiagCoT-main; CX-Mind: github.com/SII-WenjieLisjtu/CX-Mind. Python files are parsed, never run:
templates are found by the names of the variables that hold them, and their `{}` are filled in the order of the release's
own calls of `format`. JSON layouts are cut off, because ours are enforced or added by the search.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diagcot.jobs import UserError

_SEARCH = "search_for_complex_reasoning_path*.py"
_JUDGE = "extract_cot_data*report*.py"
_SEARCH_PROMPTS = {  # our prompt -> the release's variable, and what its `{}` are filled with in their order
    "init": ("query_prompt_init", ("reference",)),
    "verify": ("verify_prompt", ("conclusion", "reference")),
    "label": ("gen_prompt_w_label", ("thinking", "reference")),
    "rewrite": ("reformat_to_complex_cot_prompt", ("thinking",)),
    "final": ("get_final_response_prompt", ("reasoning", "reference")),
}
_STRATEGIES = {
    "new_paths": "gen_prompt_rethink_Exploring_New_Path",
    "verification": "gen_prompt_rethink_Verification",
    "correction": "gen_prompt_rethink_Correction",
    "backtracking": "gen_prompt_rethink_Backtracking",
}
_REQUESTS = {  # our prompt -> the script whose dictionary has it under the key `prompt`
    "report": "convert_medical_dataset.py",
    "classification": "convert_chxpert_dataset.py",
    "grounding": "convert_grounding_dataset.py",
}
_INSTRUCTIONS = {  # task -> the template of EasyR1 that appends the format instruction
    "diagcot": {
        "report": "medical_spine_report_format.jinja",
        "classification": "medical_chxpert_cls_format.jinja",
        "grounding": "medical_grounding_format.jinja",
    },
    "cx-mind": {"open": "open.jinja"},
}
_HEAD = "{{ '<image>' * images }}{% if question %}Question: {{ question }}\n{% endif %}"
_JSON = ("init", "rethink", "label", "final")  # replies that the search reads as JSON


@dataclass
class Import:
    """What a release has: the texts of a prompt set by name, and what was found, changed or missing, in lines."""

    release: str
    texts: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_release(clone: Path) -> Import:
    """The prompts of a release. Raises UserError if the folder is not a copy of DiagCoT or CX-Mind."""
    if any(clone.rglob(_SEARCH)):
        return _diagcot(clone)
    if any(clone.rglob("closeQA*.py")) and any(clone.rglob("open.jinja")):
        found = Import("cx-mind")
        _instructions(found, clone)
        found.missing.append("the prompts that made its traces: they are not published")
        return found
    raise UserError(
        f"{clone} is no copy of DiagCoT (it has no {_SEARCH}) or of CX-Mind (it has no closeQA*.py with open.jinja): clone"
        " github.com/TMLSIAT/DiagCoT-main or github.com/SII-WenjieLisjtu/CX-Mind and name that folder"
    )


def write_set(found: Import, folder: Path, force: bool = False) -> list[Path]:
    """Write the texts and `set.yaml`; what the release lacks comes from the default set. Returns the files.

    Raises UserError, before anything is written, if one of them exists and `force` is false.
    """
    about = (
        f"name: {folder.name}\nversion: 1\ndescription: Imported from a copy of the release of {found.release}.\n"
        f"extends: default\nanswers: {'diagcot' if found.release == 'diagcot' else 'default'}\n"
    )
    files = {folder / f"{name}.j2": f"{text}\n" for name, text in found.texts.items()} | {folder / "set.yaml": about}
    there = [path.name for path in files if path.exists()]
    if there and not force:
        raise UserError(f"{folder} has {', '.join(sorted(there))} already: name another folder, or add --force")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return sorted(files)


def _diagcot(clone: Path) -> Import:
    found = Import("diagcot")
    path = sorted(clone.rglob(_SEARCH))[0]
    constants = dict(_constants(path))
    found.texts["head"] = _HEAD
    for name, (variable, fills) in _SEARCH_PROMPTS.items():
        if variable in constants:
            found.texts[name] = _prompt(found, name, variable, constants[variable], fills)
        else:
            found.missing.append(f"{name}: no {variable} in {path.name}")
    branches = {
        strategy: _prompt(found, "rethink", variable, constants[variable], ("reference", "thinking"))
        for strategy, variable in _STRATEGIES.items()
        if variable in constants
    }
    if len(branches) == len(_STRATEGIES):
        found.texts["rethink"] = _branches("strategy", branches)
    else:
        absent = [variable for variable in _STRATEGIES.values() if variable not in constants]
        found.missing.append(f"rethink: no {', '.join(absent)} in {path.name}")
    _judge(found, clone)
    for name, script in _REQUESTS.items():
        text = _first(clone, script, _request)
        if text is None:
            found.missing.append(f"{name}: no text of the key `prompt` in {script}")
        else:
            found.texts[name] = f"<image>{_escaped(text.replace('<image>', '').strip())}"
            found.lines.append(f"{name}: `prompt` of {script}")
    _instructions(found, clone)
    return found


def _prompt(found: Import, name: str, variable: str, text: str, fills: tuple[str, ...]) -> str:
    parts = text.split("{}")
    if len(parts) != len(fills) + 1:
        raise UserError(f"{variable} has {len(parts) - 1} placeholders, not {len(fills)}: this is another release")
    plain = [_escaped(part.replace("{{", "{").replace("}}", "}")) for part in parts]
    body = plain[0] + "".join(f"{{{{ {fill} }}}}{part}" for fill, part in zip(fills, plain[1:], strict=True))
    kept = _without_layout(body)
    found.lines.append(f"{name}: {variable}" + (", its JSON layout cut off" if kept != body.strip() else ""))
    return f"{kept}\nAnswer in JSON." if name in _JSON else kept


def _without_layout(text: str) -> str:
    """The text without the fenced JSON example, and without the paragraph that announces it."""
    before, fence, _ = text.partition("```json")
    if not fence:
        return text.strip()
    paragraphs = re.split(r"\n\s*\n", before.rstrip())
    while len(paragraphs) > 1 and re.search(r"\bJSON\b", paragraphs[-1]):
        paragraphs.pop()
    return "\n\n".join(paragraphs).strip()


def _judge(found: Import, clone: Path) -> None:
    system = _first(clone, _JUDGE, lambda tree: dict(_assigned(tree)).get("system_prompt"))
    if system is None:
        found.missing.append(f"judge: no system_prompt in {_JUDGE}")
        return
    found.texts["judge"] = (
        f"{_escaped(system)}\n\nComplex_CoT:{{{{ reasoning }}}}\nResponse:{{{{ answer }}}}\n\n{{{{ gold or reference }}}}"
    )
    found.lines.append("judge: system_prompt, for `verdict: word`")


def _instructions(found: Import, clone: Path) -> None:
    texts = {}
    for task, name in _INSTRUCTIONS[found.release].items():
        paths = sorted(clone.rglob(name))
        if paths:
            texts[task] = _escaped(paths[0].read_text(encoding="utf-8").rpartition("}}")[2].strip())
            found.lines.append(f"format_instruction of {task}: {name}")
        else:
            found.missing.append(f"format_instruction of {task}: no {name}")
    if texts:
        found.texts["format_instruction"] = _branches("task", texts)


def _branches(variable: str, texts: Mapping[str, str]) -> str:
    """One template that chooses by a variable; any other value gets the first text."""
    (_, first), *rest = texts.items()
    cases = [
        f"{'elif' if number else 'if'} {variable} == '{value}' %}}{text}" for number, (value, text) in enumerate(rest)
    ]
    return "".join(f"{{% {case}" for case in cases) + (f"{{% else %}}{first}{{% endif %}}" if cases else first)


def _escaped(text: str) -> str:
    """Text as a template that renders as it stands."""
    return re.sub(r"\{[{%#]|[}%#]\}", lambda match: "{{ '" + match.group() + "' }}", text)


def _first(clone: Path, pattern: str, find: Callable[[ast.Module], str | None]) -> str | None:
    for path in sorted(clone.rglob(pattern)):
        found = find(_tree(path))
        if found is not None:
            return found
    return None


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not Python: {error}") from error


def _constants(path: Path) -> Iterator[tuple[str, str]]:
    return _assigned(_tree(path))


def _assigned(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(variable, text) of every assignment of a text to a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = _text(node.value)
            if text is not None:
                yield node.targets[0].id, text


def _request(tree: ast.Module) -> str | None:
    """The text under the key `prompt` of a dictionary."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "prompt" and (text := _text(value)) is not None:
                    return text
    return None


def _text(node: ast.expr) -> str | None:
    """A constant text, also one that is written as an f-string without placeholders."""
    if isinstance(node, ast.JoinedStr) and all(isinstance(part, ast.Constant) for part in node.values):
        return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
