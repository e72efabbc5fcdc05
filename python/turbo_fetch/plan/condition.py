"""`where`: a condition on columns, of a list or of a dataset, written as Python writes them, as an Arrow expression.

Null as in SQL: what is compared with null is null, and a row whose condition is null is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.errors import SpecError

KEY: Final = "fetch.input.where"

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
    ast.Lt: lambda left, right: left < right,
    ast.LtE: lambda left, right: left <= right,
    ast.Gt: lambda left, right: left > right,
    ast.GtE: lambda left, right: left >= right,
}
_TURNED: Final[Mapping[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.Eq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
"""What compares the other side with this one."""
_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}
_ON_DOUBLES: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    # Looked up when called: what is imported here is imported late, see startup.LATE.
    ast.Add: lambda left, right: pc.add(left, right),
    ast.Sub: lambda left, right: pc.subtract(left, right),
    ast.Mult: lambda left, right: pc.multiply(left, right),
    # Null as in SQL: Arrow would fail all rows for one that divides by zero.
    ast.Div: lambda left, right: pc.divide(
        left, pc.if_else(right == 0.0, pa.scalar(None, pa.float64()), right)
    ),
}
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "abs": lambda value: pc.abs(value),
    "lower": lambda text: pc.utf8_lower(text),
    "length": lambda text: pc.utf8_length(text),
    "contains": lambda text, part: pc.match_substring(text, _constant(part)),
    "startswith": lambda text, part: pc.starts_with(text, _constant(part)),
    "endswith": lambda text, part: pc.ends_with(text, _constant(part)),
    "matches": lambda text, pattern: pc.match_substring_regex(text, _constant(pattern)),
}
_LARGEST: Final = 10**38 - 1
"""What a decimal128 holds, and so every integer of a column."""
_EXPECTED: Final = (
    'expected a condition such as "similarity > 0.3 and width >= 256": column names, numbers, quoted texts, '
    '+ - * /, == != < <= > >=, in, is None, and, or, not, column("odd name"), '
    f"{', '.join(sorted(_FUNCTIONS))}"
)


@dataclass(frozen=True, slots=True)
class _Literal:
    """A constant of the condition."""

    value: Any


@dataclass(frozen=True, slots=True)
class _Field:
    """A column, or what is calculated."""

    expression: pc.Expression
    type: pa.DataType | None
    name: str | None = None
    """Its name in the list; None of what is calculated."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column that is compared with a constant; `operator` is that of the syntax tree."""

    column: str
    operator: type[ast.cmpop]
    constant: Any


Parts = Comparison | tuple[type[ast.And] | type[ast.Or], "tuple[Parts, ...]"] | None
"""A condition as comparisons, and all or one of such parts; None for what is something else."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on rows; it can be pickled."""

    text: str
    key: str = KEY
    """The key of the spec that has it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it asks for, each once. Raises SpecError if it is none."""
        names: dict[str, None] = {}

        def field(name: str) -> _Field:
            names[name] = None
            return _Field(pc.field(name), None, name)

        _Translation(self, field).whole()
        if not names:
            raise SpecError(f"{self.key} = {self.text!r} names no column; {_EXPECTED}")
        return tuple(names)

    def expression(self, named: Mapping[str, str], schema: pa.Schema) -> pc.Expression:
        """Return it on columns of a table, which may have other names there than in the list. Raises SpecError."""
        return _Translation(self, _fields(named, schema)).whole()

    def compared(
        self, operator: type[ast.cmpop], column: str, constant: Any, schema: pa.Schema
    ) -> pc.Expression:
        """Return the comparison of a column of a table with a constant, as `expression` has it."""
        field = _Field(pc.field(column), schema.field(column).type)
        return _Translation(self, lambda name: field).of_both(operator, field, _Literal(constant))

    @property
    def parts(self) -> Parts:
        """The condition as far as it is comparisons of columns with constants."""
        sides = _Translation(self, lambda name: _Field(pc.field(name), None, name))
        return _parts(sides, ast.parse(self.text.strip(), mode="eval").body)

    def filtered(self, batch: pa.RecordBatch, named: Mapping[str, str]) -> pa.RecordBatch:
        """Return the rows that it holds for. Raises SpecError if it cannot be told of one of them."""
        try:
            return batch.filter(self.expression(named, batch.schema))
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise SpecError(f"{self.key} = {self.text!r} cannot be told of a row: {reason}") from error

    def check(self, schema: pa.Schema, named: Mapping[str, str]) -> None:
        """Raise SpecError if it cannot be told of rows with these columns."""
        nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema.names)
        plain = _Translation(self, _fields(named, schema), in_doubles=False).whole()
        try:
            # Doubles can be made of texts, too: the types are judged without them.
            nulls.slice(0, 0).filter(plain)
            nulls.filter(self.expression(named, schema))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            types = ", ".join(f"{name} is {schema.field(named[name]).type}" for name in self.columns)
            reason = str(error).splitlines()[0]
            raise SpecError(
                f"{self.key} = {self.text!r} does not fit the columns ({types}): {reason}"
            ) from error


