from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from protego import Protego

import turbo_fetch
from fetching import BODY, LIMITS, fetch
from jobs import job_spec, ledger, write_list
from loops import run_on
from origin import Origin
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.consent import forbidden_use, parse_reservations
from turbo_fetch.fetch.documents import Document
from turbo_fetch.fetch.hosts import MAX_RULE_BYTES, Host, Hosts
from turbo_fetch.fetch.robots import MAX_BYTES, MAX_WILDCARDS, PathPattern, PathRules, Robots
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

TRAIN = frozenset({"train-ai"})
LOOP = "uvloop"


def _forbidden_use(robots: Robots, path: str) -> str | None:
    found = (forbidden_use(expression, TRAIN) for expression in robots.content_usage(path))
    return next((use for use in found if use is not None), None)


@pytest.mark.parametrize(
    "expression",
    ["train-ai=n", "search=y, train-ai=n", "train-ai=y,train-ai=n",
     "train-ai=n;because=\"a, b\", x=(1 2)", " train-ai=n "],
)  # fmt: skip
def test_an_expression_that_says_no_forbids(expression: str) -> None:
    assert forbidden_use(expression, TRAIN) == "train-ai"


@pytest.mark.parametrize(
    "expression",
    ["", "train-ai=y", "train-ai", "train-ai=?0", 'train-ai="n"', "Train-AI=n", "search=n", "train-ai=n, train-ai=y",
     "train-ai=n,", "train-ai=n;;", "train-ai=n x", "train-ai=(n)", "train-ai=N", "train-ai:n", "x=\x00, train-ai=n"],
)  # fmt: skip
def test_anything_else_says_nothing(expression: str) -> None:
    assert forbidden_use(expression, TRAIN) is None


@given(st.text(max_size=200))
def test_no_text_of_a_server_raises(text: str) -> None:
    assert forbidden_use(text, TRAIN) in {None, "train-ai"}
    parse_reservations(text)
    Robots(text, "turbo-fetch").refusal("/a.jpg")
    PathPattern(text).matches(text)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a", "/abc", True), ("/a$", "/abc", False), ("/*.jpg$", "/x/y.jpg", True), ("/*.jpg$", "/y.jpg?x", False),
        ("/a*b*c", "/a1b2c3", True), ("/a*b*c", "/acb", False), ("/*a*a$", "/aa", True), ("*", "/", True),
        ("/" + "*a" * 30 + "b", "/" + "a" * 5000, False), ("/b", "/a/b", False),
    ],
)  # fmt: skip
def test_patterns_match_as_rfc_9309_says(pattern: str, path: str, matches: bool) -> None:
    assert PathPattern(pattern).matches(path) is matches


def test_the_most_specific_pattern_counts_and_equal_ones_all_do() -> None:
    rules = PathRules([("/", 1), ("/a/", 2), ("/*/", 3), ("/a/b", 4)])
    assert [rules.said(path) for path in ("/x", "/a/x", "/a/bc")] == [[1], [2, 3], [4]]


ROBOTS = """
User-agent: *
Disallow: /never/
Allow: /never/but-this
Disallow: /*.gif$
Content-Usage: / train-ai=n
Content-Usage: /ok/ train-ai=y

User-agent: friendly
User-agent: friendlier
Disallow:
Crawl-delay: 3
"""


@pytest.mark.parametrize(
    ("path", "refusal", "use"),
    [
        ("/never/a.jpg", "robots.txt: Disallow: /never/", "train-ai"),
        ("/never/but-this.jpg", None, "train-ai"),
        ("/ok/a.gif", "robots.txt: Disallow: /*.gif$", None),
        ("/ok/a.jpg", None, None),
        ("/a.jpg", None, "train-ai"),
    ],
)
def test_robots_txt_says_what_may_be_asked_and_used(path: str, refusal: str | None, use: str | None) -> None:
    robots = Robots(ROBOTS, "turbo-fetch")
    assert robots.refusal(path) == refusal
    assert _forbidden_use(robots, path) == use


