"""Agreement of two graphs of entities and relations: RadGraph F1 by its published rules."""

import re
from dataclasses import dataclass

from diagcot.metrics.reasoning import Reasoning
from diagcot.metrics.sets import f1

Entity = tuple[str, str]  # its words, and its label

LEVELS = ("simple", "partial", "complete")


@dataclass(frozen=True)
class Graph:
    """Entities in the order of the text; relations are (source, target, label) by their places among the entities."""

    entities: tuple[Entity, ...]
    relations: tuple[tuple[int, int, str], ...] = ()


def radgraph_f1(ours: Graph, theirs: Graph) -> dict[str, float]:
    """F1 of each of LEVELS, 0 to 1, as the package radgraph 0.1.18 has them; 0 where either side has no entity.

    simple: entities by words and label. partial: also by whether they have a relation. complete: those that have one
    count once for each, by its label and the words at its end.
    """
    if not ours.entities or not theirs.entities:
        return dict.fromkeys(LEVELS, 0.0)
    return {level: f1(_items(ours, level), _items(theirs, level), both_empty=0.0) for level in LEVELS}


def _items(graph: Graph, level: str) -> set[tuple[object, ...]]:
    sources = {source for source, _, _ in graph.relations}
    if level == "simple":
        return {(words, label) for words, label in graph.entities}
    if level == "partial":
        return {(*entity, place in sources) for place, entity in enumerate(graph.entities)}
    # The package lowers the case of words that have a relation, and of no others.
    alone = {entity for place, entity in enumerate(graph.entities) if place not in sources}
    joined = {
        (graph.entities[source][0].lower(), graph.entities[source][1], label, graph.entities[target][0].lower())
        for source, target, label in graph.relations
    }
    return {*alone, *joined}


def graph_reasoning(think: Graph, answer: Graph, reference: Graph) -> Reasoning | None:
    """The metric of a reasoning (`diagcot.metrics.reasoning`) by the entities of RadGraph, their words and labels.

    factuality: share of the reasoning's entities that the reference has. completeness: share of the reference's that the
    reasoning has. effectiveness: F1 of the entities of reasoning and answer. None where the reference has no entity.
    """
    thought, answered, true = set(think.entities), set(answer.entities), set(reference.entities)
    if not true:
        return None
    shared = len(thought & true)
    return Reasoning(
        factuality=shared / len(thought) if thought else 0.0,
        completeness=shared / len(true),
        effectiveness=f1(thought, answered, both_empty=0.0),
    )


def radcliq_f1(ours: Graph, theirs: Graph) -> float:
    """Mean of the F1 of entities and of relations with both ends, 0 to 1, as RadCliQ's authors have it."""
    relations, their_relations = (
        {(graph.entities[source], graph.entities[target], label) for source, target, label in graph.relations}
        for graph in (ours, theirs)
    )
    entity_f1 = f1(set(ours.entities), set(theirs.entities), both_empty=0.0)
    return (entity_f1 + f1(relations, their_relations, both_empty=0.0)) / 2


_STOPS = re.compile(r"([/,:.!?()])")
_WORDS = re.compile(r"\w+|[^\w\s]+")
_GLUED = ((").", ") ."), ("%.", "% ."), (".'", ". '"), ("%,", "% ,"), ("%)", "% )"))
_ESCAPES = (("\\n", "  "), ("\\f", "  "), ("\\u2122", "      "), ("\n", " "), ('\\"', "``"))


def radgraph_words(text: str) -> list[str]:
    """A report's words as RadGraph was trained on them."""
    return _STOPS.sub(r" \1 ", text).split()


def radgraph_xl_words(text: str) -> list[str]:
    """A report's words as RadGraph-XL was trained on them: words and runs of other signs (NLTK's wordpunct_tokenize)."""
    for sign, instead in _ESCAPES:
        text = text.replace(sign, instead)
    joined = " ".join(_WORDS.findall(text))
    for sign, instead in _GLUED:
        joined = joined.replace(sign, instead)
    return joined.split()
