"""The structure of the code, measured from its imports: `python tools/structure.py [--picture FILE.svg]`.

Prints for every folder its modules, lines and largest module, then circles of imports and arrows that the map of packages
does not allow. `PACKAGES` is that map; tests/unit/test_imports.py holds the code to it, and the picture of
docs/architecture.md is drawn from it and from the imports that exist.
"""

import argparse
import ast
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("diagcot", "launchers")
MOST_MODULES = 15  # in a folder, `__init__.py` included
MOST_LINES = 400  # of a module
MEDIAN_LINES = 150

DOMAIN = ("training", "cot", "evaluation")
LIBRARY = ("exchange", "rewards", "serving", "tasks", "shards", "text", "metrics", "data", "jobs")
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "cli": ("extras", "preflight", "console", "launchers", "recipe", *DOMAIN, *LIBRARY),
    "preflight": ("console", "launchers", "training", "serving", "shards", "data", "jobs"),
    "console": ("shards", "data", "jobs"),
    "launchers": ("recipe", *DOMAIN, *LIBRARY),
    "training": LIBRARY,
    "cot": LIBRARY,
    "evaluation": LIBRARY,
    "exchange": ("tasks", "shards", "text", "data", "jobs"),
    "rewards": ("tasks", "text", "metrics", "data", "jobs"),
    "serving": ("jobs",),
    "tasks": ("shards", "text", "data", "jobs"),
    "shards": ("data", "jobs"),
    "text": ("metrics", "data", "jobs"),
    "metrics": ("data", "jobs"),
    "data": ("jobs",),
    "recipe": ("jobs",),
    "jobs": (),
    "extras": (),
    "environment": LIBRARY,
}
"""Package -> packages that its modules may import. A later package of this list never imports an earlier one."""