PATTERN = st.text(alphabet="/a.=?&*$%~ é", min_size=1, max_size=6) | st.sampled_from(
    ["/%61", "/a%2Fa", "/*?a=", "/a/*.a$", "*a", "/a$", "/%C3%A9"]
)
PATHS = st.text(alphabet="/a.=?&*$~+", max_size=8) | st.sampled_from(
    ["%61", "a%2Fa", "a%2fa", "b?a=%20", "a/b.a", "%C3%A9", "%c3%a9", "a%3Da", "a%", "%ZZ", "?", "a#a"]
)


@given(rules=st.lists(st.tuples(st.sampled_from(["Allow", "Disallow"]), PATTERN), max_size=5), path=PATHS)
@settings(max_examples=200)
def test_robots_txt_is_obeyed_as_protego_reads_it(rules: list[tuple[str, str]], path: str) -> None:
    text = "\n".join(["User-agent: *", *(f"{field}: {pattern}" for field, pattern in rules)])
    # What protego adds to a rule with `$` at its end, Google does not: a path that really has one there.
    patterns = [pattern for _, pattern in rules if pattern.endswith("$")]
    assume(not (patterns and "$" in path.replace("%24", "$")))
    may_ask = Protego.parse(text).can_fetch(f"http://a.example/{path}", "turbo-fetch")
    assert (Robots(text, "turbo-fetch").refusal(f"/{path}") is None) == may_ask


LINE = st.sampled_from(
    ["User-agent: *", "User-agent: turbo-fetch", "User-Agent: fetch", "Useragent other",
     "User agent: turbo-fetch", "user-agent: other:thing", "User-agent turbo-fetch: no", "User-agent:", "user-agent",
     "Disallow: /", "Disallow: /a", "disallow /a/b", "Allow: /a/b", "Disallow:", "Allow: /*.jpg$", "Sitemap: http://a/",
     "Host: b", "Crawl-delay: 2", "crawl delay 3", "no directive", "# comment", "", "  "],
)  # fmt: skip


@given(lines=st.lists(LINE, max_size=12), path=st.sampled_from(["/", "/a", "/a/b", "/a/b.jpg", "/c.jpg"]))
@settings(max_examples=400)
def test_groups_concern_those_whom_protego_takes_them_to_concern(lines: list[str], path: str) -> None:
    text = "\n".join(lines)
    theirs = Protego.parse(text)
    robots = Robots(text, "turbo-fetch")
    assert (robots.refusal(path) is None) == theirs.can_fetch(f"http://a.example{path}", "turbo-fetch")
    assert robots.crawl_delay_s == theirs.crawl_delay("turbo-fetch")


@pytest.mark.parametrize(
    ("named", "concerns_us"),
    [
        ("sA", True), ("SA", True), ("sa/1.0", True), ("sA/2", True), ("sA 1.0", True), ("sA*", True), ("sA1", True),
        ("sA.", True), ("sA, other", True), ("s", False), ("a", False), ("sA-x", False), ("sA_x", False),
        ("sAbot", False), ('"sA"', False), ("other, sA", False), ("x sA", False), ("", False), ("s*", False),
    ],
)  # fmt: skip
def test_a_group_names_a_crawler_by_its_whole_product_token(named: str, concerns_us: bool) -> None:
    text = f"User-agent: {named}\nDisallow: /\nContent-Usage: train-ai=n\nCrawl-delay: 2"
    robots = Robots(text, "sa")
    assert (robots.refusal("/x.png") is not None) == concerns_us
    assert _forbidden_use(robots, "/x.png") == ("train-ai" if concerns_us else None)
    assert robots.crawl_delay_s == (2.0 if concerns_us else None)


@pytest.mark.parametrize("token", ["s", "img2dataset", "turbo-fetch", "my.bot"])
def test_a_token_of_any_length_and_with_digits_goes_before_all(token: str) -> None:
    text = f"User-agent: *\nDisallow: /\n\nUser-agent: {token.upper()}/2.0\nAllow: /"
    assert Robots(text, token).refusal("/a") is None
    assert Robots(text, "other").refusal("/a") == "robots.txt: Disallow: /"


