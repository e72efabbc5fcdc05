"""Code of the user's, by name: a Python file or an installed module, and maybe something in it.

One way to name and to load it, for `fetch.score.function` as for `train.pictures.annotator`.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

from turbo_fetch.errors import SpecError

SUFFIX: Final = ".py"
EXPECTED: Final = "expected a Python file, or the name of an installed module"


@dataclass(frozen=True, slots=True)
class UserCode:
    """A Python file with its text as it was read, or an installed module. Pickled, a file runs where it is not."""

    name: str
    """The path of the file, or the name of the module."""
    text: bytes | None
    """None for a module."""
    key: str
    """The key of the spec that names it."""

    @classmethod
    def read(cls, name: str, key: str) -> UserCode:
        """Read the file, if it is one. Raises SpecError if it cannot be read, or a module is not installed."""
        try:
            if name.endswith(SUFFIX):
                return cls(name, Path(name).read_bytes(), key)
            if find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}")
        except Exception as error:
            # To find a module in a package imports the package, whatever that does.
            raise _refused(key, name, error) from error
        return cls(name, None, key)

    @property
    def digest(self) -> str:
        """SHA-256 of the source, by which one text is told from another."""
        return hashlib.sha256(self.text if self.text is not None else self._source()).hexdigest()

    def module(self) -> ModuleType:
        """Run the code; return what it made. Files beside it can be imported by it. Raises SpecError."""
        try:
            return import_module(self.name) if self.text is None else self._run(self.text)
        except Exception as error:
            # Whatever its code does.
            raise _refused(self.key, self.name, error) from error

    def _source(self) -> bytes:
        spec = find_spec(self.name)
        origin = None if spec is None else spec.origin
        # One that is compiled, or has no file, is told by its name alone.
        return Path(origin).read_bytes() if origin is not None and Path(origin).is_file() else b""

    def _run(self, text: bytes) -> ModuleType:
        path = Path(self.name)
        # No module of that name is in the way of it, nor it of one: `clip.py` may well import `clip`.
        module = ModuleType(f"user_code_{path.stem}")
        module.__file__ = self.name
        sys.modules[module.__name__] = module
        if path.parent.is_dir() and str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        lines = text.decode(errors="replace").splitlines(keepends=True)
        # For tracebacks, also where the file is not.
        linecache.cache[self.name] = (len(text), None, lines, self.name)
        exec(compile(text, self.name, "exec"), module.__dict__)
        return module


def split_member(name: str) -> tuple[str, str]:
    """Return code and member of `file.py:member`; the member is empty where none is named."""
    code, _, member = name.rpartition(":")
    return (code, member) if code else (name, "")


def _refused(key: str, name: str, error: Exception) -> SpecError:
    return SpecError(f"{key} = {name!r}: cannot be imported ({type(error).__name__}: {error}); {EXPECTED}")