@dataclass(frozen=True)
class Module:
    """A source file, by its dotted name; a package is the module of its `__init__.py`."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """The source."""
        return self.path.read_text(encoding="utf-8")

    @property
    def lines(self) -> int:
        """Lines of the source."""
        return len(self.text.splitlines())

    @property
    def package(self) -> str:
        """The name of its package in `PACKAGES`: `launchers`, or the part after `diagcot.`; empty for diagcot itself."""
        top, _, rest = self.name.partition(".")
        return top if top != "diagcot" else rest.partition(".")[0]


class Structure:
    """All modules below `root` and what they import of each other, imports inside functions included."""

    def __init__(self, root: Path = ROOT, sources: Iterable[str] = SOURCES) -> None:
        files = sorted(path for source in sources for path in (root / source).rglob("*.py"))
        self.root = root
        self.modules = {name: Module(name, path) for path in files if (name := _dotted(path.relative_to(root)))}
        self.imports = {name: sorted(self._imports(module)) for name, module in self.modules.items()}

    def _imports(self, module: Module) -> Iterator[str]:
        for imported in sorted(set(_imported(ast.parse(module.text)))):
            name = imported
            while name and name not in self.modules:
                name = name.rpartition(".")[0]
            if name and name != module.name:
                yield name

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or through others (Tarjan 1972)."""
        return _components(self.imports)

    def folder_circles(self) -> list[list[str]]:
        """Groups of sibling folders whose modules import each other."""
        graph: dict[str, set[str]] = {}
        for name, targets in self.imports.items():
            for target in targets:
                pairs = zip(_folders(self.modules[name]), _folders(self.modules[target]), strict=False)
                for depth, (one, other) in enumerate(pairs):
                    if one != other and depth == 0:
                        break  # `diagcot.cli` starts launchers, which use the rest of diagcot: see `PACKAGES`
                    if one != other:
                        graph.setdefault(one, set()).add(other)
                        graph.setdefault(other, set())
                        break
        return _components({name: sorted(targets) for name, targets in graph.items()})

    def arrows(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """Packages (one, other) -> the imports from a module of the one to a module of the other."""
        between: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for name, targets in self.imports.items():
            for target in targets:
                pair = self.modules[name].package, self.modules[target].package
                if pair[0] and pair[1] and pair[0] != pair[1] and not pair[0].startswith("__"):
                    between.setdefault(pair, []).append((name, target))
        return between

    def forbidden(self) -> list[str]:
        """Imports that `PACKAGES` does not allow, each as `file imports file`."""
        return [
            f"{self._file(name)} imports {self._file(target)}: {one} may not import {other}"
            for (one, other), imports in self.arrows().items()
            if other not in PACKAGES.get(one, ())
            for name, target in imports
        ]

    def _file(self, name: str) -> str:
        return str(self.modules[name].path.relative_to(self.root))

    def folders(self) -> dict[str, list[Module]]:
        """Folder -> its modules."""
        folders: dict[str, list[Module]] = {}
        for module in self.modules.values():
            folders.setdefault(str(module.path.parent.relative_to(self.root)), []).append(module)
        return folders


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _folders(module: Module) -> list[str]:
    """The folders above a module, from the top; a module in a package counts as a member of that folder."""
    parts = module.path.relative_to(ROOT).parts[:-1] if module.path.is_relative_to(ROOT) else module.path.parts[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _components(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, by Tarjan's algorithm without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []
    for start in graph:
        if start in index:
            continue
        work = [(start, iter(graph[start]))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, targets = work[-1]
            target = next(targets, None)
            if target is not None:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(graph.get(target, ()))))
                elif target in stack:
                    low[node] = min(low[node], index[target])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[node])
            if low[node] == index[node]:
                component = stack[stack.index(node) :]
                del stack[stack.index(node) :]
                if len(component) > 1:
                    components.append(sorted(component))
    return components


def report(structure: Structure) -> str:
    """The table of folders, then sizes, circles and forbidden imports."""
    rows = [f"{'folder':<34}{'modules':>8}{'lines':>8}  largest"]
    for folder, modules in sorted(structure.folders().items()):
        largest = max(modules, key=lambda module: module.lines)
        rows.append(
            f"{folder:<34}{len(modules):>8}{sum(m.lines for m in modules):>8}  {largest.path.name} {largest.lines}"
        )
    lines = [module.lines for module in structure.modules.values()]
    rows += [
        "",
        f"{len(lines)} modules, {sum(lines)} lines, median {statistics.median(lines):.0f}, largest {max(lines)}",
        f"circles of modules: {len(structure.circles())}, of folders: {len(structure.folder_circles())}",
        *(f"  {' <-> '.join(circle)}" for circle in [*structure.circles(), *structure.folder_circles()]),
        f"imports against the map: {len(structure.forbidden())}",
        *(f"  {line}" for line in structure.forbidden()),
    ]
    return "\n".join(rows)


PLACES: Mapping[str, tuple[float, int]] = {
    "cli": (2, 0),
    "preflight": (2, 1),
    "console": (4, 2),
    "launchers": (2, 2),
    "recipe": (0, 3),
    "training": (1, 3),
    "cot": (2, 3),
    "evaluation": (3, 3),
    "serving": (1, 4),
    "rewards": (2.6, 4),
    "text": (2, 5),
    "tasks": (3.2, 5),
    "metrics": (2, 6),
    "shards": (3.2, 6),
    "data": (2.6, 7),
    "jobs": (2, 8),
}
"""Column and row of every package in the picture; arrows point down or sideways."""


def reduced(arrows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way replaces: a package also imports what its targets import."""
    targets: dict[str, set[str]] = {}
    for one, other in arrows:
        targets.setdefault(one, set()).add(other)

    def reaches(start: str) -> set[str]:
        return {name for other in targets.get(start, ()) for name in (other, *reaches(other))}

    return sorted(
        (one, other)
        for one, others in targets.items()
        for other in others
        if not any(other in reaches(between) for between in others - {other})
    )


def picture(structure: Structure) -> str:
    """An SVG of the packages with their sizes, and of the imports between them that no longer way replaces."""
    box, pitch = (164, 44), (184, 88)
    place = {name: (96 + column * pitch[0], 12 + row * pitch[1]) for name, (column, row) in PLACES.items()}
    width, height = (max(at) + margin for at, margin in zip(zip(*place.values(), strict=True), (96, 56), strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="9" markerHeight="9" orient="auto"'
        ' markerUnits="userSpaceOnUse"><path d="M0 0 8 4 0 8z" fill="#5d6b85"/></marker>',
    ]
    for one, other in reduced(pair for pair in structure.arrows() if pair[0] in place and pair[1] in place):
        x1, y1, x2, y2 = (float(value) for value in (*place[one], *place[other]))
        if y1 == y2:
            side = box[0] / 2 if x2 > x1 else -box[0] / 2
            x1, y1, x2, y2 = x1 + side, y1 + box[1] / 2, x2 - side, y2 + box[1] / 2
        else:
            lean = max(-box[0] / 2 + 12, min(box[0] / 2 - 12, (x2 - x1) / 6))
            x1, y1, x2 = x1 + lean, y1 + box[1], x2 - lean
        parts.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#5d6b85" stroke-width="1.3"'
            ' marker-end="url(#head)"/>'
        )
    for name, (x, y) in place.items():
        modules = [module for module in structure.modules.values() if module.package == name]
        lines = sum(module.lines for module in modules)
        parts.append(
            f'<rect x="{x - box[0] / 2:.0f}" y="{y:.0f}" width="{box[0]}" height="{box[1]}" rx="7" fill="#eef2f8"'
            f' stroke="#4a5f85"/><text x="{x:.0f}" y="{y + 19:.0f}" text-anchor="middle" font-size="15"'
            f' font-weight="bold" fill="#1d2b45">{name}</text><text x="{x:.0f}" y="{y + 35:.0f}" text-anchor="middle"'
            f' font-size="11" fill="#4a5f85">{len(modules)} modules, {lines:,} lines</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """Print the report; with --picture, also write the SVG. Exit code 1 if a rule of the structure is broken."""
    parser = argparse.ArgumentParser(description="Measure the structure of the code from its imports.")
    parser.add_argument("--picture", type=Path, help="also draw the packages as this SVG")
    arguments = parser.parse_args()
    structure = Structure()
    print(report(structure))
    if arguments.picture:
        arguments.picture.write_text(picture(structure), encoding="utf-8")
    return 1 if structure.circles() or structure.folder_circles() or structure.forbidden() else 0


if __name__ == "__main__":
    sys.exit(main())