def test_lines_that_are_not_understood_end_no_group() -> None:
    text = "User-agent: a\nUnknown: x\nUser-agent: *\nDisallow: /"
    assert Robots(text, "a").refusal("/x") == "robots.txt: Disallow: /"


@pytest.mark.parametrize(
    ("rules", "path", "is_allowed"),
    [
        # https://developers.google.com/crawling/docs/robots-txt/robots-txt-spec#order-of-precedence-for-rules
        ("Allow: /p\nDisallow: /", "/page", True),
        ("Allow: /folder\nDisallow: /folder", "/folder/page", True),
        ("Allow: /page\nDisallow: /*.htm", "/page.htm", False),
        ("Allow: /page\nDisallow: /*.ph", "/page.php5", True),
        ("Allow: /$\nDisallow: /", "/", True),
        ("Allow: /$\nDisallow: /", "/page.htm", False),
        ("Allow: /x.png\nDisallow: /x.png$", "/x.png", False),
        ("Disallow: /x.png\nAllow: /x.png$", "/x.png", True),
        ("Disallow: /x.png$", "/x.png$", True),
        ("Disallow: /x.png$", "/x.png%24", True),
        ("Disallow: /x.png$", "/x.png%24a", True),
        ("Disallow: /*.png$", "/x.png$", True),
        ("Disallow: /x.png$$", "/x.png$", False),
        ("Disallow: /x.png%24", "/x.png$", False),
        ("Disallow: /a$b", "/a$b.png", False),
        ("Disallow: /a/\nAllow: /a/index.html", "/a/", True),
        ("Disallow: /a/\nAllow: /a/index.html", "/a/b", False),
        ("Disallow: /\nDisallow: /a/long/path\nAllow: /$", "/", True),
    ],
)
def test_the_longest_rule_counts_with_its_wildcards(rules: str, path: str, is_allowed: bool) -> None:
    assert (Robots(f"User-agent: *\n{rules}", "turbo-fetch").refusal(path) is None) == is_allowed


HOSTILE = {
    "agents before uses": "".join(f"user-agent:a{number}\n" for number in range(20_000))
    + "content-usage:a\n" * 15_000,
    "agents before rules": "".join(f"user-agent:a{number}\n" for number in range(20_000))
    + "disallow:/a\n" * 20_000,
    "our name with wildcards": "".join(
        f"user-agent:turbo-fetch{'*' * (number % 900)}\n" for number in range(900)
    )
    + "disallow:/a\n" * 5_000,
    "beginnings of our name": "".join(
        f"user-agent:{'turbo-fetch'[: 1 + number % 11]}\n" for number in range(9_000)
    )
    + "disallow:/a\n" * 20_000,
    "wildcards": "user-agent:*\n" + "".join(f"disallow:/*a{number}*b\n" for number in range(25_000)),
    "uses with wildcards": "user-agent:*\n"
    + "".join(f"content-usage:/*a{number}*b train-ai=n\n" for number in range(15_000)),
    "wildcards just within bounds": "user-agent:*\n"
    + "".join(f"disallow:/*a{number}*b*b$\n" for number in range(490)),
    "rules": "user-agent:*\n" + "".join(f"disallow:/{number}\n" for number in range(30_000)),
    "long rules": "user-agent:*\n" + "".join(f"disallow:/{'a' * number}\n" for number in range(1_000)),
    "one rule of nothing but wildcards": "user-agent:*\ndisallow:/" + "*a" * 250_000 + "b",
}


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("name", HOSTILE)
def test_no_robots_txt_takes_long_or_much_memory(name: str) -> None:
    text, path = HOSTILE[name][:MAX_BYTES], "/" + "a1ab" * 2000
    tracemalloc.start()
    started_s = time.process_time()
    robots = Robots(text, "turbo-fetch")
    parsed_s = time.process_time()
    for _ in range(10):
        robots.refusal(path)
        _forbidden_use(robots, path)
    asked_s = time.process_time()
    kept_bytes, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Memory is traced, which takes several times as long as the work itself.
    assert parsed_s - started_s < 10
    assert asked_s - parsed_s < 1
    assert most_bytes < 150_000_000
    assert kept_bytes < 2 * robots.memory_bytes + 2_000_000


