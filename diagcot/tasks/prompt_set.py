"""Prompt sets: everything that a model is asked, as versioned Jinja2 files in `prompts/<set>/` or in a user's own folder.

Reading files and the digest need no Jinja2, so commands that only plan stay fast.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from diagcot.jobs import UserError
from diagcot.jobs.names import near
from diagcot.jobs.settings import Settings, load
from diagcot.jobs.state import reading
from diagcot.tasks.prompts import Layout
from diagcot.tasks.samples import Sample

if TYPE_CHECKING:
    from jinja2 import Environment, Template

FOLDER = Path(__file__).resolve().parents[2] / "prompts"
"""The sets of the repository; the snapshot of the code that jobs run has them too."""

VARIABLES: Mapping[str, frozenset[str]] = {
    name: frozenset(variables.split())
    for name, variables in {
        "system": "",
        "head": "images reference question",
        "conclusion": "reference task",
        "init": "reference task",
        "verify": "reference conclusion verdict",
        "rethink": "reference thinking strategy reason task",
        "label": "reference thinking reason answer",
        "rewrite": "reference thinking",
        "final": "reference reasoning sections",
        "retry": "fault",
        "closed": "reference answer",
        "open": "reference answer",
        "judge": "reference reasoning name answer gold verdict image",
        "report": "indication comparison age sex images earlier",
        "classification": "labels",
        "grounding": "label",
        "presence": "label",
        "format_instruction": "task",
    }.items()
}
"""The prompts of a set, and the variables that each is given: those of the search, the interleaved questions and the judge, and
those of the tasks."""
NAMES = tuple(VARIABLES)
_WITH_IMAGE = ("report", "classification", "grounding", "presence")


class About(Settings):
    """What `set.yaml` says about a prompt set."""

    name: str = Field(description="Name of the set.")
    version: int = Field(ge=1, description="Version, raised with every change of a wording.")
    description: str = Field(description="What is special about the set, in a sentence.")
    extends: str | None = Field(default=None, description="A set of the repository whose files this one completes.")
    answers: Layout = Field(
        default="default",
        description="Layout of labels and boxes in answers: of this project, or as DiagCoT's data has them.",
    )
    earlier_study: bool = Field(
        default=False,
        description="Whether the report task shows the images of the patient's earlier study too, before those of the study.",
    )
    self_correction: Literal["kept", "left out"] = Field(
        default="kept", description="Whether mistakes that were corrected stay in the rewritten reasoning."
    )


@dataclass(frozen=True)
class PromptSet:
    """A prompt set by the name of a folder in `prompts/`, or by the path of another folder.

    Its files are read at the first use. Raises UserError then if a file is missing.
    """

    name: str = "default"

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "PromptSet":
        """The set that a stage's settings name. Raises UserError if a user's texts have changed since they were planned."""
        name, digest = settings.get("prompt_set", "default"), settings.get("prompt_digest", "")
        copied = FOLDER.parent / Path(name).name  # of a user's folder, in the snapshot of the code
        sets = [PromptSet(str(copied))] if "/" in name and (copied / "set.yaml").is_file() else []
        for texts in (*sets, PromptSet(name)):
            if digest in ("", texts.digest) or "/" not in name:
                return texts
        raise UserError(
            f"the prompts in {name} have changed since the stage was planned (digest {digest}): put the old files back,"
            " or start a run of another name"
        )

    @cached_property
    def folder(self) -> Path:
        """The folder of the set's own files."""
        return Path(self.name) if "/" in self.name else FOLDER / self.name

    @property
    def about(self) -> About:
        """What `set.yaml` says."""
        return _about(self.folder)

    @cached_property
    def digest(self) -> str:
        """A short sha256 of the set's texts, including those of the set that it extends."""
        total = hashlib.sha256()
        for name, text in sorted(_texts(self.folder).items()):
            total.update(f"{name}\n{len(text)}\n{text}".encode())
        return total.hexdigest()[:12]

    def check(self) -> None:
        """Raises UserError if a prompt is no template, uses a variable that it is not given, or asks about no image."""
        from jinja2 import TemplateError, meta

        texts, environment = _texts(self.folder), _environment(self.folder)
        for name, text in texts.items():
            path = f"{self.folder / name}.j2"
            if name not in NAMES:
                raise UserError(f"{path}: there is no such prompt{near(name, NAMES)}")
            try:
                used = meta.find_undeclared_variables(environment.parse(text))
            except TemplateError as error:
                raise UserError(f"{path}:{getattr(error, 'lineno', 1)}: {error.message}") from error
            if unknown := sorted(used - VARIABLES[name]):
                given = ", ".join(sorted(VARIABLES[name])) or "none"
                raise UserError(f"{path}: there is no variable {unknown[0]!r} in this prompt; there are: {given}")
            if name in _WITH_IMAGE and "<image>" not in text:
                raise UserError(f"{path}: <image> is missing, the place of the image")

    def render(self, name: str, /, **variables: Any) -> str:
        """The prompt `name` with these variables. Raises UserError if the template uses another one or is broken."""
        from jinja2 import TemplateError

        try:
            return _template(self.folder, name).render(variables)
        except TemplateError as error:
            raise UserError(f"{self.folder / name}.j2: {error}") from error

    def instructed(self, sample: Sample) -> Sample:
        """The sample, its prompt ended by the format instruction unless it names the tags (DiagCoT's RFT runs)."""
        *before, (role, prompt), answer = sample.messages
        if "<think>" in prompt:
            return sample
        prompt = f"{prompt}\n{self.render('format_instruction', task=sample.task)}"
        return replace(sample, messages=(*before, (role, prompt), answer))


