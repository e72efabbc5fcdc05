"""The plots of the scores as plotly takes them: pure functions, without importing plotly.

Colours are names of the page's palette (`@good`), as in the report of a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from turbo_fetch.dreambooth.scoring.scores import METRIC_NAMES, ModelScores, Scores, Verdict, drift
from turbo_fetch.spec.dreambooth import Metric

Figure = dict[str, Any]

_SIMILARITY: Final[Mapping[Metric, str]] = {"dino": "@accent", "clip_i": "@good", "clip_t": "@bad"}
_OF_CLASS: Final[Mapping[Metric, str]] = {
    "pres": "@accent",
    "div": "@good",
    "class_div": "@bad",
    "lpips": "@muted",
}
"""The metrics of a plot with the colours of their curves."""


def figures(models: Sequence[ModelScores], verdict: Verdict | None, real: Scores) -> Iterator[Figure]:
    """Yield the plots for which there is something to show: `id`, `title`, `note`, `data` and `layout`.

    `real` is how much the real images are like each other.
    """
    note = "" if verdict is None else f"the star is {verdict.best}"
    if any(metric in models[0].scores for metric in _SIMILARITY):
        figure = _curves(
            "similarity", "Similarity to the subject and to the prompt", _SIMILARITY, models, verdict, note
        )
        places = figure["data"][0]["x"]
        figure["data"] += [
            _level(metric, real[metric], places, colour)
            for metric, colour in _SIMILARITY.items()
            if metric in real and len(models) > 1
        ]
        yield figure
    if any(metric in models[0].scores for metric in _OF_CLASS):
        yield _curves("class", "What became of the class", _OF_CLASS, models, verdict, "PRES: less is better")
    if verdict is not None and verdict.fidelity in models[0].scores and "pres" in models[0].scores:
        yield _against_drift(models, verdict)


def _curves(
    name: str,
    title: str,
    wanted: Mapping[Metric, str],
    models: Sequence[ModelScores],
    verdict: Verdict | None,
    note: str,
) -> Figure:
    by_step = all(model.step is not None for model in models)
    places = [model.step if by_step else model.name for model in models]
    data = []
    for metric, colour in wanted.items():
        if metric not in models[0].scores:
            continue
        is_best = [verdict is not None and model.name == verdict.best for model in models]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": METRIC_NAMES[metric],
                "x": places,
                "y": [round(model.scores[metric], 5) for model in models],
                "line": {"color": colour, "width": 2},
                "marker": {
                    "color": colour,
                    "symbol": ["star" if best else "circle" for best in is_best],
                    "size": [14 if best else 7 for best in is_best],
                    "opacity": 1,
                },
                "hovertemplate": "%{y:.3f}",
            }
        )
    axis = {"title": {"text": "step"}, "rangemode": "tozero"} if by_step else {"type": "category"}
    return {
        "id": name,
        "title": title,
        "note": note,
        "data": data,
        "layout": {
            "xaxis": axis,
            "hovermode": "x unified",
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def _level(metric: Metric, value: float, places: Sequence[Any], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{METRIC_NAMES[metric]} of the real images",
        "x": [places[0], places[-1]],
        "y": [round(value, 5)] * 2,
        "line": {"color": colour, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _against_drift(models: Sequence[ModelScores], verdict: Verdict) -> Figure:
    before = models[0].scores["pres"]
    is_best = [model.name == verdict.best for model in models]
    is_named = [best or number in {0, len(models) - 1} for number, best in enumerate(is_best)]
    points = {
        "type": "scatter",
        "mode": "lines+markers+text",
        "x": [round(drift(model.scores["pres"], before), 5) for model in models],
        "y": [round(model.scores[verdict.fidelity], 5) for model in models],
        # All names would lie on each other where a training has settled; the others are under the pointer.
        "text": [model.name if named else "" for model, named in zip(models, is_named, strict=True)],
        "customdata": [model.name for model in models],
        "textposition": "top center",
        "line": {"color": "@muted", "width": 1, "dash": "dot"},
        "marker": {
            "color": ["@good" if best else "@accent" for best in is_best],
            "symbol": ["star" if best else "circle" for best in is_best],
            "size": [15 if best else 8 for best in is_best],
            "opacity": 1,
        },
        "cliponaxis": False,
        "hovertemplate": "%{customdata}<br>drift %{x:.3f}, fidelity %{y:.3f}<extra></extra>",
    }
    return {
        "id": "drift",
        "title": "Fidelity against drift",
        "note": f"up and to the left is better; the star is {verdict.best}",
        "data": [points],
        "layout": {
            "xaxis": {"title": {"text": f"rise of PRES above {models[0].name}"}},
            "yaxis": {"title": {"text": METRIC_NAMES[verdict.fidelity]}},
            "showlegend": False,
        },
    }
