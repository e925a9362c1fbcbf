"""Typed recipes."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all typed settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
