"""The weighted sum of a reward's components."""

from collections.abc import Mapping, Sequence

from diagcot.rewards.names import GATED
from diagcot.rewards.score import Score
from diagcot.text import layout
from diagcot.training.config.reward_settings import PLAIN, RewardSettings
from diagcot.training.reward_models.scorers import Pair

UNREAD = "unread"
"""Name in a score of the number of its components whose judgement could not be read."""


def pair_of(text: str, reference: str, question: str, reward: RewardSettings) -> Pair:
    """What models are shown of a reply: the last answer block of a question's reply, the first one of any other.

    Without an answer block there is nothing to show, except to a reward that takes the whole reply then: mode `whole`,
    and those of other projects. Models see the question of a question's reply; that of a report says nothing.
    """
    asked = reward.name in GATED
    read = layout.last_answer if asked else layout.first_answer
    whole, answer = bool(reward.style) or reward.chosen_mode == "whole", read(text)
    if answer == text.strip() and not whole:
        answer = ""
    return Pair(answer, read(reference), question if asked else "")


def weighted(
    plain: Sequence[Score], models: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]
) -> list[Score]:
    """Scores of a group whose `overall` is the weighted sum of the components; the terms of the plain reward remain.

    models: component -> its value for each reply. A value that could not be read is taken to be the mean of the group's
    others, so that it neither pays nor costs, and is counted in UNREAD. Raises KeyError for a component that neither the
    plain reward nor a model gives, RuntimeError if a component could be read for no reply of the group.
    """
    columns = {name: _filled(name, values) for name, values in models.items()}
    rows = []
    for index, score in enumerate(plain):
        row = {**score, PLAIN: score["overall"], **{name: column[index] for name, column in columns.items()}}
        row["overall"] = sum(weight * row[name] for name, weight in weights.items())
        row[UNREAD] = float(sum(values[index] is None for values in models.values()))
        rows.append(row)
    return rows


def _filled(name: str, values: Sequence[float | None]) -> list[float]:
    read = [value for value in values if value is not None]
    if not read:
        raise RuntimeError(
            f"the component {name} of the reward gave no readable judgement of {len(values)} replies: is max_tokens of"
            f" reward_models.{name} enough, and does its server keep to a JSON schema?"
        )
    mean = sum(read) / len(read)
    return [mean if value is None else value for value in values]
