"""Words around a mention of a finding that deny it or express doubt, and what ends the reach of such a word.

All are matched on sentences in lower case, in which `labeler` has put a question mark into words.
"""

import re

_SIZE = r"(?:tiny|trace|small|mild|minimal|moderate|large|massive|severe|new)"
_SIDE = r"(?:left|right|bilateral)(?:[- ]sided)?"
_ABSENT = r"(?:none|nil|absent|negative|neg|n|0|without|ruled out|excluded|no(?: (?:evidence|signs?|acute))?)"
_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|appreciated|evident|present|noted|demonstrated|detected|found|visible|apparent"
    r"|shown)"
)
_OUT = r"(?:exclud(?:ed?|ing)|rul(?:ed?|ing) out|r/o)"
_UNABLE = (
    r"(?:cannot|can not|can't|could not|couldn't|unable to|(?:difficult|hard|impossible) to|not possible to"
    r"|(?:do|does|did) not)"
)

ENDS = re.compile(
    r"\b(?:but|however|although|though|except|apart from|aside from|other than|besides|otherwise|whereas|while"
    r"|there (?:is|are|has|have)|there(?= may)|(?:is|are) (?:seen|noted|present)|stable|unchanged|again|persist\w*"
    r"|(?<!compatible )(?<!consistent )with (?:an? )?(?:mild|small|stable|left|right|bilateral|associated|subsegmental|patchy)"
    rf"|and (?:an? )?(?={_SIZE} {_SIDE})|(?:none|nil|absent|negative|neg)(?=,))\b"
    r"|[;:]|, (?:the |and )?(?:heart|lungs?|cardiac|mediastin\w+|there|left|right|mild|stable)\b"
    r"|, (?:an? )?(?:tiny|trace|small|minimal|moderate|residual)\b(?![^.;]*\b(?:or|nor)\b)"
)
"""Ends the scope of every cue: the text after it is another statement."""

NEGATION_ENDS = re.compile(r"\b(?:secondary to|due to|consistent with|compatible with|representing|which|after)\b")
"""Ends the scope of a negation, but not that of a doubt ("may be compatible with edema")."""

HEADED_DENIAL = re.compile(
    r"(\b(?:no|negative for|without|absence of|evidence of|signs of|(?:free|clear) (?:of|from))) ?:"
)
"""A denial whose findings follow as a list: the colon ends nothing."""

FIRST_OF_TWO_SIDES = re.compile(
    rf"^(?P<first>.*\b{_SIDE}),? (?:and |but |with )?(?:no|not|without) (?:an? )?(?:\w+ )?{_SIDE} (?:\w+ ){{0,2}}$"
)
"""The text before a finding that is stated for one side and denied for the other, as in "small left and no right"."""

NO_CHANGE = re.compile(
    r"\b(?:no|without|not|never)(?: \w+){0,2}"
    r" (?:changed?|interval change|increased?|decreased?|improve(?:d|ment)|progress(?:ed|ion)|worse(?:ning|ned)?|larger"
    r"|bigger|smaller|growth|deterioration|difference|resolved|cleared)\b"
    r"|\bnot only\b|\bno (?:previous|prior|comparison)\b"
    r"|\b(?:near(?:ly|[- ]complete)?|almost(?: completely?)?|partial(?:ly)?|partly|incomplete(?:ly)?|some|largely|mostly)"
    r"(?: interval)? (?:resolved|cleared|(?:resolution|clearing)(?: of)?)\b"
)
"""Looks like a negation, but negates a change or its completeness, not the finding."""

NEGATED_BEFORE = re.compile(
    r"\b(?:no|not|without|w/o|never|nor|neither|negative for|(?<!-)neg|(?:free|clear) (?:of|from)|absence of|absent|lack of"
    r"|(?:resolution|clearing|disappearance) of"
    r"|low (?:\w+ )?suspicion (?:for|of)|doubt|unlikely to (?:\w+ )?(?:be|represent|reflect)"
    r"|resolved|resolving of|rather than|instead of|removal of|no longer|excluded?s?|nothing to (?:suggest|indicate)"
    r"|history of|hx of|h/o"
    r"|(?:resection|excision) of)\b|\(-\)"
)
NEGATED_AFTER = re.compile(
    r"\b(?:(?:is|are|was|were|has|have)(?: been)? (?:not|no longer|never)\b"
    r"(?! (?:excluded|changed|significantly|entirely|large|small))"
    r"|(?:has|have)(?: \w+)? (?:resolved|cleared|disappeared|gone(?! \w))|resolved|(?:drained|evacuated) (?:completely|fully)"
    r"|(?:is|are|has been|have been)(?: (?:all|both|considered|felt|thought))* (?:absent|excluded|negative|unlikely)"
    rf"|(?:not|no longer) (?:currently |definitely |definitively )?{_SEEN}|may not be {_SEEN}|ruled out|unlikely)\b"
)
VALUE = re.compile(r"^(?:\(?s\)?)?\s*(?::|=|[-–—]+(?= )|[(\[]|\?(?= ))\s*")
"""What stands between a finding and its value in a list, as in "Effusion: none"."""

