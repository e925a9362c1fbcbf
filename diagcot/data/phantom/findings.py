"""The findings of a phantom: their sentences, their CheXpert labels, and conversion to and from MeSH-style tags.

Tags use the vocabulary of IU-Xray (heading/qualifier/qualifier…, in any order), so one parser reads the tags of
IU-Xray and those of invented patients.
"""

from collections.abc import Iterable
from dataclasses import dataclass

SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")
DEVICES = ("pacemaker", "line", "tube")

_ZONE_WORDS = {
    "upper": ("apex", "upper lobe"),
    "mid": ("hilum", "middle lobe", "lingula"),
    "lower": ("base", "lower lobe", "costophrenic angle"),
}
_ZONE_TAG = {"upper": "upper lobe", "mid": "hilum", "lower": "lower lobe"}
_OPACITIES = ("Opacity", "Infiltrate", "Consolidation", "Airspace Disease", "Pneumonia", "Density")
_NODULES = ("Nodule", "Mass", "Granuloma", "Calcified Granuloma")
_DEVICE_TAG = {
    "pacemaker": "Implanted Medical Device/left",
    "line": "Catheters, Indwelling/right",
    "tube": "Tube, Inserted",
}
_DEVICE_OF = {
    "Implanted Medical Device": "pacemaker",
    "Medical Device": "pacemaker",
    "Catheters, Indwelling": "line",
    "Tube, Inserted": "tube",
}
_DEVICE_WORDS = {
    "pacemaker": "a left pacemaker is in place",
    "line": "a right central line is in place",
    "tube": "an endotracheal tube is in place",
}


@dataclass(frozen=True, order=True)
class Place:
    """A place in the lungs: the patient's side, and the zone (upper, mid or lower)."""

    side: str
    zone: str

    def __str__(self) -> str:
        return f"{self.side} {self.zone} zone"


@dataclass(frozen=True, order=True)
class Effusion:
    """A pleural effusion on one side."""

    side: str
    size: str  # small or large


