"""Phrases of the rule-based labeler, as regular expressions that are matched on sentences in lower case.

`MENTIONS[label]` are the finding itself. `NORMAL[label]` are phrases that state its absence ("heart size is normal").
`OTHER` are findings that have no label; one that is present or in doubt unsets No Finding, as in the CheXpert labeler.
"""

_HEART = (
    r"(?:heart|cardiac|cardiopericardial)"
    r"(?: size| silhouette| shadow| contours?| and pulmonary vascularity| diameter)?"
)
_MEDIASTINUM = (
    r"(?:cardio ?-?/?)?mediastin(?:al|um)(?: silhouettes?| contours?| structures?| shadow| margins?)?"
)  # fmt: skip
_IS = r"(?: ?:| -)? (?:is |are |appears? |remains? |has |again )?"
_SIZE = r"(?:enlarged|enlargement|prominent|prominence|increased in size|size increased|large\b(?! amount))"
_WIDE = r"(?:enlarge[dm]\w*|widen\w*|wide\b|prominent|prominence)"
_FINE = r"(?:normal|unremarkable|not enlarged|non-?enlarged|within limits|intact)"
_UP_TO_2, _UP_TO_3 = (rf"(?:[a-z,/-]+ ){{0,{n}}}?" for n in (2, 3))
_PLEURAL = r"pleural(?:-parenchymal|/parenchymal| parenchymal| and parenchymal)?"


def _not_of(word: str, *parts: str) -> str:
    """A word of which none of the parts stands before: "edema", but not "ankle edema"."""
    return rf"\b{word}" + "".join(f"(?<!{part} {word})" for part in parts)


