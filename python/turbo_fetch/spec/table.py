"""What every table of the spec has in common."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Place:
    """Marks a field as a path of this machine or an fsspec URL: `specfile` has relative paths begin at the spec file.

    `words` mean something else. With `or_name`, what is not there is a name, such as that of a model on a hub. With
    `has_member`, a colon and a name in the file follow.
    """

    words: tuple[str, ...] = ()
    or_name: bool = False
    has_member: bool = False


_LONGEST_NAME: Final = 255


def _writable(path: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError("is not valid UTF-8; expected a name in UTF-8, and a UTF-8 locale")
    longest = max(len(name.encode()) for name in path.split("/"))
    if longest > _LONGEST_NAME and "://" not in path:
        raise ValueError(
            f"has a name of {longest} bytes in it; expected at most {_LONGEST_NAME}, as file systems have"
        )
    return path


Location = Annotated[str, Place(), AfterValidator(_writable)]
ModelName = Annotated[str, Field(min_length=1), Place(or_name=True), AfterValidator(_writable)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
VaeTiling = bool | Literal["auto"]


class Table(BaseModel):
    """One table of the spec: frozen, documented from its docstrings, strict about names and types.

    `"10"`, `10.0` and `true` are no integers, `"yes"` is no boolean, `inf` and `nan` are no numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, values: Any) -> Any:
        return _frozen(values)

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Return what each field means, by name: the docstring below it in the source.

        Read when it is asked for; pydantic's `use_attribute_docstrings` would read it whenever a process starts.
        """
        import ast
        import inspect

        base = cls.__base__
        inherited = base.meanings() if base is not None and issubclass(base, Table) else {}
        (tree,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(tree, ast.ClassDef)
        return inherited | {
            field.target.id: inspect.cleandoc(text.value.value)
            for field, text in pairwise(tree.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(text.value.value, str)
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, meaning in cls.meanings().items():
            properties[cls.model_fields[name].alias or name]["description"] = meaning
        return schema


def _frozen(value: Any) -> Any:
    """Return what TOML or JSON holds with tuples for its lists, which strict types do not take."""
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return {key: _frozen(inner) for key, inner in value.items()} if isinstance(value, dict) else value
