"""Our tokeniser and METEOR against the Java programs."""

import gzip
import random
import subprocess
import zipfile

import numpy as np

from diagcot.metrics import java
from diagcot.metrics.meteor import meteor
from diagcot.metrics.meteor.meteor import COUNTS
from diagcot.metrics.tokens import words
from tests.unit.metrics.test_meteor import PUBLISHED

_ODD = """the of no heart lungs enlarged a . .. ... .... 1.5 u.s. mr. no. no.5 p.m. i.e. x-ray -lrb- -rrb- -- – — 's n't ' ''
" `` ‘ ’ “ ” , 1,000 a,b 12/24 % <unk> naïve é É Straße İstanbul 病 😀 &quot; x. 1. siblings teheran aa bb A B o'neil
5's a-b-c-d .-. - Sr. 12. No. x..y a.b. ( ) [x] { ~ ® µ ½ DOTMULTI."""


ODD = _ODD.split()


def perturbed(text, rng, vocabulary):
    words = text.split()
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(words) + 1)
        words[at : at + rng.choice((0, 1))] = rng.choice(([], [rng.choice(vocabulary)], words[at // 2 : at // 2 + 4]))
    return " ".join(words)


def adversarial(number, seed):
    """Pairs made to meet every kind of match, METEOR's own tables, and each rule of its normaliser."""
    rng, jar = random.Random(seed), java.jar("meteor/meteor-1.5.jar")
    with zipfile.ZipFile(jar) as files:
        lines = files.read("synonym/english.synsets").decode().split("\n")
        inflected = files.read("synonym/english.exceptions").decode().split()
        function = files.read("function/english.words").decode().split()
    synsets: dict[str, list[str]] = {}
    for word, of in zip(lines[::2], lines[1::2], strict=False):
        for one in of.split():
            synsets.setdefault(one, []).append(word)
    groups = [group for group in synsets.values() if len(group) > 1]
    with gzip.open(jar.parent / "data" / "paraphrase-en.gz", "rt", encoding="utf-8") as file:
        head = [next(file).strip() for _ in range(300_000)]
    phrases = list(zip(head[1::3], head[2::3], strict=True))
    endings = ["", "", "", "s", "es", "ed", "ing", "er", "est", "ly", "ness", "ful", "ment", "ation", "ies", "'s"]
    for _ in range(number):
        put = [rng.choice(phrases) for _ in range(rng.randint(1, 7))]
        ours, theirs = [one for one, _ in put], [two for _, two in put]
        for _ in range(rng.randint(0, 9)):
            group = rng.choice(groups)
            ours.append(rng.choice((rng.choice(group) + rng.choice(endings), rng.choice(inflected))))
            theirs.append(rng.choice((rng.choice(group) + rng.choice(endings), rng.choice(function))))
        rng.shuffle(ours)
        yield " ".join(ours), " ".join(theirs)
        ours = rng.choices(ODD, k=rng.randint(0, 14))
        yield rng.choice((" ", "")).join(ours), " ".join(rng.choices([*ODD, *ours], k=rng.randint(0, 14)))
        few = rng.sample(["the", "is", "no", "of", "heart", "lung", "lungs", "clear", "clearly", "."], 4)
        yield " ".join(rng.choices(few, k=rng.randint(9, 80))), " ".join(rng.choices(few, k=rng.randint(9, 80)))


def counts_of_java(pairs):
    """What the Java program says of the pairs, one process for all."""
    command = [
        str(java.java()),
        "-Xmx2G",
        "-jar",
        str(java.jar("meteor/meteor-1.5.jar")),
        "-",
        "-",
        "-stdio",
        "-l",
        "en",
    ]
    lines = "".join(f"SCORE ||| {meteor._clean(ref)} ||| {meteor._clean(hyp)}\n" for hyp, ref in pairs)
    done = subprocess.run([*command, "-norm"], input=lines.encode(), stdout=subprocess.PIPE, timeout=300, check=True)
    return np.array([line.split() for line in done.stdout.decode().splitlines()], dtype=np.float64)


def test_every_count_is_that_of_java():
    pairs = list(adversarial(250, seed=7))
    if PUBLISHED.exists():
        hyps, refs = ((PUBLISHED / name).read_text().splitlines() for name in ("res.csv", "gts.csv"))
        rng, vocabulary = random.Random(8), sorted({word for ref in refs for word in ref.split()})
        pairs += [*zip(hyps, refs, strict=True), *((perturbed(ref, rng, vocabulary), ref) for ref in refs)]
    theirs = counts_of_java(pairs)
    assert theirs.shape == (len(pairs), COUNTS)
    ours = meteor.load().counts(*([meteor._clean(pair[side]) for pair in pairs] for side in (0, 1)))
    np.testing.assert_array_equal(ours, theirs)


def test_tokens_of_the_treebank():
    texts = [
        "The patient's heart (big) isn't normal.",
        "",
        "Two\nlines\u2028and\x0b three",
        "<unk> 12/24; 2.5 cm",
        "cannot exclude",
    ]
    expected = [
        "the patient 's heart -lrb- big -rrb- is n't normal",
        "",
        "two lines and three",
        "<unk> 12/24 2.5 cm",
        "can not exclude",
    ]
    assert java.tokenize(texts) == expected
    assert [words(text) for text in texts] == expected
    assert java.tokenize([]) == []
