"""Phrases of the reader of statements: sides, zones, degrees, devices, and the words that separate places in a list.

All are matched on lower-case sentences.
"""

import re

CLEAR = "Clear Lungs"
"""A finding of its own: the sentence says that the lungs are clear. It is no CheXpert label."""

LUNG = frozenset({"Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis"})
"""The labels that clear lungs exclude."""

PLACED = LUNG - {"Edema"} | {"Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"}
"""The labels that have a side."""

ZONED = LUNG - {"Edema"} | {"Pneumothorax", "Pleural Other"}
"""The labels that have a zone."""

SIZED = frozenset({"Lung Lesion", "Pneumothorax", "Pleural Effusion", "Lung Opacity", "Consolidation", "Atelectasis"})
"""The labels of which `small` and `large` tell the degree; an enlarged heart is large in any degree."""

_PLACE = r"(?:lung|lobe|zone|field|region|aspect|side|hemithorax|thorax|chest|portion|third)s?"
_NEXT = rf"(?=[ -](?:{_PLACE}|and|or|to|left|right)\b)"

MODIFIER = re.compile(
    r"(?P<left>(?<!what is )\bleft(?:-?sided|wards?)?\b(?! (?:ventric|atri|heart|sided aortic|to|out|over)\b))"
    r"|(?P<right>(?<!that is )(?<!that's )(?<!\ball )(?<!this is )\bright(?:-?sided|wards?)?\b(?! (?:ventric|atri|heart)\w*))"
    r"|(?P<bilateral>\bbi-?lateral(?:ly)?\b|\bboth\b|\bbi(?=-?(?:bas|apic)))"
    rf"|(?P<upper>\bupper{_NEXT}|(?:\b|(?<=bi)|(?<=bi-))(?:apex|apices|apical(?:ly)?)\b)"
    rf"|(?P<mid>\bmid(?:dle)?{_NEXT}|\bmid-?(?:lung|zone)s?\b|\b(?:peri)?hil(?:ar|um|a)\b|\blingula\w*)"
    rf"|(?P<lower>\blower{_NEXT}|(?:\b|(?<=bi)|(?<=bi-))bas(?:e|es|al|ally|ilar)\b|\bcosto-?phrenic\b|\bretrocardiac\b)"
    r"|(?P<small>\b(?:small|tiny|trace|minimal(?:ly)?)\b)"
    r"|(?P<mild>\b(?:mild(?:ly)?|slight(?:ly)?|borderline)\b)"
    r"|(?P<moderate>\bmoderate(?:ly)?\b)"
    r"|(?P<large>\b(?:large|massive|extensive)\b)"
    r"|(?P<severe>\b(?:severe(?:ly)?|marked(?:ly)?)\b)"
)
"""A side, a zone or a degree; the name of the group says which."""

SIDES = ("left", "right", "bilateral")
ZONES = ("upper", "mid", "lower")
DEGREES = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}
"""Degree -> its rank. Size and severity are one scale: a small effusion is a mild one."""

BREAK = re.compile(
    r"[;:()]|\b(?:but|however|although|though|whereas|while|which|with|without|except|otherwise|compared|versus|than"
    r"|because|since|so|no|not|there (?:is|are)|(?:lungs?|angles?|sinus(?:es)?) (?:is|are|remains?|appears?)"
    r"|elsewhere|suggest\w*|represent\w*|consistent|due|adjacent)\b"
)
"""Ends the words that belong to a finding before it, and begins those that belong to one after it."""

CLAUSE = re.compile(r"than|lung|angle|sinus")
"""A break that ends a clause of its own, to which the words just before it belong."""

SEPARATOR = re.compile(r",|/|\b(?:and|or|as well as)\b")
"""Between the places of a list, and between findings."""

FILLER = re.compile(
    r"\b(?:the|an?|in|at|of|on|over|within|to|is|are|seen|noted|present|also|again|involving|overlying|along|more"
    r"|greater|worse|pleural|amounts?|angle|" + _PLACE + r")\b|[\s.-]+"
)
"""Words that a place in a list may contain beside side, zone and degree."""

DEVICES = {
    "pacemaker": re.compile(r"pacemaker|pacer|pacing|defibrillator|\ba?icd\b|\bleads?\b"),
    "endotracheal tube": re.compile(r"endotracheal|\bet tube|tracheostomy"),
    "enteric tube": re.compile(r"\bng tube|nasogastric|enteric|feeding|orogastric|\bog tube"),
    "chest tube": re.compile(r"chest tube|drainage tube|pigtail"),
    "line": re.compile(r"catheter|picc|port|\blines?\b|swan-ganz"),
    "wires": re.compile(r"sternotomy|suture"),
    "clips": re.compile(r"clips"),
    "valve": re.compile(r"valve"),
    "stent": re.compile(r"stent"),
}
"""Kind of a device -> the words of a mention that name it."""

