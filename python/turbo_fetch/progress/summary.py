"""What a run comes to: counted from commit records, told in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turbo_fetch.causes import Reason
from turbo_fetch.errors import TooFewSamples
from turbo_fetch.plan.list_notes import ListNotes, sentences
from turbo_fetch.progress.diagnosis import diagnosis
from turbo_fetch.redaction import redact

TOP: Final = 5
KEPT: Final = 10_000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(slots=True)
class Summary:
    """The account of a dataset after a run: all its shards, and what this run added."""

    path: str
    rows: int = 0
    shards: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Rows by the label of their outcome."""
    reasons: Counter[Reason] = field(default_factory=Counter)
    """Failed rows by outcome and detail; of very many reasons, the most frequent ones."""
    failing_hosts: Counter[str] = field(default_factory=Counter)
    """Failed rows by registrable domain; of very many domains, the most frequent ones."""
    list_notes: ListNotes = field(default_factory=ListNotes)
    """What was odd about the rows of the list."""
    dataset_bytes: int = 0
    downloaded_bytes: int = 0
    """Bytes of bodies that this run received."""
    run_rows: int = 0
    """Rows that this run ended."""
    wall_s: float = 0.0
    left_out: int = 0
    """Rows of the list that this run read and was not to take."""
    was_complete: bool = False
    """Whether there was nothing left to do."""

    def add_shard(self, record: Mapping[str, Any]) -> None:
        """Count the commit record of a shard."""
        self.shards += 1
        self.rows += record["rows"]
        self.outcomes.update(record["outcomes"])
        self.dataset_bytes += sum(file["bytes"] for file in record["files"])
        self.list_notes.merge(record.get("list_notes", {}))
        self.failing_hosts.update(record["failing_hosts"])
        # Datasets of older versions have none.
        self.reasons.update(record.get("reasons", {}))
        for name in ("failing_hosts", "reasons"):
            counts = getattr(self, name)
            if len(counts) > 2 * KEPT:
                setattr(self, name, Counter(dict(counts.most_common(KEPT))))

    @property
    def successes(self) -> int:
        """Rows that became samples."""
        return self.outcomes["success"]

    @property
    def causes(self) -> list[str]:
        """Why many rows failed, in sentences that name what to change."""
        return diagnosis(self.outcomes, self.reasons, self.failing_hosts)

    def shortfall(self, min_success: float) -> str | None:
        """Say that too few rows became samples, which are none or a share below `min_success`; None if it is enough."""
        if not self.rows or (self.successes and self.successes >= min_success * self.rows):
            return None
        if not self.successes:
            return f"none of the {self.rows:,} rows became a sample"
        return (
            f"{self.successes:,} of {self.rows:,} rows became samples, a share of {self.successes / self.rows:.4g}; "
            f"fetch.min_success requires {min_success:.4g}"
        )

    def check(self, min_success: float) -> None:
        """Raise TooFewSamples if too few rows became samples; see `shortfall`."""
        shortfall = self.shortfall(min_success)
        if shortfall is not None:
            again = (
                "turbo-fetch retry requests rows with temporary failures again"
                if self.successes
                else "After a change, request all rows again: --set fetch.output.if_exists=overwrite"
            )
            why = f": {'; '.join(self.causes)}" if self.causes else ""
            raise TooFewSamples(f"{shortfall}{why}. The dataset is complete. {again}", self.text())

    @property
    def rows_per_s(self) -> float:
        """Rows per second of this run, start-up included."""
        return self.run_rows / max(self.wall_s, 1e-9)

    def text(self) -> str:
        """Return the summary as lines for a person."""
        share = self.successes / self.rows if self.rows else 0.0
        lines = [
            f"dataset   {redact(self.path)}",
            f"samples   {self.successes:,} of {self.rows:,} rows ({share:.1%}) in {counted(self.shards, 'shard')}, "
            f"{human_bytes(self.dataset_bytes)}",
            "this run  nothing to do: the dataset is complete"
            if self.was_complete
            else f"this run  {counted(self.run_rows, 'row')} in {human_time(self.wall_s)}, "
            f"{self.rows_per_s:,.0f} rows/s, "
            f"{human_bytes(self.downloaded_bytes)} received",
        ]
        failures = [(label, count) for label, count in self.outcomes.most_common() if label != "success"]
        if failures:
            lines.append("failures  " + ", ".join(f"{label} {count:,}" for label, count in failures))
        if self.failing_hosts:
            hosts = self.failing_hosts.most_common(TOP)
            lines.append("failing   " + ", ".join(f"{host} {count:,}" for host, count in hosts))
        lines += [f"cause     {cause}" for cause in self.causes]
        if self.left_out:
            lines.append(f"list      {self.left_out:,} rows left out by fetch.input.where and sample")
        lines += [f"list      {sentence}" for sentence in sentences(self.list_notes.counts)]
        return "\n".join(lines)


def human_bytes(count: float) -> str:
    """Return a count of bytes with a decimal unit: `1.5 GB`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def counted(count: int, noun: str) -> str:
    """Return a count of things: `1 shard`, `2,000 shards`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def human_time(seconds: float) -> str:
    """Return a duration as `12.3 s`, `4:05 min` or `3:04:05 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
