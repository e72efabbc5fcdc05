"""Places of domains among workers: never too many, none lost, everybody's turn comes. Only time is not real."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from turbo_fetch.fetch.leases import Demand, Grant, Rest
from turbo_fetch.fetch.tenant import Tenant
from turbo_fetch.runners.lessor import CUT_EVERY_S, LINGER_S, RISE_EVERY_S, TURN_S, Lessor
from turbo_fetch.spec import DomainSpec, HttpSpec

LIMITS = {"one": 1, "two": 2, "many": 5, "paced": 2, "learnt": 3}
SPACING_S = 0.5
HTTP = HttpSpec(
    per_domain=5,
    domains={
        "one": DomainSpec(concurrency=1),
        "two": DomainSpec(concurrency=2),
        "paced": DomainSpec(concurrency=2, delay_s=SPACING_S),
        "learnt": DomainSpec(concurrency=3),
    },
)


@dataclass
class Worker:
    """A tenant with its channel in both directions, and what it does."""

    tenant: Tenant = field(default_factory=lambda: Tenant(HTTP))
    demands: deque[Demand] = field(default_factory=deque)
    grants: deque[Grant] = field(default_factory=deque)
    rows: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    earliest_s: dict[str, float] = field(default_factory=dict)


class World:
    """Workers, their lessor, and a server that counts."""

    def __init__(self, workers: int) -> None:
        self.now_s = 100.0
        self.lessor = Lessor(HTTP)
        self.workers = [Worker() for _ in range(workers)]
        self.dying: list[tuple[float, str, int]] = []
        self.last_start_s = dict.fromkeys(LIMITS, 0.0)
        self.most: Counter[str] = Counter()

    def submit(self, number: int, domain: str, count: int) -> None:
        worker = self.workers[number]
        worker.tenant.announce([domain] * count)
        worker.rows[domain] += count

    def start(self, number: int, domain: str) -> bool:
        worker = self.workers[number]
        if worker.rows[domain] <= worker.in_flight[domain]:
            return False
        lease = worker.tenant.lease(domain)
        if lease.free <= 0 or self.now_s < worker.earliest_s.get(domain, 0.0):
            return False
        worker.tenant.begin(domain, lease)
        worker.in_flight[domain] += 1
        if lease.spacing_s:
            assert self.now_s - self.last_start_s[domain] >= SPACING_S
            self.last_start_s[domain] = self.now_s
        now = sum(other.in_flight[domain] for other in self.workers)
        now += sum(count for _, name, count in self.dying if name == domain)
        self.most[domain] = max(self.most[domain], now)
        assert now <= LIMITS[domain]
        return True

    def end(self, number: int, domain: str) -> bool:
        worker = self.workers[number]
        if not worker.in_flight[domain]:
            return False
        worker.in_flight[domain] -= 1
        worker.rows[domain] -= 1
        worker.tenant.end(domain, worker.tenant.lease(domain))
        worker.tenant.row_ended(domain)
        return True

    def say(self, number: int) -> None:
        worker = self.workers[number]
        worker.demands.append(worker.tenant.collect())

    def hear(self, number: int) -> None:
        worker = self.workers[number]
        if worker.demands:
            self.lessor.demand(number, worker.demands.popleft(), self.now_s)

    def post(self) -> None:
        for each, grant in self.lessor.grants().items():
            self.workers[each].grants.append(grant)

    def obey(self, number: int) -> None:
        worker = self.workers[number]
        if worker.grants:
            grant = worker.grants.popleft()
            for _ in worker.tenant.take(grant):
                pass
            for name, wait_s in grant.tickets.items():
                worker.earliest_s[name] = self.now_s + wait_s

    def learn(self, number: int) -> None:
        if self.workers[number].rows["learnt"]:
            self.workers[number].tenant.learn_pace("learnt", SPACING_S)

    def slow(self, number: int, domain: str) -> None:
        if self.workers[number].rows[domain]:
            self.workers[number].tenant.slowed(domain)

    def kill(self, number: int) -> None:
        worker = self.workers[number]
        ends_s = self.now_s + LINGER_S
        self.dying += [(ends_s, name, count) for name, count in worker.in_flight.items()]
        self.lessor.ended(number, LINGER_S, self.now_s)
        self.workers[number] = Worker()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.dying = [one for one in self.dying if one[0] > self.now_s]
        self.lessor.tick(self.now_s)

    def round(self) -> None:
        """Let everything happen that can."""
        for number in range(len(self.workers)):
            for domain in LIMITS:
                while self.start(number, domain):
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
ABOUT_A_DOMAIN = ["start", "end", "slow"]


@given(
    data=st.data(), workers=st.integers(1, 3), domains=st.lists(st.sampled_from(sorted(LIMITS)), min_size=1)
)
@settings(max_examples=150)
def test_no_limit_is_exceeded_nobody_starves_and_no_place_is_lost(
    data: st.DataObject, workers: int, domains: list[str]
) -> None:
    world = World(workers)
    for domain in domains:
        world.submit(data.draw(st.integers(0, workers - 1)), domain, data.draw(st.integers(1, 8)))
    for _ in range(data.draw(st.integers(0, 80))):
        action = data.draw(
            st.sampled_from([*ALONE, *ABOUT_A_DOMAIN, "submit", "post", "talk", "start", "wait"])
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
    assert world.lessor.is_idle


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
    tenants = [worker.tenant for worker in world.workers]
    return [tenant.lease(domain).held if tenant.has_rows(domain) else 0 for tenant in tenants]


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


def test_a_place_in_use_is_given_back_when_its_request_ends() -> None:
    world = World(2)
    world.submit(0, "two", 10)
    _settle(world)
    assert world.start(0, "two")
    assert world.start(0, "two")
    world.submit(1, "two", 1)
    _settle(world)
    assert _held(world, "two") == [2, 0]
    world.end(0, "two")
    _settle(world)
    assert _held(world, "two") == [1, 1]


def test_fewer_places_than_workers_go_round() -> None:
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


def test_the_places_of_a_dead_worker_come_back_when_its_requests_are_surely_over() -> None:
    world = World(2)
    world.submit(0, "two", 10)
    _settle(world)
    assert world.start(0, "two")
    world.submit(1, "two", 10)
    world.kill(0)
    _settle(world)
    assert _held(world, "two") == [0, 0]
    world.wait(LINGER_S)
    _settle(world)
    assert _held(world, "two") == [0, 2]


def test_the_pace_holds_although_workers_take_turns() -> None:
    world = World(3)
    for number in range(3):
        world.submit(number, "paced", 2)
    begun_s = world.now_s
    while not world.is_done:
        world.round()
    assert 5 * SPACING_S <= world.now_s - begun_s < 5 * (SPACING_S + 0.5)


def test_a_ticket_that_a_dead_worker_may_have_used_counts_as_used_at_the_last_moment() -> None:
    world = World(2)
    world.submit(0, "paced", 2)
    _settle(world)
    world.submit(1, "paced", 2)
    world.kill(0)
    _settle(world)
    assert world.workers[1].earliest_s["paced"] == world.now_s + LINGER_S + SPACING_S


def test_a_pace_that_one_worker_learns_holds_for_all() -> None:
    world = World(2)
    for number in range(2):
        world.submit(number, "learnt", 5)
    _settle(world)
    world.learn(0)
    _settle(world)
    assert [worker.tenant.lease("learnt").spacing_s for worker in world.workers] == [SPACING_S, SPACING_S]
    assert sum(_held(world, "learnt")) == 1


def test_places_that_travel_with_a_ticket_are_given_back() -> None:
    world = World(2)
    world.submit(0, "learnt", 1)
    _settle(world)
    world.submit(1, "learnt", 5)
    world.say(1)
    world.hear(1)
    world.learn(0)
    world.workers[0].tenant.row_ended("learnt")
    world.say(0)
    world.hear(0)
    world.post()
    grant = world.workers[1].grants[-1]
    assert grant.places.keys() == grant.tickets.keys()
    world.obey(1)
    assert _held(world, "learnt") == [0, 1]
    assert world.workers[1].tenant.lease("learnt").has_ticket


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
        world.wait(RISE_EVERY_S)
        _settle(world)
        assert sum(_held(world, "many")) == expected
    world.wait(CUT_EVERY_S)
    world.slow(0, "many")
    _settle(world)
    assert sum(_held(world, "many")) == 2


def test_a_rest_that_one_worker_meets_is_told_to_those_who_want_the_domain_and_to_those_who_come_later() -> (
    None
):
    world = World(3)
    for number in range(2):
        world.submit(number, "many", 1)
    _settle(world)
    world.workers[0].tenant.rests("many", Rest(60.0, 1))
    world.say(0)
    world.hear(0)
    world.post()
    assert [list(worker.grants)[-1:] for worker in world.workers] == [
        [Grant(answers=1)],
        [Grant(rests={"many": Rest(60.0, 1)})],
        [],
    ]
    world.wait(20.0)
    world.submit(2, "many", 1)
    world.say(2)
    world.hear(2)
    world.post()
    assert world.workers[2].grants[-1].rests == {"many": Rest(40.0, 1)}
