"""`[train]`: from a few images of a subject to a personalised model."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, model_validator

from turbo_fetch.spec.train_contradictions import contradictions
from turbo_fetch.spec.train_keys import TrainKeys


class TrainSpec(TrainKeys):
    """`[train]`: from a few images of a subject to a personalised model."""

    @model_validator(mode="after")
    def _makes_sense(self) -> TrainSpec:
        problems = [reason for wrong, reason in contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def changed(self, **keys: Any) -> TrainSpec | None:
        """Return the same with other keys; None if they make no sense beside the rest."""
        try:
            return TrainSpec.model_validate(self.model_dump(by_alias=True, exclude_unset=True) | keys)
        except ValidationError:
            return None
