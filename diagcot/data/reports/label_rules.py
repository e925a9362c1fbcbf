"""Phrases of the rule-based labeler: mentions of a label, and words that negate a mention or express doubt.

`MENTIONS[label]` are regular expressions of the finding itself. `NORMAL[label]` are phrases that state its absence
("heart size is normal"). All are matched on lower-case sentences.
"""

import re

_HEART = (
    r"(?:heart|cardiac|cardiopericardial)"
    r"(?: size| silhouette| shadow| contours?| and pulmonary vascularity| diameter)?"
)
_MEDIASTINUM = (
    r"(?:cardio ?-?/?)?mediastin(?:al|um)(?: silhouettes?| contours?| structures?| shadow| margins?)?"
)  # fmt: skip
_IS = r" (?:is |are |appears? |remains? |has |again )?"
_SIZE = r"(?:enlarged|enlargement|prominent|prominence|increased in size|large\b(?! amount))"
_WIDE = r"(?:enlarge[dm]\w*|widen\w*|prominent|prominence)"
_FINE = r"(?:normal|unremarkable|not enlarged|within limits|intact)"
_UP_TO_2, _UP_TO_3 = (rf"(?:[a-z,/-]+ ){{0,{n}}}?" for n in (2, 3))
_PLEURAL = r"pleural(?:-parenchymal|/parenchymal| parenchymal| and parenchymal)?"

MENTIONS: dict[str, list[str]] = {
    "Enlarged Cardiomediastinum": [
        _MEDIASTINUM + _IS + _UP_TO_3 + _WIDE,
        _WIDE + r"(?: of)?(?: the)? (?:superior )?" + _MEDIASTINUM,
    ],
    "Cardiomegaly": [
        r"cardiomegaly|cardiomyopathy|left ventricular (?:enlargement|prominence)|ventricular enlargement",
        r"(?:heart|cardiac|cardiopericardial)(?: \w+)? (?:enlargement|is " + _UP_TO_3 + r"(?:enlarged|large)\b)",
        _HEART + _IS + _UP_TO_3 + _SIZE,
        _SIZE + r"(?: of)?(?: the)? (?:heart|cardiac|cardiopericardial|cardiomediastinal silhouette)",
        r"(?:borderline|generous)(?: in)? (?:heart|cardiac)",
        _HEART + _IS + _UP_TO_2 + r"borderline",
    ],
    "Lung Lesion": [
        r"nodul(?:es?|ar(?:ity)?)\b(?! thicken)",
        r"\bmass(?:es)?\b",
        r"(?:cavitary|lung|pulmonary|coin) lesions?",
        r"\b(?:carcinoma|neoplasm|tumou?rs?|malignan\w+|metasta\w+)\b",
    ],
    "Lung Opacity": [
        r"opaci(?:ty|ties|fication|fications|fied)",
        r"infiltrat(?:es?|ions?|ive)",
        r"air ?-?space (?:disease|process|opacit|consolidation)",
        r"\bhaz(?:e|y|iness)\b",
        r"(?:increased|interstitial|reticular|coarse\w*|prominent) (?:\w+ )?(?:markings?|densit\w+|pattern)",
        r"(?:patchy|streaky|linear|rounded|focal|lung|pulmonary|basilar|ill-defined|lobe|airspace) densit(?:y|ies)",
        r"interstitial (?:disease|changes|thickening|prominence)",
    ],
    "Edema": [
        r"(?<!soft tissue )(?<!peripheral )o?edema",
        r"heart failure|\bchf\b",
        r"vascular congestion|pulmonary congestion",
    ],
    "Consolidation": [r"consolidat\w+"],
    "Pneumonia": [r"pneumoni(?:a\w*|tis)", r"infectious (?:process|infiltrate|etiology)"],
    "Atelectasis": [r"atelecta\w+", r"(?:lobe|lobar|lung|volume|partial) collapse|collapse of", r"volume loss"],
    "Pneumothorax": [r"pneumothora(?:x|ces)", r"pneumo thorax"],
    "Pleural Effusion": [
        r"(?<!pericardial )(?<!joint )effusions?",
        r"pleural (?:\w+ )?fluid",
        r"hydrothorax|hydropneumothorax|ha?emothorax",
    ],
    "Pleural Other": [
        _PLEURAL + r" (?:\w+ )?(?:thicken\w*|scar\w*|plaques?|calcification\w*|fibrosis|reaction)",
        r"(?:apical|biapical|pleural) (?:caps?|capping|thickening)\b",
        r"thickening of (?:the )?(?:\w+ )?pleura|fissural thickening|thickening (?:in|of) the (?:\w+ )?fissure",
        r"fibrothorax|pleural disease",
    ],
    "Fracture": [r"fractur\w+"],
    "Support Devices": [
        r"\b(?:pacemaker|pacer|pacing|defibrillator|icd|aicd|leads?)\b",
        r"\b(?:catheters?|picc|port-?a-?cath|mediport|central (?:venous )?line|lines? (?:tip|in place)|swan-ganz)\b",
        r"\b(?:et|ng|endotracheal|tracheostomy|nasogastric|enteric|feeding|chest|orogastric|drainage) tubes?\b",
        r"\b(?:stents?|prosthe\w+|valve replacement|sternotomy (?:wires|sutures)|clips|hardware|sutures?|cabg)\b",
        r"\b(?:device|port)\b",
    ],
}

