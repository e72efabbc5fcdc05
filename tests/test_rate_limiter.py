"""Permits of domains among workers: never too many, none lost, everybody's turn comes. Only time is not real."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from turbo_fetch.fetch.allocations import Cooldown, Demand, Grant
from turbo_fetch.fetch.limiter_client import LimiterClient
from turbo_fetch.runners.rate_limiter import CUT_EVERY_S, LINGER_S, RAISE_EVERY_S, TURN_S, RateLimiter
from turbo_fetch.spec import DomainSpec, HttpSpec

LIMITS = {"one": 1, "two": 2, "many": 5, "paced": 2, "learnt": 3}
INTERVAL_S = 0.5
HTTP = HttpSpec(
    per_domain=5,
    domains={
        "one": DomainSpec(concurrency=1),
        "two": DomainSpec(concurrency=2),
        "paced": DomainSpec(concurrency=2, delay_s=INTERVAL_S),
        "learnt": DomainSpec(concurrency=3),
    },
)


@dataclass
class Worker:
    """A client with its channel in both directions, and what it does."""

    client: LimiterClient = field(default_factory=lambda: LimiterClient(HTTP))
    demands: deque[Demand] = field(default_factory=deque)
    grants: deque[Grant] = field(default_factory=deque)
    rows: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    starting: Counter[str] = field(default_factory=Counter)
    """Of those in flight, the ones that have a permit and have yet to start."""
    earliest_s: dict[str, float] = field(default_factory=dict)


class World:
    """Workers, their rate limiter, and a server that counts."""

    def __init__(self, workers: int) -> None:
        self.now_s = 100.0
        self.limiter = RateLimiter(HTTP)
        self.workers = [Worker() for _ in range(workers)]
        self.dying: list[tuple[float, str, int]] = []
        self.last_start_s = dict.fromkeys(LIMITS, 0.0)
        self.most: Counter[str] = Counter()

    def submit(self, number: int, domain: str, count: int) -> None:
        worker = self.workers[number]
        worker.client.announce([domain] * count)
        worker.rows[domain] += count

    def begin(self, number: int, domain: str) -> bool:
        worker = self.workers[number]
        if worker.rows[domain] <= worker.in_flight[domain]:
            return False
        allocation = worker.client.allocation(domain)
        if allocation.free <= 0 or self.now_s < worker.earliest_s.get(domain, 0.0):
            return False
        worker.client.begin(domain, allocation)
        worker.in_flight[domain] += 1
        worker.starting[domain] += 1
        now = sum(other.in_flight[domain] for other in self.workers)
        now += sum(count for _, name, count in self.dying if name == domain)
        self.most[domain] = max(self.most[domain], now)
        assert now <= LIMITS[domain]
        return True

    def start(self, number: int, domain: str) -> bool:
        worker = self.workers[number]
        if not worker.starting[domain]:
            return False
        worker.starting[domain] -= 1
        allocation = worker.client.allocation(domain)
        if not worker.client.start(domain, allocation):
            worker.in_flight[domain] -= 1
            worker.client.give_up(domain, allocation)
        elif allocation.min_interval_s:
            assert self.now_s - self.last_start_s[domain] >= INTERVAL_S
            self.last_start_s[domain] = self.now_s
        return True

    def give_up(self, number: int, domain: str) -> None:
        worker = self.workers[number]
        if worker.starting[domain]:
            worker.starting[domain] -= 1
            worker.in_flight[domain] -= 1
            worker.client.give_up(domain, worker.client.allocation(domain))

    def end(self, number: int, domain: str) -> bool:
        worker = self.workers[number]
        if worker.in_flight[domain] <= worker.starting[domain]:
            return False
        worker.in_flight[domain] -= 1
        worker.rows[domain] -= 1
        worker.client.end(domain, worker.client.allocation(domain))
        worker.client.row_ended(domain)
        return True

    def say(self, number: int) -> None:
        worker = self.workers[number]
        worker.demands.append(worker.client.collect())

    def hear(self, number: int) -> None:
        worker = self.workers[number]
        if worker.demands:
            self.limiter.take(number, worker.demands.popleft(), self.now_s)

    def post(self) -> None:
        for each, grant in self.limiter.grants().items():
            self.workers[each].grants.append(grant)

    def obey(self, number: int) -> None:
        worker = self.workers[number]
        if worker.grants:
            grant = worker.grants.popleft()
            for _ in worker.client.apply(grant):
                pass
            for name, wait_s in grant.tokens.items():
                worker.earliest_s[name] = self.now_s + wait_s

    def learn(self, number: int) -> None:
        if self.workers[number].rows["learnt"]:
            self.workers[number].client.learn_min_interval("learnt", INTERVAL_S)

    def slow(self, number: int, domain: str) -> None:
        if self.workers[number].rows[domain]:
            self.workers[number].client.report_slowed(domain)

    def kill(self, number: int) -> None:
        worker = self.workers[number]
        ends_s = self.now_s + LINGER_S
        self.dying += [(ends_s, name, count) for name, count in worker.in_flight.items()]
        self.limiter.worker_ended(number, LINGER_S, self.now_s)
        self.workers[number] = Worker()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.dying = [one for one in self.dying if one[0] > self.now_s]
        self.limiter.tick(self.now_s)

    def round(self) -> None:
        """Let everything happen that can."""
        for number in range(len(self.workers)):
            for domain in LIMITS:
                while self.begin(number, domain) or self.start(number, domain):
                    pass
            self.say(number)
            self.hear(number)
            self.post()
            for each, worker in enumerate(self.workers):
                while worker.grants:
                    self.obey(each)
            for domain in LIMITS:
                while self.end(number, domain):
                    pass
        self.wait(0.25)

    @property
    def is_done(self) -> bool:
        return not any(worker.rows.total() for worker in self.workers)

    def talk(self, number: int) -> None:
        """Say something and have it answered."""
        self.say(number)
        self.hear(number)
        self.post()
        self.obey(number)


ALONE = ["say", "hear", "obey", "talk", "learn", "kill"]
ABOUT_A_DOMAIN = ["begin", "start", "give_up", "end", "slow"]


@given(
    data=st.data(), workers=st.integers(1, 3), domains=st.lists(st.sampled_from(sorted(LIMITS)), min_size=1)
)
@settings(max_examples=150)
def test_no_limit_is_exceeded_nobody_starves_and_no_permit_is_lost(
    data: st.DataObject, workers: int, domains: list[str]
) -> None:
    world = World(workers)
    for domain in domains:
        world.submit(data.draw(st.integers(0, workers - 1)), domain, data.draw(st.integers(1, 8)))
    for _ in range(data.draw(st.integers(0, 80))):
        action = data.draw(
            st.sampled_from([*ALONE, *ABOUT_A_DOMAIN, "submit", "post", "talk", "begin", "wait"])
        )
        number = data.draw(st.integers(0, workers - 1))
        if action == "post":
            world.post()
        elif action == "wait":
            world.wait(data.draw(st.sampled_from([0.01, 0.3, 1.5])))
        elif action == "submit":
            world.submit(number, data.draw(st.sampled_from(domains)), data.draw(st.integers(1, 8)))
        elif action in ABOUT_A_DOMAIN:
            getattr(world, action)(number, data.draw(st.sampled_from(domains)))
        else:
            getattr(world, action)(number)
    for _ in range(2000):
        if world.is_done:
            break
        world.round()
    assert world.is_done
    for _ in range(60):
        world.round()
    assert world.limiter.is_idle


def _settle(world: World, rounds: int = 8) -> None:
    """Pass all messages on; nothing starts or ends."""
    for _ in range(rounds):
        for number in range(len(world.workers)):
            world.say(number)
            world.hear(number)
            world.post()
        for number, worker in enumerate(world.workers):
            while worker.grants:
                world.obey(number)


def _held(world: World, domain: str) -> list[int]:
    clients = [worker.client for worker in world.workers]
    return [client.allocation(domain).held if client.has_rows(domain) else 0 for client in clients]


def test_who_wants_a_domain_alone_has_all_of_it_and_shares_it_evenly_later() -> None:
    world = World(3)
    world.submit(0, "many", 10)
    _settle(world)
    assert _held(world, "many") == [5, 0, 0]
    world.submit(1, "many", 10)
    _settle(world)
    assert sorted(_held(world, "many")) == [0, 2, 3]
    world.submit(2, "many", 10)
    _settle(world)
    assert sorted(_held(world, "many")) == [1, 2, 2]


def test_a_permit_in_use_is_returned_when_its_request_ends() -> None:
    world = World(2)
    world.submit(0, "two", 10)
    _settle(world)
    for _ in range(2):
        assert world.begin(0, "two")
        assert world.start(0, "two")
    world.submit(1, "two", 1)
    _settle(world)
    assert _held(world, "two") == [2, 0]
    world.end(0, "two")
    _settle(world)
    assert _held(world, "two") == [1, 1]


def test_fewer_permits_than_workers_go_round() -> None:
    world = World(3)
    for number in range(3):
        world.submit(number, "one", 100)
    holders = []
    for _ in range(6):
        _settle(world)
        holders.append(_held(world, "one").index(1))
        assert sum(_held(world, "one")) == 1
        world.wait(TURN_S)
    assert holders == [0, 1, 2, 0, 1, 2]


def test_the_permits_of_a_dead_worker_come_back_when_its_requests_are_surely_over() -> None:
    world = World(2)
    world.submit(0, "two", 10)
    _settle(world)
    assert world.begin(0, "two")
    world.submit(1, "two", 10)
    world.kill(0)
    _settle(world)
    assert _held(world, "two") == [0, 0]
    world.wait(LINGER_S)
    _settle(world)
    assert _held(world, "two") == [0, 2]


def test_the_interval_holds_although_workers_take_turns() -> None:
    world = World(3)
    for number in range(3):
        world.submit(number, "paced", 2)
    begun_s = world.now_s
    while not world.is_done:
        world.round()
    assert 5 * INTERVAL_S <= world.now_s - begun_s < 5 * (INTERVAL_S + 0.5)


def test_a_token_that_a_dead_worker_may_have_used_counts_as_used_at_the_last_moment() -> None:
    world = World(2)
    world.submit(0, "paced", 2)
    _settle(world)
    world.submit(1, "paced", 2)
    world.kill(0)
    _settle(world)
    assert world.workers[1].earliest_s["paced"] == world.now_s + LINGER_S + INTERVAL_S


def test_an_interval_that_one_worker_learns_holds_for_all() -> None:
    world = World(2)
    for number in range(2):
        world.submit(number, "learnt", 5)
    _settle(world)
    world.learn(0)
    _settle(world)
    assert [worker.client.allocation("learnt").min_interval_s for worker in world.workers] == [
        INTERVAL_S,
        INTERVAL_S,
    ]
    assert sum(_held(world, "learnt")) == 1


def test_nobody_has_a_token_before_all_have_heard_of_the_interval() -> None:
    world = World(3)
    for number in range(3):
        world.submit(number, "learnt", 5)
    _settle(world)
    world.learn(0)
    world.talk(0)
    world.talk(0)
    assert world.begin(1, "learnt"), "it has yet to hear"
    world.wait(10)
    for number in (1, 2):
        world.talk(0)
        assert not world.workers[0].client.allocation("learnt").has_token
        world.obey(number)
        world.say(number)
        world.hear(number)
    world.post()
    _settle(world)
    assert [worker.client.allocation("learnt").has_token for worker in world.workers].count(True) == 1
    assert not world.workers[1].client.start("learnt", world.workers[1].client.allocation("learnt"))


def test_permits_that_travel_with_the_news_of_an_interval_are_returned() -> None:
    world = World(2)
    world.submit(0, "learnt", 1)
    _settle(world)
    world.submit(1, "learnt", 5)
    world.say(1)
    world.hear(1)
    world.learn(0)
    world.workers[0].client.row_ended("learnt")
    world.say(0)
    world.hear(0)
    world.post()
    grant = world.workers[1].grants[-1]
    assert grant.permits.keys() == grant.min_intervals_s.keys() == {"learnt"}
    world.obey(1)
    assert _held(world, "learnt") == [0, 0]
    _settle(world)
    assert _held(world, "learnt") == [0, 1]
    assert world.workers[1].client.allocation("learnt").has_token


def test_a_domain_that_was_asked_too_fast_gets_half_and_then_more_again() -> None:
    world = World(2)
    for number in range(2):
        world.submit(number, "many", 10)
    _settle(world)
    world.slow(0, "many")
    world.slow(1, "many")
    _settle(world)
    assert _held(world, "many") == [1, 1]
    for expected in (3, 4, 5):
        world.wait(RAISE_EVERY_S)
        _settle(world)
        assert sum(_held(world, "many")) == expected
    world.wait(CUT_EVERY_S)
    world.slow(0, "many")
    _settle(world)
    assert sum(_held(world, "many")) == 2


def test_a_cooldown_that_one_worker_meets_is_told_to_those_who_want_the_domain_and_to_those_who_come_later() -> (
    None
):
    world = World(3)
    for number in range(2):
        world.submit(number, "many", 1)
    _settle(world)
    world.workers[0].client.report_cooldown("many", Cooldown(60.0, 1))
    world.say(0)
    world.hear(0)
    world.post()
    assert [list(worker.grants)[-1:] for worker in world.workers] == [
        [Grant(answers=1)],
        [Grant(cooldowns={"many": Cooldown(60.0, 1)})],
        [],
    ]
    world.wait(20.0)
    world.submit(2, "many", 1)
    world.say(2)
    world.hear(2)
    world.post()
    assert world.workers[2].grants[-1].cooldowns == {"many": Cooldown(40.0, 1)}