DEFAULT = PromptSet()
"""The set that is used where a recipe names none."""


class PromptedSettings(Settings):
    """Settings of the kinds that ask a model: the prompts, and their digest as the plan records it."""

    prompt_set: str = Field(
        default="default",
        description="What models are asked: a folder of prompts/, or the path of another one (docs/prompts.md). A recipe may"
        " name one set for all of its stages.",
    )
    prompt_digest: str = Field(
        default="",
        description="Digest of the prompts; the plan sets it, and a stage refuses a folder that has changed.",
    )

    @property
    def prompts(self) -> PromptSet:
        """The prompt set. Raises UserError if a user's texts have changed since they were planned."""
        return PromptSet.of({"prompt_set": self.prompt_set, "prompt_digest": self.prompt_digest})

    @model_validator(mode="before")
    @classmethod
    def _planned(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("prompt_digest"):
            return given
        name = str(given.get("prompt_set", "default"))
        try:
            texts = PromptSet(str(Path(name).resolve()) if "/" in name else name)
            if "/" in name:
                texts.check()
            return given | {"prompt_set": texts.name, "prompt_digest": texts.digest}
        except UserError as error:
            raise ValueError(str(error)) from error


@cache
def _about(folder: Path) -> About:
    path = folder / "set.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.parent.name for file in FOLDER.glob("*/set.yaml")))
        raise UserError(f"no prompt set in {folder}: there is no set.yaml (sets of the repository: {known})")
    return load(path, About)


@cache
def _texts(folder: Path) -> dict[str, str]:
    about = _about(folder)
    texts = dict(_texts(FOLDER / about.extends)) if about.extends else {}
    texts |= {path.stem: reading.plain_text(path) for path in folder.glob("*.j2")}
    missing = [f"{name}.j2" for name in NAMES if name not in texts]
    if missing:
        raise UserError(
            f"the prompt set {folder} lacks {', '.join(missing)}: add the files, or `extends: default` to its set.yaml"
        )
    return texts


@cache
def _environment(folder: Path) -> "Environment":
    from jinja2 import DictLoader, Environment, StrictUndefined

    files = {f"{name}.j2": text for name, text in _texts(folder).items()}
    # The prompts are plain text, so nothing is escaped.
    return Environment(
        loader=DictLoader(files), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


@cache
def _template(folder: Path, name: str) -> "Template":
    return _environment(folder).get_template(f"{name}.j2")