def _fields(named: Mapping[str, str], schema: pa.Schema) -> Callable[[str], _Field]:
    return lambda name: _Field(pc.field(named[name]), schema.field(named[name]).type)


class _Translation:
    """From Python's syntax tree to Arrow's expression.

    `in_doubles`: numbers that are calculated with, or compared with a fraction, are doubles, as Arrow's own types are
    too small for some values, and one such row would fail all.
    """

    def __init__(
        self, condition: Condition, column: Callable[[str], _Field], *, in_doubles: bool = True
    ) -> None:
        self._text = condition.text
        self._key = condition.key
        self._column = column
        self._in_doubles = in_doubles

    def whole(self) -> pc.Expression:
        try:
            return _expression(self.of(ast.parse(self._text.strip(), mode="eval").body))
        except SyntaxError as error:
            raise self._refused(f"is no condition ({error.msg})") from None
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise self._refused(f"cannot be read ({error})") from None

    def of(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op, values):
                parts = [_expression(self.of(value)) for value in values]
                if isinstance(op, ast.And):
                    return reduce(lambda left, right: left & right, parts)
                return reduce(lambda left, right: left | right, parts)
            case ast.UnaryOp(ast.Not(), operand):
                return ~_expression(self.of(operand))
            case ast.UnaryOp(ast.USub(), ast.Constant(value)) if isinstance(value, int | float):
                return _Literal(-value)
            case ast.Compare(left, operators, others):
                sides = [left, *others]
                parts = [self._compared(*each) for each in zip(sides, operators, others, strict=False)]
                return reduce(lambda left, right: left & right, parts)
            case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
                if self._in_doubles:
                    found = _ON_DOUBLES[type(operator)](_double(self.of(left)), _double(self.of(right)))
                    return _Field(found, pa.float64())
                return _ARITHMETIC[type(operator)](_expression(self.of(left)), _expression(self.of(right)))
            case ast.Call(ast.Name(function), arguments, []):
                return self._called(function, arguments)
            case ast.Name(name):
                return self._column(name)
            case ast.Constant(value) if isinstance(value, str | int | float) or value is None:
                return _Literal(value)
            case _:
                raise self._refused(f"has {ast.unparse(node)[:40]!r}, which is not understood")

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._refused("has `in` without a list of constants")
            values = [self.of(each) for each in right.elts]
            if not all(isinstance(each, _Literal) for each in values):
                raise self._refused("has `in` without a list of constants")
            among = reduce(
                lambda found, each: found | each,
                [self.of_both(ast.Eq, self.of(left), each) for each in values],
                pc.scalar(False),
            )
            return ~among if isinstance(operator, ast.NotIn) else among
        first, second = self.of(left), self.of(right)
        is_null = isinstance(second, _Literal) and second.value is None
        if isinstance(operator, ast.Is | ast.IsNot):
            if not is_null:
                raise self._refused("has `is` with something else than None")
            null = _expression(first).is_null()
            return ~null if isinstance(operator, ast.IsNot) else null
        if is_null:
            raise self._refused("compares with None, which is never true; write `is None` or `is not None`")
        return self.of_both(type(operator), first, second)

    def of_both(self, operator: type[ast.cmpop], first: Any, second: Any) -> pc.Expression:
        kinds = {_number_type(first), _number_type(second)}
        are_numbers = None not in kinds
        has_real = any(kind is not None and pa.types.is_floating(kind) for kind in kinds)
        if has_real and (self._in_doubles or are_numbers):
            kind = _double
        else:
            kind = _exact if are_numbers and pa.uint64() in kinds else _expression
        return _COMPARISONS[operator](kind(first), kind(second))

    def _called(self, function: str, arguments: list[ast.expr]) -> Any:
        if function == "column":
            match arguments:
                case [ast.Constant(str(name))]:
                    return self._column(name)
            raise self._refused("has column() without one quoted name")
        if function not in _FUNCTIONS:
            raise self._refused(f"has the function {function!r}, which is not known")
        given = [self.of(each) for each in arguments]
        try:
            found = _FUNCTIONS[function](_expression(given[0]), *given[1:])
            is_field = function == "abs" and isinstance(given[0], _Field)
            return _Field(found, given[0].type) if is_field else found
        except (TypeError, IndexError, ValueError):
            raise self._refused(f"has {function}() with other arguments than it takes") from None

    def _refused(self, why: str) -> SpecError:
        return SpecError(f"{self._key} = {self._text!r} {why}; {_EXPECTED}")