def test_more_wildcards_than_can_be_weighed_forbid_all() -> None:
    text = "User-agent: *\n" + "".join(f"Disallow: /*{number}\n" for number in range(MAX_WILDCARDS + 1))
    robots = Robots(text, "turbo-fetch")
    assert (robots.refusal("/a"), robots.is_silent) == (
        "robots.txt: more than 2,000 wildcards",
        False,
    )


def test_a_path_too_long_for_many_wildcards_is_not_asked() -> None:
    robots = Robots("User-agent: *\n" + "Disallow: /*a*b\n" * 500, "turbo-fetch")
    assert robots.refusal("/" + "x" * 900) is None
    assert robots.refusal("/" + "x" * 1100) == "robots.txt: 1,000 wildcards are too many for so long a path"


def test_rules_of_many_hosts_take_bounded_memory() -> None:
    text = "User-agent: *\n" + "".join(f"Disallow: /{number}\n" for number in range(10_000))
    hosts = Hosts(HttpSpec(), "turbo-fetch", lambda _: _given(Document(200, text)))

    async def scenario() -> list[Host | None]:
        for number in range(30):
            await hosts.learn(f"http://{number}.example")
        return [hosts.known(f"http://{number}.example") for number in range(30)]

    known = [host for host in run_on(LOOP, scenario()) if host is not None]
    assert 1 < len(known) < 30
    assert sum(host.memory_bytes for host in known) <= MAX_RULE_BYTES
    assert known[-1].rules.robots is not None


def test_a_hostile_robots_txt_costs_the_rows_of_no_other_host(tmp_path: Path) -> None:
    hostile = HOSTILE["agents before rules"][:MAX_BYTES].encode()
    with Origin({"a.jpg": BODY, "robots.txt": hostile}) as bad, Origin({"a.jpg": BODY}) as good:
        lines = [
            origin.url("a.jpg", "header", name="X", value=str(n)) for n in range(20) for origin in (bad, good)
        ]
        urls = write_list(tmp_path / "list.parquet", lines)
        turbo_fetch.run(job_spec(urls, tmp_path / "out", http={"robots": "respect", "timeout_s": 10}))
    assert {row["outcome"] for row in ledger(tmp_path / "out")} == {"not-an-image"}


def test_a_group_of_our_own_takes_the_place_of_the_one_for_all() -> None:
    robots = Robots(ROBOTS, "friendlier")
    assert robots.refusal("/never/a.jpg") is None
    assert _forbidden_use(robots, "/a.jpg") is None
    assert (robots.crawl_delay_s, robots.is_silent) == (3, False)
    assert Robots("User-agent: other\nDisallow: /", "turbo-fetch").is_silent


PICTURES = {"a.jpg": BODY, "never/a.jpg": BODY, "a.gif": BODY}


def get(origin: Origin, *paths: str, **http: object) -> list[Fetched]:
    return fetch(LOOP, *[origin.url(path) for path in paths], **{"robots": "respect", **http})


def test_what_robots_txt_disallows_is_not_asked_and_the_file_is_asked_for_once() -> None:
    text = b"User-agent: *\nDisallow: /never\nDisallow: /*.gif$"
    with Origin({**PICTURES, "robots.txt": text}) as origin:
        allowed, never, gif = get(origin, "a.jpg", "never/a.jpg", "a.gif")
        assert origin.hits == {"/robots.txt": 1, "/a.jpg": 1}
    assert allowed.body == BODY
    assert [(one.outcome, one.detail, one.http_status) for one in (never, gif)] == [
        (Outcome.ROBOTS, "robots.txt: Disallow: /never", None),
        (Outcome.ROBOTS, "robots.txt: Disallow: /*.gif$", None),
    ]


