"""Phrases of the rule-based labeler: what mentions a label, and what denies or doubts a mention.

`MENTIONS[label]` are regular expressions for the finding itself; `NORMAL[label]` are phrases that say by themselves
that it is absent ("heart size is normal"). All are matched on lower-case sentences.
"""

import re

_HEART = r"(?:heart|cardiac|cardiopericardial)(?: size| silhouette| shadow| contours?| and pulmonary vascularity| diameter)?"
_MEDIASTINUM = r"(?:cardio ?-?/?mediastin(?:al|um)|mediastin(?:al|um))(?: silhouettes?| contours?| structures?| shadow| margins?)?"
_SIZE = r"(?:enlarged|enlargement|prominent|prominence|increased in size|large\b(?! amount))"
_FINE = r"(?:normal|unremarkable|not enlarged|within limits|intact)"
_WORDS = r"(?:[a-z,/-]+ ){0,%d}?"

MENTIONS: dict[str, list[str]] = {
    "Enlarged Cardiomediastinum": [
        _MEDIASTINUM + r" (?:is |are |appears? |remains? )?" + _WORDS % 3 + r"(?:enlarged|enlargement|widen\w*|prominent|prominence)",
        r"(?:enlarge[dm]\w*|widen\w*|prominent|prominence)(?: of)?(?: the)? (?:superior )?" + _MEDIASTINUM,
        r"cardiomediastinal enlargement",
    ],
    "Cardiomegaly": [
        r"cardiomegaly",
        r"(?:heart|cardiac|cardiopericardial)(?: \w+)? (?:enlargement|is " + _WORDS % 3 + r"(?:enlarged|large)\b)",
        _HEART + r" (?:is |are |appears? |remains? |has |again )?" + _WORDS % 3 + _SIZE,
        _SIZE + r"(?: of)?(?: the)? (?:heart|cardiac|cardiopericardial|cardiomediastinal silhouette)",
        r"(?:borderline|generous)(?: in)? (?:heart|cardiac)",
        _HEART + r" (?:is |are |appears? |remains? )?" + _WORDS % 2 + r"borderline",
        r"cardiomyopathy|left ventricular (?:enlargement|prominence)|ventricular enlargement",
    ],
    "Lung Lesion": [
        r"nodul(?!arity along)(?:es?|ar(?:ity)?)\b(?! thicken)",
        r"\bmass(?:es)?\b",
        r"(?:cavitary|lung|pulmonary|lytic lung) lesions?",
        r"\b(?:carcinoma|neoplasm|tumou?rs?|malignan\w+|metasta\w+)\b",
        r"coin lesion",
    ],
    "Lung Opacity": [
        r"opaci(?:ty|ties|fication|fications|fied)",
        r"infiltrat(?:es?|ions?|ive)",
        r"air ?-?space (?:disease|process|opacit|consolidation)",
        r"\bhaz(?:e|y|iness)\b",
        r"(?:increased|interstitial|reticular|coarse\w*|prominent) (?:\w+ )?(?:markings?|densit\w+|pattern)",
        r"(?:patchy|streaky|linear|rounded|focal|lung|pulmonary|basilar|ill-defined|lobe|nodular|airspace) densit(?:y|ies)",
        r"interstitial (?:disease|changes|thickening|prominence)",
    ],
    "Edema": [r"(?<!soft tissue )(?<!peripheral )o?edema", r"heart failure|\bchf\b", r"(?:pulmonary )?vascular congestion|pulmonary congestion"],
    "Consolidation": [r"consolidat\w+"],
    "Pneumonia": [r"pneumoni[ac]\w*", r"infectious (?:process|infiltrate|etiology)", r"bronchopneumonia"],
    "Atelectasis": [r"atelecta\w+", r"(?:lobe|lobar|lung|volume|partial) collapse", r"volume loss", r"collapse of"],
    "Pneumothorax": [r"(?:hydro)?pneumothora(?:x|ces)", r"pneumothoraces", r"pneumo ?thorax"],
    "Pleural Effusion": [
        r"(?<!pericardial )(?<!joint )effusions?",
        r"pleural (?:\w+ )?fluid",
        r"blunt\w*(?: of)?(?: \w+){0,5}? (?:costophrenic|sulc|cp angle|costo)",
        r"costophrenic (?:\w+ ){0,4}?(?:is |are )?(?:\w+ )?blunt\w*",
        r"hydrothorax|hydropneumothorax|h(?:a)?emothorax",
    ],
    "Pleural Other": [
        r"pleural(?:-parenchymal|/parenchymal| parenchymal| and parenchymal)? (?:\w+ )?(?:thicken\w*|scar\w*|plaques?|calcification\w*|fibrosis|reaction)",
        r"(?:apical|biapical|pleural) (?:cap|caps|capping|thickening)\b",
        r"thickening of (?:the )?(?:\w+ )?pleura",
        r"fibrothorax|pleural disease",
    ],
    "Fracture": [r"fractur\w+"],
    "Support Devices": [
        r"\b(?:pacemaker|pacer|pacing|defibrillator|icd|aicd|leads?)\b",
        r"\b(?:catheters?|picc|port-?a-?cath|mediport|portacath|central (?:venous )?line|lines? (?:tip|in place)|swan-ganz)\b",
        r"\b(?:et|ng|endotracheal|tracheostomy|nasogastric|enteric|feeding|chest|orogastric|thoracostomy|drainage) tubes?\b",
        r"\b(?:stents?|prosthe\w+|valve replacement|sternotomy (?:wires|sutures)|surgical clips|clips|hardware|sutures?|cabg|device|port)\b",
    ],
}  # fmt: skip

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
    r"\b(?:but|however|although|though|except|apart from|aside from|other than|besides|otherwise|which|whereas|while"
    r"|there (?:is|are|has|have|may)|secondary to|due to|consistent with|compatible with|representing|is seen|are seen"
    r"|is noted|are noted|is present|are present|stable|unchanged|again|persist\w*|with (?:mild|small|stable|left|right|bilateral|associated|subsegmental|patchy))\b"
    r"|[;:]|, (?:the |and )?(?:heart|lungs?|cardiac|mediastin\w+|there|left|right|mild|stable)\b"
)
"""Ends the reach of a cue: what lies behind it is another statement."""