DENIED_VALUE = re.compile(
    rf"\s*(?:-(?=\s*\))|(?:(?:is|are|was|were) )?{_ABSENT}(?: {_SEEN})?(?:(?: on the)? {_SIDE}| on either side)?)\s*(?=$|[],;.)])"
)
"""The start of a value, or of what follows a finding directly ("effusion absent")."""

LISTED = re.compile(r"\s*(?:,|/|,? ?\b(?:and|or|nor)\b)\s*(?:(?:pleural|focal|pulmonary)\s+)?")
"""Between findings that share one value, as in "effusion, pneumothorax: none"."""

ONE_SIDE_ONLY = re.compile(rf"[,;]\s*(?:\w+ )?{_SIZE}\b")
"""After a denial of one side: the finding is there on the other ("none on the left, small on the right")."""

UNCERTAIN_BEFORE = re.compile(
    r"\b(?:may|maybe|might|could|possib\w+|question\w*|suspect\w*|suspicious|suspicion|concern\w*|cannot"
    r"|can not|versus|vs|likely|differential|equivocal|rule out|rule-out|r/o|evaluate|consider\w*|would|if|suggest\w*"
    r"|perhaps|presum\w+|whether|not excluded|favor\w*|correlate|clinical setting|potential\w*|worr(?:y|ies|isome)|query"
    r"|indeterminate for|either(?! (?:side|lung|base|apex|hemithorax))|apparent(?= (?:\w+ ){0,2}$))\b|\?"
)
NOT_EXCLUDED = re.compile(rf"\b{_UNABLE} (?:\w+ ){{0,3}}?{_OUT}\b|\bto (?:exclude|rule out|r/o)\b|\bfor exclusion of\b")
"""Before a mention: it is in doubt, though "exclude" alone denies."""

SURE = re.compile(r"\b(?:most|highly|strongly|very) (?:\w+ )?suggestive of\b|\bnothing to suggest\b|\bmost likely\b")
"""Contains words of doubt, but states or denies the finding."""

UNCERTAIN_AFTER = re.compile(
    rf"\b(?:(?:can ?not|could not|can't) be (?:\w+ )?{_OUT}"
    r"|(?:is|are) (?:not excluded|possible|suspected|questioned|suggested|considered(?! (?:absent|excluded|(?:un|less )likely)))"
    r"|(?:is|are|remains?|(?:would|could|should|may|might) be)(?: \w+)? an? (?:\w+ )?(?:consideration|possibility|concern)"
    r"|(?:can|could|may|might)(?: also)? (?:have|give|cause|produce) (?:this|such|an? similar|the same)"
    r"|(?:can|could|may|might|should)(?: also)? be (?:considered|entertained)|in the differential|less likely(?! \w)"
    rf"|(?:is|are|remains?|(?:would|could|may|might) be) (?:\w+ )?(?:difficult|hard|impossible) to"
    rf" (?:\w+ )?(?:{_OUT}|detect|see|identify)"
    r"|(?<!not )suspected\b(?! \w)"
    r"|(?:may|might|could|would)(?: also| well)? (?:be|have been) (?:present|missed|there|obscured|hidden|overlooked)"
    r"|not (?:be |been )?(?:entirely |completely |fully |totally )?excluded|possible\b(?! \w)"
    rf"|{_UNABLE} (?:\w+ )?{_OUT}(?=\s*(?:$|[,;.)])))|^ ?\(?\?"
)
UNCERTAIN_VALUE = re.compile(
    r"\s*(?:possibl[ey]|probabl[ey]|questionabl[ey]|likely|suspected|equivocal|indeterminate|uncertain|doubtful|\?)\b"
)
"""The start of a value in a list."""

REMOVED = re.compile(
    r"^\W*(?:(?!after|following|remain|unchanged|in\b|with\b)\w+ ){0,6}?"
    r"(?:removed|removal|discontinued|explanted|taken out|pulled(?! back))\b"
)
"""After a device: it is not there any more."""
