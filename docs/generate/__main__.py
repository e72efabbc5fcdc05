"""Write the generated pages: `python -m docs.generate`. A test compares them with the code."""

from __future__ import annotations

from pathlib import Path

from docs.generate.command_line import command_line_page
from docs.generate.outcomes import outcomes_page
from docs.generate.performance import performance_page, plots
from docs.generate.python_api import python_page
from docs.generate.scale import scale_page
from docs.generate.spec import spec_page
from docs.generate.training_memory import training_memory_page

DOCS = Path(__file__).resolve().parents[1]
PAGES = {
    "reference/spec.md": spec_page,
    "reference/cli.md": command_line_page,
    "reference/outcomes.md": outcomes_page,
    "reference/python.md": python_page,
    "performance.md": performance_page,
    "scale.md": scale_page,
    "dreambooth/memory.md": training_memory_page,
}


def main() -> None:
    """Write pages and plots."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    for name, svg in plots().items():
        (DOCS / "images" / name).write_text(svg)


if __name__ == "__main__":
    main()
