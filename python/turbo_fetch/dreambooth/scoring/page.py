"""`report.html` of the scores: curves, tables and images on one page that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from PIL import Image

from turbo_fetch.dreambooth.scoring.figures import figures
from turbo_fetch.dreambooth.scoring.scores import METRIC_NAMES, ModelScores, PromptScores, Scores, Verdict
from turbo_fetch.monitor.report.document import Page, asset, card, fill, plot_box, signature
from turbo_fetch.spec.dreambooth import Metric

REPORT: Final = "report.html"
IMAGES_SHOWN: Final = 3000
"""On the whole page; of more, fewer per prompt are shown."""
THUMBNAIL_SIDE: Final = 144
THUMBNAIL_QUALITY: Final = 82
_OF_CLASS: Final[tuple[Metric, ...]] = ("pres", "class_div")
_MEANING: Final[Mapping[Metric, str]] = {
    "dino": "similarity to the subject",
    "clip_i": "similarity to the subject",
    "clip_t": "similarity to the prompt",
    "pres": "class like the subject; less is better",
    "div": "variety within a prompt",
    "class_div": "variety of the class",
    "lpips": "variety within a prompt, as the paper has it",
}


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a model as data URLs: those of the prompts, prompt by prompt, and those of the class."""

    prompts: list[str]
    class_: list[str]


@dataclass(frozen=True, slots=True)
class Real:
    """The real images as data URLs, and how much they are like each other."""

    images: list[str]
    scores: Scores


def render(
    models: Sequence[ModelScores],
    verdict: Verdict | None,
    galleries: Sequence[Gallery],
    real: Real,
    facts: Mapping[str, Any],
) -> bytes:
    """Return the page as UTF-8 HTML; `galleries` are those of the models."""
    plots = list(figures(models, verdict, real.scores))
    shown = verdict.best if verdict is not None else models[-1].name
    best = next(model for model in models if model.name == shown)
    texts = {
        "cards": "".join(_cards(best, verdict)),
        "plots": "".join(plot_box(plot, wide=plot["id"] == "drift") for plot in plots),
        "rule": escape(f"best: {verdict.rule}" if verdict is not None else ""),
        "models": _models(models, verdict, real.scores),
        "real": _strip(real.images, "a real image of the subject"),
        "options": "".join(
            f"<option{' selected' if model.name == shown else ''}>{escape(model.name)}</option>"
            for model in models
        ),
        "galleries": _galleries(models, galleries, shown, facts),
        "facts": _facts(facts),
    }
    css, template, script = (asset(f"page.{kind}", __package__) for kind in ("css", "html", "js"))
    main = fill(template, {key: text.encode() for key, text in texts.items()})
    title = f"Scores of {len(models)} models" if len(models) > 1 else f"Scores of {best.name}"
    return Page(title, "scores", signature(), main, plots, css, script).render()


def _cards(best: ModelScores, verdict: Verdict | None) -> Iterator[str]:
    if verdict is not None:
        yield card("best", best.name, _compared(verdict))
    for metric, value in best.scores.items():
        yield card(METRIC_NAMES[metric], f"{value:.3f}", _MEANING[metric])


def _compared(verdict: Verdict) -> str:
    margin = f"margin {verdict.margins[verdict.best]:.3f}"
    return (
        margin
        if verdict.before is None
        else f"{margin}; {verdict.margins[verdict.before]:.3f} before training"
    )


def _models(models: Sequence[ModelScores], verdict: Verdict | None, real: Scores) -> str:
    names = list(models[0].scores)
    heads = "".join(f'<th class="number">{METRIC_NAMES[name]}</th>' for name in names)
    margin = '<th class="number">margin</th>' if verdict is not None else ""
    rows = [_real_row(names, real, verdict is not None)] if real else []
    for model in models:
        is_best = verdict is not None and model.name == verdict.best
        cells = "".join(f'<td class="number">{model.scores[name]:.3f}</td>' for name in names)
        if verdict is not None:
            cells += f'<td class="number">{verdict.margins[model.name]:.3f}</td>'
        place = model.model if model.lora is None else f"{model.model} + {model.lora}"
        rows.append(
            f"<tr{' class=best' if is_best else ''}><td>{escape(model.name)}{' ★' if is_best else ''}</td>{cells}"
            f'<td class="word">{escape(place)}</td></tr>'
        )
    return (
        f"<table><thead><tr><th>model</th>{heads}{margin}<th>place</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _real_row(names: Sequence[Metric], real: Scores, with_margin: bool) -> str:
    cells = "".join(
        f'<td class="number">{f"{real[name]:.3f}" if name in real else ""}</td>' for name in names
    )
    margin = "<td></td>" if with_margin else ""
    return f"<tr><td>real images</td>{cells}{margin}<td>with each other</td></tr>"


def _galleries(
    models: Sequence[ModelScores], galleries: Sequence[Gallery], shown: str, facts: Mapping[str, Any]
) -> str:
    asked = sum(len(model.prompts) for model in models)
    limit = max(1, IMAGES_SHOWN // max(asked, 1))
    return "".join(
        f'<div data-model="{escape(model.name)}"{"" if model.name == shown else " hidden"}>'
        f"{''.join(_gallery(model, gallery, limit, str(facts['class_prompt'])))}</div>"
        for model, gallery in zip(models, galleries, strict=True)
    )


def _gallery(model: ModelScores, gallery: Gallery, limit: int, class_prompt: str) -> Iterator[str]:
    if gallery.class_:
        of_class: Scores = {name: model.scores[name] for name in _OF_CLASS if name in model.scores}
        yield _asked(PromptScores(class_prompt, of_class), gallery.class_[: max(limit, 1)])
    for row, prompt in enumerate(model.prompts):
        images = len(gallery.prompts) // len(model.prompts)
        yield _asked(prompt, gallery.prompts[row * images : (row + 1) * images][:limit])


def _asked(prompt: PromptScores, images: Sequence[str]) -> str:
    return (
        f'<div class="asked"><div><p>{escape(prompt.prompt)}</p><p class="note">{_line(prompt.scores)}</p></div>'
        f'<div class="strip">{_strip(images, prompt.prompt)}</div></div>'
    )


def _line(scores: Scores) -> str:
    return " · ".join(f"{METRIC_NAMES[name]} {value:.3f}" for name, value in scores.items())


def _strip(images: Sequence[str], alt: str) -> str:
    return "".join(f'<img src="{image}" alt="{escape(alt)}">' for image in images)


def _facts(facts: Mapping[str, Any]) -> str:
    told = {**facts["settings"], "real images": len(facts["subject"]), **facts["weights"]}
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="word">{escape(_plain(value))}</td></tr>'
        for name, value in told.items()
        if value not in (None, "")
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def thumbnails(images: Sequence[Image.Image]) -> list[str]:
    """Return data URLs of the images, none larger than 144 pixels; what is smaller stays as it is."""
    return [_thumbnail(image) for image in images]


def _thumbnail(image: Image.Image) -> str:
    file = io.BytesIO()
    if max(image.size) <= THUMBNAIL_SIDE:
        image.save(file, "PNG")
        kind = "png"
    else:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
