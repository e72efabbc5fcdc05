"""`turbo-fetch schema`: the JSON Schema of the spec."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the spec, which lets editors complete and check it."""
    from turbo_fetch.spec import Spec

    typer.echo(json.dumps(Spec.model_json_schema(), indent=2))