MENTIONS: dict[str, list[str]] = {
    "Enlarged Cardiomediastinum": [
        _MEDIASTINUM + _IS + _UP_TO_3 + _WIDE,
        _WIDE + r"(?: of)?(?: the)? (?:superior |upper )?" + _MEDIASTINUM,
    ],
    "Cardiomegaly": [
        r"cardiomegaly|cardiomyopathy|left ventricular (?:enlargement|prominence)|ventricular enlargement",
        r"(?:heart|cardiac|cardiopericardial)(?: \w+)? (?:enlargement|is " + _UP_TO_3 + r"(?:enlarged|large)\b)",
        _HEART + _IS + r"(?:(?:top|high|upper|upper limits? of) normal to )?" + _UP_TO_3 + _SIZE,
        r"(?:(?:heart|cardiac) (?:size|silhouette)|cardio-?thoracic ratio)" + _IS + _UP_TO_2 + r"increased",
        r"increased? (?:in )?(?:the )?(?:heart|cardiac) (?:size|silhouette)|increased cardio-?thoracic ratio",
        r"(?:^|\b(?:mild|moderate|severe|marked|stable|no|with|and) )cm\b(?! (?:above|below|from|in|by|x|of)\b)",
        _SIZE + r"(?: of)?(?: the)? (?:heart|cardiac|cardiopericardial|cardiomediastinal silhouette)",
        r"(?:borderline|generous)(?: in)? (?:heart|cardiac)",
        _HEART + _IS + _UP_TO_2 + r"borderline",
    ],
    "Lung Lesion": [
        r"nodul(?:es?|ar(?:ity)?)\b(?! thicken)",
        _not_of("mass", "muscle", "body", "bone", "fat") + r"(?:es)?\b(?! (?:index|effect))",
        r"(?:cavitary|lung|pulmonary|coin) lesions?",
        r"\b(?:carcinoma|neoplasm|tumou?rs?|malignan\w+|metasta\w+|(?:lung|bronchogenic|pulmonary) (?:cancers?|ca))\b",
    ],
    "Lung Opacity": [
        r"opaci(?:ty|ties|fication|fications|fied)",
        r"infiltrat(?:es?|ions?|ive)",
        r"ground[- ]glass|\bggos?\b",
        r"air ?-?space (?:disease|process|opacit\w+|consolidation)",
        r"\bhaz(?:e|y|iness)\b",
        r"(?:increased|interstitial|reticular|coarse\w*|prominent) (?:\w+ )?(?:markings?|densit\w+|pattern)",
        r"(?:patchy|streaky|linear|rounded|focal|lung|pulmonary|basilar|ill-defined|lobe|airspace) densit(?:y|ies)",
        r"interstitial (?:disease|changes|thickening|prominence)",
        r"(?:air ?-?space|alveolar|interstitial|reticular|patchy|hazy) shadow\w*|white-?out",
    ],
    "Edema": [
        _not_of("edema", "soft tissue", "peripheral", "ankle", "leg", "pedal", "limb", "extremity"),
        _not_of("oedema", "soft tissue", "peripheral", "ankle", "leg", "pedal", "limb", "extremity"),
        _not_of("failure", "renal", "kidney", "respiratory", "liver", "hepatic", "organ", "hardware")
        + r"\b(?! to)|\bchf\b",
        r"(?:vascular|pulmonary|venous) congestion",
    ],
    "Consolidation": [r"consolidat\w+"],
    "Pneumonia": [r"pneumoni(?:a\w*|tis)|\bpna\b", r"infectious (?:process|infiltrate|etiology)"],
    "Atelectasis": [
        r"atelecta\w+|\batx\b",
        _not_of("collapse", "vertebral", "body") + r"\b",
        r"(?:lobe|lung)(?: (?:is|are|remains|appears|has))?(?: \w+)? collapsed|collapsed (?:\w+ )?(?:lobe|lung)",
        r"volume loss",
    ],
    "Pneumothorax": [r"pneumothora(?:x|ces)", r"pneumo thorax|\bptx\b"],
    "Pleural Effusion": [
        _not_of("effusion", "pericardial", "joint", "knee", "hip", "shoulder") + r"s?|\beffs?\b",
        r"pleural (?:\w+ )?fluid|(?:loculated|layering|subpulmonic) fluid",
        r"fluid (?:is |are )?(?:\w+ )?(?:in|within|along|tracking into)"
        r" (?:the |an? )?(?:\w+ ){0,2}?(?:pleura|hemithorax|costophrenic)",
        r"hydrothorax|hydropneumothorax|ha?emothorax",
    ],
    "Pleural Other": [
        _PLEURAL + r" (?:\w+ )?(?:thicken\w*|scar\w*|plaques?|calcification\w*|fibrosis|reaction)",
        r"(?:apical|biapical|pleural) (?:caps?|capping|thickening)\b",
        r"thickening of (?:the )?(?:\w+ )?pleura|fissural thickening|thickening (?:in|of) the (?:\w+ )?fissure",
        r"(?:scar\w*|calcifi\w+|plaques?|fibrosis) (?:of|in|along|involving) (?:the )?(?:\w+ ){0,2}pleura\b",
        r"fibrothorax|pleural disease",
    ],
    "Fracture": [r"fractur\w+|\bfxs?\b|broken (?:\w+ )?ribs?"],
    "Support Devices": [
        r"\b(?:pacemakers?|pacers?|pacing|defibrillators?|icd|aicd|leads?(?! to\b))\b",
        r"\b(?:catheters?|piccs?|port-?a-?caths?|mediport|swan-ganz|vascath|permcath|pleurx|pigtail|cannulae?)\b",
        r"\b(?:(?:central|venous|arterial|picc|ij|jugular|subclavian|femoral|dialysis)(?: venous)? lines?)\b",
        r"^(?:lines|tubes|drains)(?= ?[:=])|\bwires?\b|\btip of (?:the |an? )?(?:\w+ )?line\b",
        r"\bline (?:placement|insertion|position\w*|terminates|ends)",
        r"\b(?:lines? (?:tip|in place)|lines(?: and |/| or |, )(?:tubes|drains))\b",
        r"\b(?:et|ng|og|endotracheal|tracheostomy|nasogastric|enteric|feeding|chest|orogastric|drainage|dobb?hoff|intercostal"
        r"|gastrostomy|jejunostomy|nephrostomy|thoracostomy|peg) tubes?\b",
        r"\b(?:ett|ngt|ogt|tracheostomy|dobb?hoff|iabp|balloon pump|lvad|ecmo|(?:chest|pleural|pigtail) drains?)\b",
        r"\b(?:stents?|prosthe\w+|valve replacement|sternotomy (?:wires|sutures)|clips|hardware|sutures?|cabg)\b",
        r"\b(?:sheaths?|shunts?|stimulators?|loop recorder|screws?|rods|fixation plates?|ivc filter|impella"
        r"|ta[vc]r|tavi|annuloplasty)\b",
        r"(?:prosthetic|mechanical|artificial) (?:\w+ )?valves?|arthroplast\w+",
        r"\b(?:devices?|port|cvls?|cvcs?|trach|ppm)\b",
    ],
}