@dataclass(frozen=True)
class Findings:
    """What a phantom shows. The default is a normal chest."""

    heart: str = "normal"  # normal, mild or severe enlargement
    opacities: tuple[Place, ...] = ()
    nodules: tuple[Place, ...] = ()
    atelectasis: tuple[str, ...] = ()  # sides, always at the base
    edema: bool = False
    effusions: tuple[Effusion, ...] = ()
    pneumothorax: str = ""  # a side, or ""
    device: str = ""  # pacemaker, line, tube, or ""

    @property
    def normal(self) -> bool:
        """Whether nothing but a device is shown."""
        return self == Findings(device=self.device)

    def statements(self) -> dict[str, str]:
        """Finding -> its sentence, in the order of a report. Absent devices are not mentioned."""
        lungs = self._lungs()
        sentences = {"heart": _HEART[self.heart] + "."}
        sentences |= lungs or {"lungs": "the lungs are clear."}
        sentences["effusion"] = (
            f"there {_are(self._effusion())}." if self.effusions else "there is no pleural effusion."
        )
        sentences["pneumothorax"] = f"there is a {self.pneumothorax or 'no'} pneumothorax.".replace("a no", "no")
        if self.device:
            sentences["device"] = _DEVICE_WORDS[self.device] + "."
        return sentences

    def sentences(self) -> list[str]:
        """The sentences of the findings section."""
        return list(self.statements().values())

    def impression(self) -> str:
        """The impression section: one sentence that lists the abnormal findings."""
        parts = []
        if self.heart != "normal":
            parts.append(_HEART_NOUN[self.heart])
        parts += [f"{p} opacity" for p in self.opacities] + [f"{p} nodule" for p in self.nodules]
        parts += [f"{_sides(self.atelectasis)} basal atelectasis"] if self.atelectasis else []
        parts += ["pulmonary edema"] if self.edema else []
        parts += [self._effusion()] if self.effusions else []
        parts += [f"{self.pneumothorax} pneumothorax"] if self.pneumothorax else []
        return f"{_listed(parts)}." if parts else "no acute cardiopulmonary process."

    def report(self) -> tuple[str, str]:
        """Findings and impression sections, with the first letter of each sentence in upper case, as people write."""
        return " ".join(s[0].upper() + s[1:] for s in self.sentences()), self.impression().capitalize()

    def labels(self) -> dict[str, int]:
        """CheXpert labels: 1 for what is shown, 0 for what the sentences deny. Other labels are left out."""
        labels = {
            "Cardiomegaly": int(self.heart != "normal"),
            "Pleural Effusion": int(bool(self.effusions)),
            "Pneumothorax": int(bool(self.pneumothorax)),
        }
        shown = {
            "Lung Opacity": self.opacities,
            "Lung Lesion": self.nodules,
            "Atelectasis": self.atelectasis,
            "Edema": self.edema,
            "Support Devices": self.device,
        }
        labels |= {label: 1 for label, present in shown.items() if present}
        return ({"No Finding": 1} if self.normal else {}) | labels

    def tags(self) -> tuple[str, ...]:
        """MeSH-style tags; `from_tags` makes the same findings of them."""
        tags = [] if self.heart == "normal" else [f"Cardiomegaly/{self.heart}"]
        tags += [f"Opacity/lung/{_ZONE_TAG[p.zone]}/{p.side}" for p in self.opacities]
        tags += [f"Nodule/lung/{_ZONE_TAG[p.zone]}/{p.side}" for p in self.nodules]
        tags += [f"Pulmonary Atelectasis/base/{side}" for side in self.atelectasis]
        tags += ["Pulmonary Edema"] if self.edema else []
        tags += [f"Pleural Effusion/{e.side}/{e.size}" for e in self.effusions]
        tags += [f"Pneumothorax/{self.pneumothorax}"] if self.pneumothorax else []
        tags += [_DEVICE_TAG[self.device]] if self.device else []
        return tuple(tags) or ("normal",)

    @staticmethod
    def from_tags(tags: Iterable[str]) -> "Findings":
        """Findings from MeSH tags of IU-Xray or of a phantom.

        Headings that phantoms do not draw (bones, aorta, calcinosis …) are ignored. A tag without a side or zone means the
        right side and the lower zone. Of contradicting tags the more severe counts.
        """
        parsed = [(head.strip(), [word.strip() for word in words]) for head, *words in (tag.split("/") for tag in tags)]

        def words_of(*headings: str) -> list[list[str]]:
            return [words for head, words in parsed if head in headings]

        enlarged = words_of("Cardiomegaly") + [words for words in words_of("Cardiac Shadow") if "enlarged" in words]
        severe = any({"severe", "moderate"} & set(words) for words in enlarged)
        effusions = words_of("Pleural Effusion")
        large = {side for words in effusions if {"large", "moderate"} & set(words) for side in _tag_sides(words)}
        sides = sorted({side for words in effusions for side in _tag_sides(words)})
        pneumothoraces = [_tag_sides(words)[0] for words in words_of("Pneumothorax", "Hydropneumothorax")]
        devices = [_DEVICE_OF[head] for head, _ in parsed if head in _DEVICE_OF]
        return Findings(
            heart=("severe" if severe else "mild") if enlarged else "normal",
            opacities=tuple(sorted({place for words in words_of(*_OPACITIES) for place in _places(words)})),
            nodules=tuple(sorted({place for words in words_of(*_NODULES) for place in _places(words)})),
            atelectasis=tuple(
                sorted({side for words in words_of("Pulmonary Atelectasis") for side in _tag_sides(words)})
            ),
            edema=bool(words_of("Pulmonary Edema", "Pulmonary Congestion")),
            effusions=tuple(Effusion(side, "large" if side in large else "small") for side in sides),
            pneumothorax=pneumothoraces[-1] if pneumothoraces else "",
            device="pacemaker" if "pacemaker" in devices else next(iter(devices), ""),
        )

    def _lungs(self) -> dict[str, str]:
        sentences = {}
        if self.opacities:
            sentences["opacity"] = "there is an opacity in the " + _listed([str(p) for p in self.opacities]) + "."
        if self.nodules:
            sentences["nodule"] = "there is a nodule in the " + _listed([str(p) for p in self.nodules]) + "."
        if self.atelectasis:
            sentences["atelectasis"] = f"there is atelectasis at the {_sides(self.atelectasis)} base."
        if self.edema:
            sentences["edema"] = "there is pulmonary edema."
        return sentences

    def _effusion(self) -> str:
        sizes = {e.size for e in self.effusions}
        if len(self.effusions) == 2 and len(sizes) == 1:
            return f"{sizes.pop()} bilateral pleural effusions"
        return _listed([f"{e.size} {e.side} pleural effusion" for e in self.effusions])


_HEART = {
    "normal": "the heart is normal in size",
    "mild": "the heart is mildly enlarged",
    "severe": "the heart is severely enlarged",
}
_HEART_NOUN = {"mild": "mild cardiomegaly", "severe": "severe cardiomegaly"}


def _are(noun: str) -> str:
    return f"are {noun}" if noun.endswith("s") else f"is a {noun}"


def _sides(sides: tuple[str, ...]) -> str:
    return sides[0] if len(sides) == 1 else "left and right"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _tag_sides(words: list[str]) -> tuple[str, ...]:
    if "bilateral" in words or "diffuse" in words:
        return SIDES
    if "left" in words or "lingula" in words:
        return ("left",)
    return ("right",)


def _places(words: list[str]) -> set[Place]:
    zones = [zone for zone, names in _ZONE_WORDS.items() if set(names) & set(words)]
    return {Place(side, zone) for side in _tag_sides(words) for zone in zones or ["lower"]}