def _parts(sides: _Translation, node: ast.expr) -> Parts:
    match node:
        case ast.BoolOp(op, values):
            kind = ast.And if isinstance(op, ast.And) else ast.Or
            return kind, tuple(_parts(sides, value) for value in values)
        case ast.Compare(left, operators, others):
            pairs = zip([left, *others], operators, others, strict=False)
            return ast.And, tuple(_comparison(sides, *pair) for pair in pairs)
    return None


def _comparison(sides: _Translation, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Parts:
    if isinstance(operator, ast.In) and isinstance(right, ast.List | ast.Tuple | ast.Set):
        return ast.Or, tuple(_comparison(sides, left, ast.Eq(), each) for each in right.elts)
    if isinstance(operator, ast.In | ast.NotIn):
        return None
    match sides.of(left), sides.of(right):
        case _Field(name=str(name)), _Literal(value):
            return Comparison(name, type(operator), value)
        case _Literal(value), _Field(name=str(name)) if type(operator) in _TURNED:
            return Comparison(name, _TURNED[type(operator)], value)
    return None


def _expression(value: Any) -> pc.Expression:
    if isinstance(value, _Field):
        return value.expression
    if not isinstance(value, _Literal):
        return value
    is_huge = _number_type(value) == pa.uint64()
    return pc.scalar(pa.scalar(Decimal(value.value)) if is_huge else value.value)


def _number_type(side: Any) -> pa.DataType | None:
    """Return the type of a side that is an integer or real number, None of others; uint64 if int64 is too small."""
    if isinstance(side, _Literal):
        if type(side.value) is float:
            return pa.float64()
        if type(side.value) is not int:
            return None
        return pa.int64() if -(2**63) <= side.value < 2**63 else pa.uint64()
    kind = side.type if isinstance(side, _Field) else None
    return kind if kind is not None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)) else None


def _exact(value: Any) -> pc.Expression:
    if isinstance(value, _Literal):
        # No integer of a column is as large: what is larger is compared with all of them alike.
        within = max(-_LARGEST, min(_LARGEST, value.value))
        return pc.scalar(pa.scalar(Decimal(within), pa.decimal128(38)))
    return _expression(value).cast(pa.decimal128(38))


def _double(value: Any) -> pc.Expression:
    if isinstance(value, _Literal) and type(value.value) is int:
        return pc.scalar(float(value.value))
    return _expression(value).cast(pa.float64(), safe=False)


def _constant(value: Any) -> str:
    if not isinstance(value, _Literal) or not isinstance(value.value, str):
        raise ValueError("not a quoted text")
    return value.value