_NOT_FAR = r"(?: ?:| -)?[^.:]{0,60}?(?<!\bnot )(?<!\bnot within )\b"

NORMAL: dict[str, list[str]] = {
    "Cardiomegaly": [
        r"\b(?:heart|cardiac|cardiopericardial|cardiomediastinal|cardio-?thoracic)\b(?: size| ratio| silhouette| contours?"
        r"| and mediastinum)?" + _NOT_FAR + _FINE,
        r"normal (?:heart|cardiac|cardiopericardial)",
        r"(?:heart|cardiac)[^.:]{0,40}?upper limits? of normal",
    ],
    "Enlarged Cardiomediastinum": [
        r"mediastin\w*" + _NOT_FAR + _FINE,
        r"normal (?:cardio)?-?mediastin",
    ],
    "Support Devices": [r"\bextubat(?:ed|ion)\b"],
}

OTHER = [
    r"emphysema\w*|\bcopd\b|chronic obstructive|hyper-?(?:inflat|expan|aerat|lucen)\w*|air[- ]trapping"
    r"|\b(?:bulla|bullae|bullous|blebs?)\b|flatten(?:ing|ed)",
    r"asthma|airways? disease|bronchiti[sc]|bronchiolitis|bronchospasm|bronchiecta\w+|cuffing|bronchial thickening",
    r"granulom\w+|tubercul\w+|\btb\b|sarcoid\w*|histoplasm\w+|silico\w+|asbesto\w+|pneumoconiosis",
    r"(?<!non)(?<!non-)calcifi\w+|atheroscl\w+|arterioscl\w+|tortuo\w+|ecta(?:sia|tic)|unfold\w+|uncoil\w+|aneurysm\w*"
    r"|dissection",
    r"fibro(?:sis|tic)|scar(?:s|ring|red)?\b|honeycomb\w*|cicatri\w+|thickening|blunt(?:ed|ing)|reticula\w*",
    r"hernia(?:s|tion)?\b|eventration|elevat(?:ed|ion)|\bdiaphragmatic hump",
    r"(?:mediastinal|tracheal|midline) (?:shift|deviation|displacement)|\bdeviat(?:ed|ion)|\bshift of",
    r"free (?:\w+ )?(?:air|gas)|pneumoperitoneum|pneumomediastinum|subcutaneous (?:air|gas)",
    r"\b\w{0,12}scolio\w*|curvature|osteodystrophy|kypho\w*|spondyl\w+|osteophyt\w*|degenerat\w+|arthri\w+|arthro\w+|osteop(?:en|or)\w+"
    r"|deformit\w+|wedg\w+|(?:compression|endplate) \w+|sclero(?:tic|sis)|\blytic|\bdish\b|dislocat\w+|subluxation",
    r"adenopathy|lymphadenopathy|lymph nodes?|goiter|prominen\w+|enlarge(?:d|ment)|dilat(?:ed|ation)|distend\w+|engorge\w+",
    r"cephali[sz]ation|redistribution|hypertension|aspiration|contusion|h(?:a)?ematoma|h(?:a)?emorrhage|infarct\w*|embol\w+",
    r"(?<!bone )(?<!bony )densit(?:y|ies)|cyst(?:s|ic)?\b|cavit\w+|abscess|empyema|lucenc(?:y|ies)|inflammat\w+",
    r"foreign bod(?:y|ies)|bullet|shrapnel|dextrocardia|situs inversus|lobectomy|pneumonectomy|mastectomy",
]