def test_what_robots_txt_disallows_is_not_asked_under_a_user_name_either() -> None:
    with Origin({**PICTURES, "robots.txt": b"User-agent: *\nDisallow: /never"}) as origin:
        named = origin.url("never/a.jpg").replace("http://", "http://user:word@")
        (fetched,) = fetch(LOOP, named, robots="respect")
        assert origin.hits == {"/robots.txt": 1}
    assert (fetched.outcome, fetched.detail) == (Outcome.ROBOTS, "robots.txt: Disallow: /never")


def test_robots_txt_can_be_ignored_and_its_absence_allows() -> None:
    with Origin({**PICTURES, "robots.txt": b"User-agent: *\nDisallow: /"}) as origin:
        assert get(origin, "a.jpg", robots="ignore")[0].body == BODY
        assert "/robots.txt" not in origin.hits
    with Origin(PICTURES) as origin:
        assert get(origin, "a.jpg")[0].body == BODY


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        ("fault=status&code=503", Outcome.HTTP_5XX, "robots.txt: HTTP Error 503: Service Unavailable"),
        ("fault=status&code=429", Outcome.RATE_LIMITED, "robots.txt: HTTP Error 429: Too Many Requests"),
        ("fault=close_before_headers", Outcome.CONNECT, "robots.txt: connection closed before the response"),
        ("fault=status&code=403", Outcome.SUCCESS, None),
        ("fault=redirect_loop", Outcome.SUCCESS, None),
        ("fault=redirect&hops=5", Outcome.ROBOTS, "robots.txt: Disallow: /a"),
        ("fault=redirect&hops=6", Outcome.SUCCESS, None),
    ],
)
def test_answers_other_than_a_file_are_taken_as_rfc_9309_says(
    answer: str, outcome: Outcome, detail: str | None
) -> None:
    with Origin({**PICTURES, "rules.txt": b"User-agent: *\nDisallow: /a"}) as origin:
        client_of_test = Client(HttpSpec.model_validate({**LIMITS, "robots": "respect"}), ByteBudget(10**7))
        url = f"{origin.base}/rules.txt?{answer}"

        async def scenario() -> Fetched:
            async with client_of_test as client:
                document = await client._document(url)
                client.hosts._ask = lambda _: _given(document)
                return await client.get(origin.url("a.jpg"))

        fetched = run_on(LOOP, scenario())
    assert (fetched.outcome, fetched.detail) == (outcome, detail)


async def _given(document: Document) -> Document:
    return document


def test_the_target_of_a_redirect_is_asked_for_its_rules_too() -> None:
    with (
        Origin({**PICTURES, "robots.txt": b"User-agent: *\nDisallow: /a"}) as second,
        Origin(PICTURES) as first,
    ):
        (fetched,) = fetch(LOOP, first.url("a.jpg", "redirect_to", to=second.url("a.jpg")), robots="respect")
        assert second.hits == {"/robots.txt": 1}
    assert (fetched.outcome, fetched.detail) == (Outcome.ROBOTS, "robots.txt: Disallow: /a")
    assert fetched.redirects == (second.url("a.jpg"),)


@pytest.mark.parametrize(
    ("name", "value", "switch", "detail"),
    [
        (
            "Content-Usage",
            "search=y, train-ai=n",
            {"content_usage": []},
            "use reserved by Content-Usage: train-ai=n",
        ),
        ("tdm-reservation", "1", {"tdm": "ignore"}, "use reserved by tdm-reservation: 1"),
        (
            "X-Robots-Tag",
            "fetcher: noai",
            {"opt_out": []},
            "Use of image disallowed by X-Robots-Tag directive",
        ),
    ],
)
def test_a_header_forbids_use_before_the_body_is_read_unless_it_is_ignored(
    name: str, value: str, switch: dict[str, object], detail: str
) -> None:
    with Origin(PICTURES) as origin:
        url = origin.url("a.jpg", "header", name=name, value=value)
        refused, *_ = fetch(LOOP, url, user_agent="fetcher/1")
        used, *_ = fetch(LOOP, url, user_agent="fetcher/1", **switch)
    assert (refused.outcome, refused.detail, refused.body_bytes) == (Outcome.OPT_OUT, detail, 0)
    assert used.body == BODY


