"""`turbo-fetch img2dataset`: img2dataset's command line, value syntax included."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import typer

from turbo_fetch.errors import SpecError, TooFewSamples
from turbo_fetch.runners.processes import start_ahead

CONTEXT: Final = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""Settings by which all arguments arrive here as they were typed."""

_FLAG: Final = re.compile(r"--|-[a-zA-Z]")
_OURS: Final = ("set", "print_spec", "quiet", "help")


@dataclass(slots=True)
class Arguments:
    """The command line, read: img2dataset's options by name, and what is turbo-fetch's own."""

    options: dict[str, Any] = field(default_factory=dict)
    positional: list[Any] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    print_spec: bool = False
    quiet: bool = False
    help: bool = False


def img2dataset(context: typer.Context) -> None:
    """Run with the options of img2dataset; `img2dataset --help` lists them."""
    from turbo_fetch.startup import importing, with_few_threads, with_late_modules, without_pandas

    with importing():
        without_pandas()
        with_few_threads()
        with_late_modules()
        arguments = parse_arguments(context.args)
        if arguments.help or not context.args:
            typer.echo(help_text())
            raise typer.Exit(0 if arguments.help else 2)
        options = named_by_fire(arguments)
        if _fetches_here(arguments, options):
            start_ahead(1)
        from turbo_fetch import stages
        from turbo_fetch.img2dataset.translation import translate
        from turbo_fetch.progress.display import Display
        from turbo_fetch.spec.specfile import dump_spec

    translation = translate(options, arguments.overrides)
    for note in translation.notes:
        typer.secho(f"turbo-fetch: {note}", err=True)
    if arguments.print_spec:
        typer.echo(dump_spec(translation.spec), nl=False)
        return
    try:
        with Display(sys.stderr, quiet=arguments.quiet) as display:
            summary = stages.run(translation.spec, display)
    except TooFewSamples as error:
        typer.echo(error.report)
        raise
    typer.echo(summary.text())
    # img2dataset exits with 0 then, and scripts rely on it.
    if (shortfall := summary.fetch.shortfall(0)) is not None:
        typer.secho(f"turbo-fetch: {shortfall}", fg=typer.colors.RED, err=True)


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Read arguments as Python Fire does, with which img2dataset is made.

    `--name=value`, `--name value`, `--name` for True, `--noname` for False, `-n` where one name begins with n,
    hyphens for underscores, values by position; values are Python literals, in which bare words are strings.
    Raises SpecError for a letter that several names begin with.
    """
    from turbo_fetch.img2dataset.options import Img2DatasetOptions

    names = [*Img2DatasetOptions.model_fields, *_OURS]
    read = Arguments()
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not _FLAG.match(argument):
            read.positional.append(literal(argument))
            continue
        key, equals, text = argument.lstrip("-").partition("=")
        name = _full_name(key.replace("-", "_"), names)
        if not equals and (name in _OURS[1:] or not left or _FLAG.match(left[0])):
            is_negated = name not in names and name.startswith("no") and name[2:] in names
            name, text = (name[2:], "False") if is_negated else (name, "True")
        elif not equals:
            text = left.pop(0)
        _enter(read, name, text)
    return read


def _fetches_here(arguments: Arguments, options: Mapping[str, Any]) -> bool:
    """Whether the options are for a run on this machine, before they are validated; what is wrong is said by that."""
    from turbo_fetch.img2dataset.options import Img2DatasetOptions
    from turbo_fetch.spec.toml import overridden

    fields = Img2DatasetOptions.model_fields
    if arguments.print_spec or "url_list" not in options or not options.keys() <= fields.keys():
        return False
    try:
        engine = overridden({"engine": {"kind": "local"}}, arguments.overrides)["engine"]
    except SpecError:
        return False
    distributor = fields["distributor"].default
    return bool(options.get("distributor", distributor) == distributor and engine.get("kind") == "local")


def named_by_fire(read: Arguments) -> dict[str, Any]:
    """Return options by name: unlike Python, Fire has positional values go to the first ones that are not named."""
    from turbo_fetch.img2dataset.options import Img2DatasetOptions

    free = [name for name in Img2DatasetOptions.model_fields if name not in read.options]
    if len(read.positional) > len(free):
        from turbo_fetch.img2dataset.translation import named

        return named(read.positional, read.options)
    return {**dict(zip(free, read.positional, strict=False)), **read.options}


def _full_name(key: str, names: Sequence[str]) -> str:
    if len(key) > 1:
        return key
    # img2dataset's names come first in the list, and a letter that one of them begins with is theirs.
    theirs = [name for name in names if name not in _OURS and name.startswith(key)]
    matching = theirs or [name for name in names if name.startswith(key)]
    if len(matching) > 1:
        raise SpecError(f"img2dataset: -{key} matches {', '.join(matching)}; expected a whole name")
    return matching[0] if matching else key


def _enter(read: Arguments, name: str, text: str) -> None:
    if name == "set":
        read.overrides.append(text)
    elif name in _OURS:
        setattr(read, name, bool(literal(text)))
    else:
        read.options[name] = literal(text)


def literal(text: str) -> Any:
    """Return the Python literal that the text is, bare words being strings, or else the text."""
    try:
        tree = ast.parse(text, mode="eval")
        if isinstance(tree.body, ast.BinOp) or "#" in text:
            return text
        return ast.literal_eval(_Quoted().visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


class _Quoted(ast.NodeTransformer):
    """Puts bare words in quotes: `[noai, noindex]` is a list of two strings."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(node.id), node)


def help_text() -> str:
    """Return what `--help` prints: each option with its default and what it means in a spec."""
    from turbo_fetch.img2dataset.options import Img2DatasetOptions

    lines = [
        "Usage: turbo-fetch img2dataset --url_list=LIST [--OPTION=VALUE]...",
        "",
        "The options of img2dataset 1.47, run by turbo-fetch. After each one: its default, its meaning,",
        "and the key of a spec that it sets. docs/coming-from-img2dataset.md lists the differences.",
        "",
    ]
    meanings = Img2DatasetOptions.meanings()
    for name, option in Img2DatasetOptions.model_fields.items():
        default = "required" if option.is_required() else repr(option.default)
        meaning = " ".join(meanings[name].split()).replace("`", "")
        lines += [f"  --{name} ({default})", f"        {meaning}"]
    return "\n".join(
        [
            *lines,
            "",
            "Further options:",
            "  --set KEY=VALUE   Set a key of the spec that has no option in img2dataset; may be repeated.",
            "  --print_spec      Print the equivalent spec, and run nothing.",
            "  --quiet           No progress, only the summary.",
        ]
    )
