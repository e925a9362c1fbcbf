"""Reads YAML, and refuses what would end the process, fill memory or never end, before values are made of the nodes.

An alias is one node, and the values hold what it stands for as often as it is written.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from diagcot.jobs.errors import UserError

BAD = re.compile("[\0\ud800-\udfff]")
INTEGER, MERGE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge"
DIGITS = 18
"""Most digits of a whole number that is read."""
MOST_DEPTH = 100
"""Most lists and mappings inside each other."""
MOST_COPIED = 100_000
"""Most values that aliases may add to those that are written."""


def read(text: str, path: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML document and its value. Raises as `check`, and what `yaml.load` raises."""
    _refuse_depth(text, path)
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    if root is not None:
        check(root, path)
    return root, yaml.load(text, Loader=yaml.CSafeLoader)


def _refuse_depth(text: str, path: str) -> None:
    """Before nodes are made: some 50,000 lists inside each other end the whole process in libyaml's reader of nodes."""
    depth = 0
    event: yaml.Event
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise UserError(_too_deep(f"{path}:{line}"))


def _too_deep(where: str) -> str:
    return f"{where}: more than {MOST_DEPTH} lists or mappings inside each other: write fewer"


def check(root: yaml.Node, path: str) -> None:
    """Raise UserError with the line for a key that is there twice, a number of very many digits, half of a character or the
    character 0 in a text, which no name of a file can have, an alias inside what it stands for, and aliases that copy each
    other to more than MOST_COPIED values or MOST_DEPTH levels.

    path: the file, for the message.
    """
    seen: dict[int, yaml.Node] = {}
    for node in _each(root, seen):
        where = f"{path}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            _refuse_double_keys(node, path)
        elif isinstance(node, yaml.SequenceNode):
            pass
        elif (found := BAD.search(node.value)) and found[0] == "\0":
            raise UserError(f"{where}: a text holds the character 0 (\\0): remove it")
        elif found:
            raise UserError(f"{where}: a text holds half of a character (\\ud800 to \\udfff): remove it")
        elif node.tag == INTEGER and len(node.value) > DIGITS:
            raise UserError(f"{where}: a number of {len(node.value)} digits: at most {DIGITS} are read")
    _refuse_copies(root, path, len(seen))


def _each(root: yaml.Node, seen: dict[int, yaml.Node]) -> Iterator[yaml.Node]:
    """Every node once; an alias may lead to a node that holds it."""
    todo = [root]
    while todo:
        node = todo.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            yield node
            todo += _parts(node)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_copies(root: yaml.Node, path: str, written: int) -> None:
    """written: nodes of the document."""
    sizes: dict[int, tuple[int, int]] = {}  # node -> values that it makes, and how deep they are inside each other
    open_nodes = set[int]()
    todo = [root]
    while todo:
        node = todo[-1]
        if id(node) in sizes:
            todo.pop()
        elif id(node) in open_nodes:  # all its parts are known
            found = [sizes[id(part)] for part in _parts(node)]
            size, depth = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
            where = f"{path}:{node.start_mark.line + 1}"
            if depth > MOST_DEPTH:
                raise UserError(_too_deep(where))
            if size > written + MOST_COPIED:
                raise UserError(
                    f"{where}: aliases (*name) add more than {MOST_COPIED:,} values to those that are written: write fewer"
                )
            sizes[id(node)] = size, depth
            open_nodes.remove(id(node))
            todo.pop()
        else:
            open_nodes.add(id(node))
            for part in _parts(node):
                if id(part) in open_nodes:
                    raise UserError(
                        f"{path}:{part.start_mark.line + 1}: an alias (*name) stands inside what it stands for: write the"
                        " value itself"
                    )
                todo.append(part)


def _refuse_double_keys(node: yaml.MappingNode, path: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise UserError(
                    f"{path}:{line}: the key {key.value!r} is there twice, first in line {lines[key.value]}: remove one"
                )
            lines[key.value] = line