def test_content_usage_in_robots_txt_forbids_use_without_a_request() -> None:
    text = b"User-agent: *\nContent-Usage: /never/ train-ai=n"
    with Origin({**PICTURES, "robots.txt": text}) as origin:
        allowed, reserved = get(origin, "a.jpg", "never/a.jpg")
        assert origin.hits == {"/robots.txt": 1, "/a.jpg": 1}
    assert allowed.body == BODY
    assert reserved.outcome is Outcome.OPT_OUT
    assert reserved.detail == "use reserved by Content-Usage: train-ai=n in robots.txt"


def test_a_tdm_file_counts_where_the_response_is_silent() -> None:
    file = json.dumps(
        [
            {"location": "/never/*", "tdm-reservation": 1},
            {"location": "/", "tdm-reservation": 0},
            7,
            {"location": 3},
        ]
    )
    with Origin({**PICTURES, ".well-known/tdmrep.json": file.encode()}) as origin:
        paths = ("a.jpg", "never/a.jpg")
        allowed, reserved = get(origin, *paths, robots="ignore", tdm="respect")
        url = origin.url("never/a.jpg", "header", name="tdm-reservation", value="0")
        (free,) = fetch(LOOP, url, tdm="respect")
        assert origin.hits["/.well-known/tdmrep.json"] == 2
    assert (allowed.body, free.body) == (BODY, BODY)
    assert (reserved.outcome, reserved.detail) == (
        Outcome.OPT_OUT,
        "use reserved by /.well-known/tdmrep.json",
    )


def test_of_the_rules_of_a_tdm_file_the_first_that_matches_counts() -> None:
    rules = [("/free/a*", 0), ("/free/", 1), ("/free/a/long/one/", 1), ("/%7Euser/", 1), ("/caf\u00e9/", 1)]
    text = json.dumps([{"location": place, "tdm-reservation": said} for place, said in rules])
    reservations = parse_reservations(text)
    paths = ("/free/a/long/one/b.jpg", "/free/b.jpg", "/~user/a.jpg", "/caf%C3%A9/a.jpg", "/else.jpg")
    assert [reservations.reserve(path) for path in paths] == [False, True, True, True, False]


def test_a_host_is_asked_for_its_documents_one_after_the_other() -> None:
    with Origin({"a.jpg": BODY}, latency_s=0.05) as origin:
        get(origin, "a.jpg", tdm="respect")
        assert origin.hits.total() == 3
        assert origin.load.most == 1


def test_a_rule_of_use_without_a_path_is_for_all_paths() -> None:
    text = "User-agent: *\nContent-Usage: train-ai=n, search=y\nContent-Usage: /ok%61y/\ttrain-ai=y"
    robots = Robots(text, "turbo-fetch")
    uses = [_forbidden_use(robots, path) for path in ("/a.jpg", "/okay/a.jpg")]
    assert uses == ["train-ai", None]


def test_workers_of_a_machine_keep_the_limit_of_a_domain_and_ask_for_robots_txt_once(tmp_path: Path) -> None:
    images = {
        **{f"{number}.jpg": BODY for number in range(80)},
        "robots.txt": b"User-agent: *\nDisallow: /7",
    }
    with Origin(images, latency_s=0.02) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(f"{number}.jpg") for number in range(80)])
        spec = job_spec(
            urls,
            tmp_path / "out",
            http={"robots": "respect", "per_domain": 4, "headers": {"Authorization": "hush"}},
            output={"samples_per_shard": 20},
            engine={"threads": 1, "workers": 2},
        )
        turbo_fetch.run(spec)
        assert origin.hits["/robots.txt"] == 1
        assert 2 <= origin.load.most <= 4
        assert {row["outcome"] for row in ledger(tmp_path / "out")} == {"robots", "not-an-image"}
        assert not any(path.startswith("/7") for path in origin.hits)
    told = [
        path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.suffix in {".toml", ".json", ".jsonl"}
    ]
    assert len(told) >= 3
    assert not any(b"hush" in text for text in told)
