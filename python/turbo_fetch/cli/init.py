"""`turbo-fetch init`: a spec to start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

if TYPE_CHECKING:
    from turbo_fetch.plan.first_look import FirstLook

SCHEMA = "turbo-fetch.schema.json"


def init(
    urls: Annotated[str, typer.Argument(help="The list: a file, folder, glob or URL.", metavar="LIST")],
    spec: Annotated[Path, typer.Option(help="Where to write the spec.", metavar="SPEC.TOML")] = Path(
        "spec.toml"
    ),
    output: Annotated[str, typer.Option(help="Where the dataset is to be.", metavar="DATASET")] = "dataset",
    contact: Annotated[
        str, typer.Option(help="Your web page or mail address, for the owners of the sites you fetch from.")
    ] = "",
) -> None:
    """Look at a list, and write a commented spec for it; no file is overwritten.

    Beside it the JSON Schema of specs is written, with which editors complete and check it.
    """
    from turbo_fetch.errors import OutputError, OutputExists
    from turbo_fetch.plan.first_look import first_look
    from turbo_fetch.spec import Spec
    from turbo_fetch.storage.filesystems import path_of

    local = path_of(urls)
    look = first_look(str(local) if local is not None else urls)
    text = _spec(look, str(local.absolute()) if local is not None else urls, output, contact)
    try:
        spec.parent.mkdir(parents=True, exist_ok=True)
        with spec.open("x", encoding="utf-8") as file:
            file.write(text)
        schema = json.dumps(Spec.model_json_schema(), indent=2)
        (spec.parent / SCHEMA).write_text(f"{schema}\n", encoding="utf-8")
    except FileExistsError:
        raise OutputExists(f"{spec} is there already; expected a new file: --spec NAME.toml") from None
    except OSError as error:
        raise OutputError(f"{spec} cannot be written: {error.strerror}") from error
    rows = "" if look.rows is None else f", {look.rows:,} rows"
    names = ", ".join(name if name.isprintable() else repr(name) for name in look.names)
    typer.echo(
        f"list      {len(look.files):,} {'file' if len(look.files) == 1 else 'files'} in the format "
        f"{look.files[0].format}{rows}; columns: {names}\n"
        f"{_where(look)}, captions {'in ' + repr(look.caption) if look.caption else 'in none'}\n"
        f"spec      {spec}; look at it, then\n"
        f"          turbo-fetch plan {spec}    # what it would take\n"
        f"          turbo-fetch run {spec}     # make the dataset"
    )


def _where(look: FirstLook) -> str:
    if look.image is not None:
        return f"images    in {look.image!r}"
    if look.has_records:
        return f"records   of WARC files, URLs in {look.url!r}"
    is_closed = any(line == "[fetch.sources]" for line in _places(look))
    return f"URLs      in {look.url!r}{', also of places to be opened in fetch.sources' if is_closed else ''}"


def _spec(look: FirstLook, urls: str, output: str, contact: str) -> str:
    from turbo_fetch.spec import OutputFormat, OutputSpec

    usual = OutputSpec.model_fields["format"].default
    formats = [name for name in get_args(OutputFormat) if name != usual]
    agent = f"turbo-fetch/{{version}} (+{contact})" if contact else "turbo-fetch/{version} (contact unset)"
    others = look.others
    lines = [
        f"#:schema ./{SCHEMA}",
        "# What `turbo-fetch run` does with this file. Keys that are left out have defaults; all of them are in",
        "# docs/reference/spec.md. Relative paths begin at the folder of this file.",
        "",
        "[fetch.input]",
        f"urls = {_toml(urls)}",
        *(
            []
            if look.has_header
            else [f"column_names = {_toml(look.names)}    # the files have no header: name them"]
        ),
        *([] if look.separator is None else [f"separator = {_toml(look.separator)}"]),
        *(['format = "images"'] if look.files[0].format == "images" and "://" in urls else []),
        *([] if look.url == "url" else [f"url_column = {_toml(look.url)}"]),
        *([f"image_column = {_toml(look.image)}    # the images are in the list"] if look.image else []),
        *(
            [f"caption_column = {_toml(look.caption)}"]
            if look.caption
            else ['# caption_column = "…"    # no column looks like captions']
        ),
        *([f"# keep_columns = {_kept(others)}    # copied into the dataset"] if others else []),
        *(
            [
                f"# hash_column = {_toml(look.hash[0])}    # keep only images whose bytes are those",
                f"# hash_kind = {_toml(look.hash[1])}",
            ]
            if look.hash
            else []
        ),
        *([f"# where = {_toml(_example(others[0]))}    # which rows to take"] if others else []),
        "# rows = 1000    # a small trial first, into another dataset",
        *_places(look),
        "",
        "[fetch.http]",
        "# Who you are and how site owners reach you; without a contact many block you.",
        f"user_agent = {_toml(agent)}",
        "per_domain = 8    # most requests to a domain at once",
        "",
        "[fetch.image]",
        "size = 256",
        'mode = "center_crop"    # or keep_ratio, keep_ratio_largest, border, stretch, no',
        'encode = "jpg"    # or png, webp, original',
        "# min_side = 200    # drop images that are smaller",
        "",
        "[fetch.output]",
        f"path = {_toml(output)}",
        f'format = "{usual}"    # or {", ".join(formats)}',
        "samples_per_shard = 10_000",
    ]
    return "\n".join(lines) + "\n"


def _places(look: FirstLook) -> list[str]:
    """Return the lines about where images are that are not on the web. The user opens these places, not the list."""
    from turbo_fetch.spec import WarcSpec

    lines = []
    if look.has_records:
        lines += [
            "",
            "[fetch.input.warc]",
            f"prefix = {_toml(WarcSpec().prefix)}    # or a store, or a folder",
        ]
    folders, stores = _folders(look.elsewhere), sorted(filter(None, map(_store, look.elsewhere)))
    if folders or stores:
        lines += [
            "",
            "[fetch.sources]",
            "# The list names these places. They are read only if you open them:",
        ]
    if folders:
        lines.append(f"# files = {_toml(folders)}    # folders, where relative paths begin, too")
    if stores:
        lines.append(f"# stores = {_toml(list(dict.fromkeys(stores)))}    # beginnings of addresses")
    return lines


def _store(address: str) -> str | None:
    """Return the bucket, or the repository of a hub, that an address is in; None if it is in none."""
    from turbo_fetch.errors import PROTOCOL_EXTRAS

    scheme, mark, rest = address.strip().partition("://")
    parts = rest.split("/")[: 3 if scheme.lower() == "hf" else 1]
    is_store = bool(mark) and scheme.lower() in PROTOCOL_EXTRAS and parts[0] and "@" not in parts[0]
    return f"{scheme.lower()}://{'/'.join(parts)}/" if is_store else None


def _folders(addresses: Sequence[str]) -> list[str]:
    """Return the folder that the files of some addresses are in, or one to be replaced if no path says it."""
    from posixpath import commonpath, dirname
    from urllib.parse import unquote, urlsplit

    texts = [address.strip() for address in addresses]
    paths = [unquote(urlsplit(text).path) for text in texts if text.lower().startswith("file:")]
    paths += [text for text in texts if "://" not in text and not text.lower().startswith(("file:", "data:"))]
    absolute = [dirname(path) for path in paths if path.startswith("/")]
    shared = commonpath(absolute) if absolute else "/"
    return ["/folder/of/the/images" if shared == "/" else shared] if paths else []


def _kept(names: Sequence[str]) -> str:
    from turbo_fetch.plan.columns import TAKEN, without_clashes

    return without_clashes({name: name for name in names}, TAKEN | {"url", "caption"})


def _example(name: str) -> str:
    return f"{name if name.isidentifier() else f'column({json.dumps(name)})'} is not None"


def _toml(value: str | Sequence[str]) -> str:
    """Return a text, or a list of them, as TOML."""
    from turbo_fetch.spec.toml import quoted

    return quoted(value) if isinstance(value, str) else f"[{', '.join(map(quoted, value))}]"