NO_CHANGE = re.compile(
    r"\b(?:no|without|not)(?: \w+){0,2} (?:change|changed|interval change|increase|decrease|improvement|progression)\b|\bnot only\b"
    r"|\bno (?:previous|prior|comparison)\b"
)
"""Looks like a denial but denies a change, not the finding."""

DENIED_BEFORE = re.compile(
    r"\b(?:no|not|without|never|nor|neither|negative for|free of|clear of|absence of|absent|lack of|resolution of|resolved"
    r"|resolving of|rather than|instead of|interval removal of|removal of|no longer|exclude[sd]?)\b"
)
DENIED_AFTER = re.compile(
    r"\b(?:(?:is|are|was|were|has|have)(?: been)? (?:not|no longer|never)\b(?! (?:excluded|changed|significantly|entirely))"
    r"|(?:has|have)(?: \w+)? (?:resolved|cleared)|resolved|(?:is|are) (?:absent|excluded|negative|unlikely)|not (?:seen|identified|visualized|appreciated|evident)"
    r"|ruled out|unlikely)\b"
)
DOUBTED_BEFORE = re.compile(
    r"\b(?:may|might|could|possib\w+|probabl\w+|question\w*|suspect\w*|suspicious|suspicion|concern\w*|cannot|can not|versus|vs"
    r"|likely|differential|equivocal|rule out|r/o|evaluate|consider\w*|would|if|suggest\w*|perhaps|presum\w+|borderline|whether|not excluded)\b"
)
DOUBTED_AFTER = re.compile(
    r"\b(?:(?:can ?not|could not|can't) (?:be )?(?:\w+ )?(?:excluded?|ruled out)|(?:is|are) (?:not excluded|possible|suspected|questioned|suggested|considered)"
    r"|not (?:be )?(?:entirely |completely )?excluded|possible|versus|vs)\b"
)