NORMAL: dict[str, list[str]] = {
    "Cardiomegaly": [
        r"\b(?:heart|cardiac|cardiopericardial|cardiomediastinal)\b[^.:]{0,60}?\b" + _FINE,
        r"normal (?:heart|cardiac|cardiopericardial)",
        r"(?:heart|cardiac)[^.:]{0,40}?upper limits? of normal",
    ],
    "Enlarged Cardiomediastinum": [
        r"mediastin[^.:]{0,60}?\b" + _FINE,
        r"normal (?:cardio)?-?mediastin",
    ],
}

ENDS = re.compile(
    r"\b(?:but|however|although|though|except|apart from|aside from|other than|besides|otherwise|whereas|while"
    r"|there (?:is|are|has|have|may)|(?:is|are) (?:seen|noted|present)|stable|unchanged|again|persist\w*"
    r"|with (?:mild|small|stable|left|right|bilateral|associated|subsegmental|patchy))\b"
    r"|[;:]|, (?:the |and )?(?:heart|lungs?|cardiac|mediastin\w+|there|left|right|mild|stable)\b"
)
"""Ends the scope of every cue: the text after it is another statement."""

NEGATION_ENDS = re.compile(r"\b(?:secondary to|due to|consistent with|compatible with|representing|which)\b")
"""Ends the scope of a negation, but not that of a doubt ("may be compatible with edema")."""

NO_CHANGE = re.compile(
    r"\b(?:no|without|not)(?: \w+){0,2}"
    r" (?:change|changed|interval change|increase|decrease|improvement|progression)\b|\bnot only\b"
    r"|\bno (?:previous|prior|comparison)\b"
)
"""Looks like a negation, but negates a change, not the finding."""

NEGATED_BEFORE = re.compile(
    r"\b(?:no|not|without|never|nor|neither|negative for|free of|clear of|absence of|absent|lack of|resolution of"
    r"|resolved|resolving of|rather than|instead of|interval removal of|removal of|no longer|exclude[sd]?)\b"
)
NEGATED_AFTER = re.compile(
    r"\b(?:(?:is|are|was|were|has|have)(?: been)? (?:not|no longer|never)\b"
    r"(?! (?:excluded|changed|significantly|entirely))"
    r"|(?:has|have)(?: \w+)? (?:resolved|cleared)|resolved|(?:is|are) (?:absent|excluded|negative|unlikely)"
    r"|not (?:seen|identified|visualized|appreciated|evident)|ruled out|unlikely)\b"
)
UNCERTAIN_BEFORE = re.compile(
    r"\b(?:may|maybe|might|could|possib\w+|question\w*|suspect\w*|suspicious|suspicion|concern\w*|cannot"
    r"|can not|versus|vs|likely|differential|equivocal|rule out|rule-out|r/o|evaluate|consider\w*|would|if|suggest\w*"
    r"|perhaps|presum\w+|whether|not excluded|favor\w*|correlate|clinical setting|indicate)\b"
)
SURE = re.compile(r"\b(?:most|highly|strongly|very) (?:\w+ )?suggestive of\b")
"""Contains words of doubt, but states the finding."""

UNCERTAIN_AFTER = re.compile(
    r"\b(?:(?:can ?not|could not|can't) (?:be )?(?:\w+ )?(?:excluded?|ruled out)"
    r"|(?:is|are) (?:not excluded|possible|suspected|questioned|suggested|considered)|suspected"
    r"|not (?:be )?(?:entirely |completely )?excluded|possible|difficult to (?:\w+ )?exclude)\b"
)
