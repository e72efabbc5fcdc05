"""`report.html` of the scores: curves, tables and pictures on one page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from turbo_fetch.dreambooth.scoring.figures import figures
from turbo_fetch.dreambooth.scoring.gallery import Gallery, Real
from turbo_fetch.dreambooth.scoring.measure import SPOKEN, ModelScores, PromptScores, Scores, Verdict
from turbo_fetch.monitor.report.document import Page, asset, card, fill, plot_box, signature
from turbo_fetch.spec.dreambooth import Metric

REPORT: Final = "report.html"
PICTURES_SHOWN: Final = 3000
"""On the whole page; of more, fewer per prompt are shown."""
_OF_CLASS: Final[tuple[Metric, ...]] = ("pres", "class_div")
_MEANING: Final[Mapping[Metric, str]] = {
    "dino": "likeness to the subject",
    "clip_i": "likeness to the subject",
    "clip_t": "likeness to the prompt",
    "pres": "class like the subject; less is better",
    "div": "variety within a prompt",
    "class_div": "variety of the class",
    "lpips": "variety within a prompt, as the paper has it",
}


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
        "real": _strip(real.pictures, "a real picture of the subject"),
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
        yield card(SPOKEN[metric], f"{value:.3f}", _MEANING[metric])


def _compared(verdict: Verdict) -> str:
    margin = f"margin {verdict.margins[verdict.best]:.3f}"
    return (
        margin
        if verdict.before is None
        else f"{margin}; {verdict.margins[verdict.before]:.3f} before training"
    )


def _models(models: Sequence[ModelScores], verdict: Verdict | None, real: Scores) -> str:
    names = list(models[0].scores)
    heads = "".join(f'<th class="number">{SPOKEN[name]}</th>' for name in names)
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
    return f"<tr><td>real pictures</td>{cells}{margin}<td>with each other</td></tr>"


def _galleries(
    models: Sequence[ModelScores], galleries: Sequence[Gallery], shown: str, facts: Mapping[str, Any]
) -> str:
    asked = sum(len(model.prompts) for model in models)
    limit = max(1, PICTURES_SHOWN // max(asked, 1))
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


def _asked(prompt: PromptScores, pictures: Sequence[str]) -> str:
    return (
        f'<div class="asked"><div><p>{escape(prompt.prompt)}</p><p class="note">{_line(prompt.scores)}</p></div>'
        f'<div class="strip">{_strip(pictures, prompt.prompt)}</div></div>'
    )


def _line(scores: Scores) -> str:
    return " · ".join(f"{SPOKEN[name]} {value:.3f}" for name, value in scores.items())


def _strip(pictures: Sequence[str], alt: str) -> str:
    return "".join(f'<img src="{picture}" alt="{escape(alt)}">' for picture in pictures)


def _facts(facts: Mapping[str, Any]) -> str:
    told = {**facts["settings"], "real pictures": len(facts["subject"]), **facts["weights"]}
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="word">{escape(_plain(value))}</td></tr>'
        for name, value in told.items()
        if value not in (None, "")
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
