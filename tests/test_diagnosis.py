"""When many rows fail for one reason, it is named in a sentence with what to change; a run that fails exits so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from jobs import job_spec, ledger, start, write_list
from origin import Origin
from processes import finished
from turbo_fetch.errors import TooFewSamples
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.diagnosis import MOST, RULES, diagnosis

Counts = dict[str, int]

CASES: list[tuple[Counts, list[str]]] = [
    # Of 100 rows, those that are not named are samples; words that the first sentence holds.
    ({"address: not a public address": 100}, ["all rows", "fetch.http.allow_private_addresses"]),
    ({"address: not a public address": 60}, ["60% of the rows (60)", "allow_private_addresses"]),
    ({"address: port 22 is not one of the web": 90}, ["fetch.http.ports", "port 22"]),
    ({"connect: proxy: connection refused": 100}, ["proxy, not at their hosts", "fetch.http.proxy", "doctor"]),
    ({"connect: proxy refused: 407 Proxy Authentication Required": 7}, ["7% of the rows", "407", "fetch.http.proxy"]),
    ({"connect: through the proxy: 502 Bad Gateway": 95}, ["through the proxy", "502 Bad Gateway"]),
    ({"connect: network is unreachable": 100}, ["network is unreachable", "firewall"]),
    ({"connect: no route to host; the host was given up": 90}, ["(no route to host)", "firewall"]),
    ({"dns: name resolution failed": 100}, ["/etc/resolv.conf", "doctor"]),
    ({"dns: no answer of the resolver within 5 s": 99}, ["/etc/resolv.conf", "fetch.http.proxy"]),
    ({"dns: name resolution failed": 8}, ["8% of the rows (8)", "local resolver", "doctor", "retry"]),
    ({"no-such-host: no such host": 100}, ["do not exist"]),
    ({"url: no scheme; expected http:// or https://": 100}, ["fetch.input.url_column", "no scheme"]),
    ({'url: scheme "ftp"; expected http or https': 60, 'url: scheme "s3"; expected http or https': 40}, ["ftp"]),
    ({"address: outside of the folders in fetch.sources.files": 100}, ["fetch.sources", "trust"]),
    ({"address: s3:// is not read: fetch.sources.stores names nothing there": 90}, ["in fetch.sources", "(s3://"]),
    ({"not-found: no such file": 100}, ["fetch.sources.files", "no such file"]),
    ({"no-access: permission denied": 80}, ["permissions", "credentials"]),
    ({"unreadable: input/output error": 60}, ["endpoint", "retry"]),
    ({"no-record: a record of another URL": 100}, ["fetch.input.warc"]),
    ({"robots: disallowed by robots.txt": 100}, ["robots.txt", "fetch.http.robots"]),
    ({"opt-out: Use of image disallowed by X-Robots-Tag directive": 80}, ["fetch.http.opt_out"]),
    ({"http-4xx: HTTP Error 403: Forbidden": 97}, ["403", "fetch.http.user_agent", "contact"]),
    ({"http-4xx: HTTP Error 404: Not Found": 97}, ["404", "the list is old"]),
    ({"rate-limited: HTTP Error 429: Too Many Requests": 40}, ["fetch.http.per_domain", "retry"]),
    ({"tls: certificate verify failed: certificate is not yet valid": 100}, ["clock"]),
    ({"tls: certificate verify failed: unable to get local issuer certificate": 100}, ["fetch.http.ca_file"]),
    ({"tls: certificate verify failed: self-signed certificate in certificate chain": 90}, ["fetch.http.ca_file"]),
    ({"timeout: no connection within 5 s": 100}, ["fetch.http.concurrency", "firewall", "fetch.http.proxy"]),
    ({"timeout: not complete within 10 s": 50}, ["fetch.http.timeout_s", "concurrency"]),
    ({"connect: connection refused": 100}, ["connection refused"]),
    ({"not-an-image: HTML": 100}, ["not images", "HTML"]),
    ({"too-small: smaller than 512": 100}, ["fetch.image.min_side"]),
    ({"hash-mismatch: hash mismatch": 100}, ["fetch.input.hash_column"]),
]  # fmt: skip


def counted(reasons: Counts, rows: int) -> Counts:
    outcomes: Counts = {"success": rows - sum(reasons.values())}
    for reason, count in reasons.items():
        label = reason.partition(": ")[0]
        outcomes[label] = outcomes.get(label, 0) + count
    return outcomes


@pytest.mark.parametrize(("reasons", "words"), CASES)
def test_a_reason_that_many_rows_share_is_named_with_what_to_change(
    reasons: Counts, words: list[str]
) -> None:
    (sentence, *_) = diagnosis(counted(reasons, 100), reasons, {})
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    "reasons",
    [
        {},
        {
            "http-4xx: HTTP Error 404: Not Found": 20,
            "connect: connection refused": 10,
            "not-an-image: HTML": 8,
        },
        {"dns: name resolution failed": 2, "no-such-host: no such host": 9},
        {"connect: proxy: connection refused": 1},
    ],
)
def test_failures_of_many_kinds_have_no_cause(reasons: Counts) -> None:
    assert diagnosis(counted(reasons, 100), reasons, {}) == []


def test_the_causes_of_most_rows_come_first_and_no_row_has_two() -> None:
    reasons = {"dns: name resolution failed": 30, "http-4xx: HTTP Error 403: Forbidden": 60}
    first, second = diagnosis(counted(reasons, 100), reasons, {})
    assert first.startswith("60% of the rows (60)")
    assert second.startswith("30% of the rows (30)")


def test_a_single_host_behind_all_failures_is_named() -> None:
    reasons = {"http-4xx: HTTP Error 403: Forbidden": 95}
    (sentence,) = diagnosis(counted(reasons, 100), reasons, {"one.example": 95})
    assert sentence.endswith("Nearly all of them are from one.example")


def test_details_that_are_too_many_to_be_counted_do_not_hide_the_cause() -> None:
    (sentence,) = diagnosis({"robots": 100}, {"robots: rule 1": 3, "robots: rule 2": 2}, {})
    assert sentence.startswith("all rows")


LABELS = st.sampled_from([outcome.label for outcome in Outcome if outcome is not Outcome.SUCCESS])


@given(st.dictionaries(st.tuples(LABELS, st.text(max_size=12)), st.integers(1, 10**6)), st.integers(0, 10**6))
def test_whatever_the_counts_there_are_few_sentences(failed: dict[tuple[str, str], int], good: int) -> None:
    reasons = {f"{label}: {detail}": count for (label, detail), count in failed.items()}
    sentences = diagnosis(counted(reasons, good + sum(reasons.values())), reasons, {})
    assert len(sentences) <= MOST
    assert all("{" not in sentence or "{" in "".join(reasons) for sentence in sentences)


def test_every_rule_names_the_share() -> None:
    assert all("{share}" in rule.text for rule in RULES)


def test_a_run_without_a_sample_exits_with_1_and_names_the_cause_again_and_again(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [f"http://10.0.0.{n}/a.jpg" for n in range(20)])
    spec = job_spec(urls, tmp_path / "out", http={"allow_private_addresses": False})
    for _ in range(2):
        process = start(spec, tmp_path)
        out, err = finished(process)
        assert process.returncode == 1
        assert "none of the 20 rows became a sample: all rows are at private addresses" in err
        assert "fetch.http.allow_private_addresses = true" in err
        assert "samples   0 of 20 rows" in out
        assert "cause     all rows are at private addresses" in out
    assert len(ledger(tmp_path / "out")) == 20
    page = (tmp_path / "out" / "report.html").read_text()
    assert "All rows are at private addresses" in page


def test_the_drop_in_says_so_and_exits_with_0_as_its_model_does(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://10.0.0.1/a.jpg\nhttp://10.0.0.2/a.jpg\n")
    command = [
        sys.executable,
        "-m",
        "turbo_fetch",
        "img2dataset",
        "--url_list=list.txt",
        "--output_folder=out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "none of the 2 rows became a sample" in done.stderr
    demanding = [*command, "--set", "fetch.min_success=0.5"]
    assert subprocess.run(demanding, cwd=tmp_path, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("share", "enough"), [(0, True), (0.5, True), (0.75, True), (0.76, False), (1, False)]
)
def test_a_share_of_samples_may_be_demanded(tmp_path: Path, share: float, enough: bool) -> None:
    images = album(3)
    with Origin(images) as origin:
        names = [*images, "missing.jpg"]
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in names])
        spec = job_spec(urls, tmp_path / "out")
        assert spec.fetch is not None
        spec = spec.model_copy(update={"fetch": spec.fetch.model_copy(update={"min_success": share})})
        if enough:
            assert turbo_fetch.run(spec).fetch.successes == 3
        else:
            with pytest.raises(
                TooFewSamples, match=f"3 of 4 rows became samples.*fetch.min_success requires {share}"
            ):
                turbo_fetch.run(spec)
    assert len(ledger(tmp_path / "out")) == 4


def test_an_empty_list_has_no_shortfall(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [])
    process = start(job_spec(urls, tmp_path / "out"), tmp_path)
    finished(process)
    assert process.returncode == 0