EXTRA = {
    "Pleural Effusion": re.compile(r"\bthe (?:pleural )?fluid\b"),
}
"""Names of a finding that only a line of thought uses, for something that it has named before."""

ABSENT = {
    "Pleural Effusion": re.compile(
        r"\b(?:costo-?phrenic )?(?:angles?|sinus(?:es)?|sulc(?:us|i)) (?:is |are |remains? |appears? )?"
        r"(?:both )?(?:sharp|clear|preserved|free)\b|\bsharp (?:costo-?phrenic )?angles?\b"
    ),
}
"""Words that deny a finding without its name."""

LUNGS_CLEAR = re.compile(
    r"(?<!otherwise )(?<!elsewhere )(?<!left )(?<!right )(?<!remaining )(?<!rest of the )\blungs?(?: fields?)?"
    r"(?: (?:are|is|appears?|remains?|both))* (?:well[ -](?:expanded|inflated|aerated) and )?clear\b"
    r"(?! (?:of|except|apart|aside|but|other))|\bclear lungs\b"
)
NOTHING = re.compile(
    r"\bno (?:evidence of (?:an? )?)?(?:acute |active )?(?:cardio-?pulmonary|cardio-?thoracic|intra-?thoracic|chest)"
    r" (?:process|abnormalit(?:y|ies)|disease|findings?|pathology)\b"
    r"|\bno acute (?:process|abnormalit(?:y|ies)|disease|findings?)\b"
    r"|\b(?:normal|unremarkable|negative) chest\b|\bno findings?$|\bno abnormalit(?:y|ies)\b(?! of)"
)
"""Says that nothing is found."""

SOUGHT = re.compile(
    r"\b(?:look|looking|looked|check|checking|checked|search|searching|assess|assessing|assessed|inspect\w*) "
    r"(?:\w+ ){0,2}?(?:for|whether|if)\b|\blook(?:ing|ed)? at (?:the |any )?(?:\w+ )?$"
    r"|\b(?:ask|asking|wonder|wondering)\b|\b(?:signs?|evidence) of an? ?\?"
)
"""Before a mention: it is looked for, and nothing is said of it yet."""

PARTIAL = re.compile(r"\b(?:other|additional|further|new|more|second|larger)\b")
"""Before a denied mention: what is denied is another one."""

FIRST_THOUGHT = re.compile(
    r"\b(?:i|we) (?:first |initially |at first )(?:thought|suspected|read|took|saw)\b|\bat first\b"
    r"|\bfirst (?:thought|impression)\b|\binitially\b|\bseemed\b"
)
"""Before a mention: a thought that may be taken back, so it is in doubt."""

WRONG = re.compile(
    r"\b(?:reading|impression|view|interpretation|assessment|description)\b[^.]{0,120}?"
    r"\b(?:is|are|was|were) (?:wrong|mistaken|incorrect|not right|not correct)\b"
)
"""Takes back all that was said of the regions in the sentence."""

SETTLED = re.compile(r"\b(?:corrected|revised|final|new) (?:impression|conclusion|reading|diagnosis)\b")
"""Takes the place of first thoughts, which are in doubt."""

REGIONS = {
    "heart": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "mediastin": ("Enlarged Cardiomediastinum",),
    "lung": (*sorted(LUNG), CLEAR),
    "pleura": ("Pleural Effusion", "Pneumothorax", "Pleural Other"),
    "bone": ("Fracture",),
    "device": ("Support Devices",),
}
"""Word of a region -> the findings in it."""

HOLDS = re.compile(r"\b(?:holds?|the same|confirm\w*|agrees?|fits?)\b")
"""A second look that changes nothing."""

REVISION = re.compile(
    r"\b(?:wait|hold on|hmm|actually|correction|on second (?:thought|look)|(?:look|looking|check|checking) (?:[\w,]+ ){0,8}?again"
    r"|re-?check\w*|re-?examin\w*|re-?consider\w*|re-?vis(?:e|ed|ing|it\w*)|double-?check\w*|on closer (?:look|inspection)"
    r"|(?:i was|that (?:is|was)|this (?:is|was)) (?:wrong|mistaken|not right|incorrect)|my mistake|a mistake|not correct)\b"
    r"|\bno, "
)
"""A line of thought corrects itself: what follows replaces what was said before of the same finding."""

ADDED = re.compile(r"\b(?:also|too|as well|in addition|another|additional(?:ly)?)\b")
"""In a statement after a correction: it stands beside the earlier ones."""
