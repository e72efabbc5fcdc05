"""Lists as careless programs write them: strategies for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

WORDS = st.sampled_from(
    ["a cat", "Mind the gap", "12", "x", "", "ü", "\0", "é\u2028", "''", "see http://b.example/x.jpg"]
)
QUOTES = st.sampled_from(["", "", "", '"', '""', '"""', '" ', ' "'])
LINE_ENDS = ("\n", "\r\n", "\r")


@st.composite
def captions(draw: st.DrawFn, separators: str = "") -> str:
    """A caption with quotes anywhere, and some of the separators."""
    parts = draw(
        st.lists(st.tuples(QUOTES, WORDS, st.sampled_from(["", *separators])), min_size=1, max_size=3)
    )
    return "".join(part for triple in parts for part in triple) + draw(QUOTES)


def url(number: int) -> str:
    """The URL of a row, by which it is known."""
    return f"http://host{number % 3}.example/{number}.jpg"
