"""Registering and finding: prefixes, routers in routers, what is refused and what is unknown."""

import logging
from typing import Any

import pytest

from pgcdc_outbox import Dead, Job, Retry, RetryPolicy, Router
from pgcdc_outbox.errors import HandlerInvalid, PayloadInvalid, RouteInvalid, SettingsError
from tests.unit.routing.units import job, run


def recording(router: Router, *patterns: str, seen: list[tuple[str, str]]) -> None:
    """Register a handler for each pattern, that notes it with the topic it got."""
    for pattern in patterns:

        @router.on(pattern)
        async def handle(job: Job, *, pattern: str = pattern) -> None:
            seen.append((pattern, job.topic))


class TestFinding:
    async def test_the_most_specific_pattern_takes_the_job(self) -> None:
        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "#", "user.#", "user.*", "user.created", seen=seen)

        topics = ["user.created", "user.deleted", "user", "user.a.b", "other.a"]
        assert await run(router, *(job(n, topic) for n, topic in enumerate(topics))) == {}

        assert {topic: pattern for pattern, topic in seen} == {
            "user.created": "user.created",
            "user.deleted": "user.*",
            "user": "user.#",
            "user.a.b": "user.#",
            "other.a": "#",
        }
        assert len(seen) == len(topics), "and no other"

    async def test_of_equals_the_first_takes_it(self) -> None:
        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "#.b.#", "#.a.#", seen=seen)

        await run(router, job(1, "a.b"))

        assert seen == [("#.b.#", "a.b")]

    async def test_a_route_that_comes_later_is_found_too(self) -> None:
        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "#", seen=seen)
        await run(router, job(1, "a.b"))
        recording(router, "a.b", seen=seen)
        await run(router, job(2, "a.b"))

        assert seen == [("#", "a.b"), ("a.b", "a.b")]

    async def test_so_many_topics_are_not_remembered_for_ever(self) -> None:
        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "a.*", seen=seen)

        for n in range(20_001):
            router.flow_of(f"a.{n}")

        assert len(router._table._known) <= 10_000


class TestPrefixes:
    @pytest.mark.parametrize(
        ("outer", "call", "inner", "pattern", "topic"),
        [
            ("", "", "", "created", "created"),
            ("shop", "", "", "created", "shop.created"),
            ("", "", "order", "created", "order.created"),
            ("shop", "v1", "order", "created", "shop.v1.order.created"),
            ("shop", "", "order", "", "shop.order"),
            ("", "v1", "", "a.b", "v1.a.b"),
        ],
    )
    async def test_they_are_joined_with_dots(
        self, outer: str, call: str, inner: str, pattern: str, topic: str
    ) -> None:
        root, child = Router(outer), Router(inner)
        root.include_router(child, prefix=call)
        seen: list[str] = []

        @child.on(pattern)
        async def handle(job: Job) -> None:
            seen.append(job.topic)

        assert await run(root, job(1, topic)) == {}
        assert seen == [topic]
        assert (await run(root, job(2, f"x.{topic}")))[2].reason == "no_handler"

    async def test_routers_in_routers_in_routers(self) -> None:
        root, middle, leaf = Router("a"), Router("b"), Router("c")
        seen = list[tuple[str, str]]()
        recording(leaf, "early", seen=seen)
        middle.include_router(leaf)
        root.include_router(middle, prefix="x")
        recording(leaf, "late", seen=seen)

        await run(root, job(1, "a.x.b.c.early"), job(2, "a.x.b.c.late"))
        await run(middle, job(3, "b.c.late"))

        assert [topic for _, topic in seen] == ["a.x.b.c.early", "a.x.b.c.late", "b.c.late"]

    def test_a_router_is_not_put_into_itself(self) -> None:
        a, b, c = Router("a"), Router("b"), Router("c")
        a.include_router(b)
        b.include_router(c)

        for outer, inner in [(a, a), (b, a), (c, a)]:
            with pytest.raises(RouteInvalid, match="contain itself"):
                outer.include_router(inner)

    def test_a_clash_that_shows_only_outside_is_refused_and_changes_nothing(self) -> None:
        root, child = Router(), Router()
        root.include_router(child, prefix="order")

        @root.on("order.created", batch=True)
        def all_of_them(jobs: list[Job]) -> None: ...

        with pytest.raises(RouteInvalid, match=r"one_of_them and .*all_of_them.*'order.created'"):

            @child.on("created")
            def one_of_them(job: Job) -> None: ...

        assert child.flows == []
        assert [len(flow.routes) for flow in root.flows] == [1]


class TestSeveralHandlers:
    async def test_they_run_in_the_order_of_their_registration(self) -> None:
        router, seen = Router(), list[str]()

        @router.on("t")
        async def first(job: Job) -> None:
            seen.append("first")

        @router.on("t")
        def second(job: Job) -> None:
            seen.append("second")

        @router.on("t")
        async def third() -> None:
            seen.append("third")

        assert await run(router, job(1)) == {}
        assert seen == ["first", "second", "third"]

    async def test_after_one_that_fails_none_runs(self) -> None:
        router, seen = Router(), list[str]()

        @router.on("t")
        async def first(job: Job) -> Any:
            seen.append("first")
            if job.id == 1:
                raise ValueError("no")

            return Dead("no") if job.id == 2 else None

        @router.on("t")
        async def second(job: Job) -> None:
            seen.append("second")

        errors = await run(router, job(1), job(2), job(3))

        assert sorted(seen) == ["first", "first", "first", "second"]
        assert isinstance(errors[1], ValueError)
        assert errors[2].reason == "no"
        assert errors.keys() == {1, 2}

    async def test_what_the_second_cannot_decode_is_not_begun_by_the_first(self) -> None:
        router, seen = Router(), list[int]()

        @router.on("t")
        async def first(payload: int) -> None:
            seen.append(payload)

        @router.on("t")
        async def second(payload: str) -> None: ...

        assert isinstance((await run(router, job(1, payload=b"1")))[1], PayloadInvalid)
        assert seen == []

    async def test_in_batches_the_later_ones_get_what_is_left(self) -> None:
        router, seen = Router(), list[list[int]]()

        @router.on("t", batch=True)
        async def first(jobs: list[Job]) -> list[int]:
            return [2]

        @router.on("t", batch=True)
        async def second(jobs: list[Job]) -> None:
            seen.append([job.id for job in jobs])

        assert (await run(router, job(1), job(2), job(3))).keys() == {2}
        assert seen == [[1, 3]]


class TestUnknownTopics:
    async def test_by_default_they_are_dead(self) -> None:
        errors = await run(Router(), job(1), job(2))

        assert [error.reason for error in errors.values()] == ["no_handler"] * 2

    async def test_they_may_be_tried_again(self) -> None:
        error = (await run(Router(unknown="retry"), job(1, "nobody")))[1]

        assert isinstance(error, Retry)
        assert error.after is None, "the policy decides"
        assert "'nobody'" in str(error)

    async def test_dropping_them_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        assert await run(Router(unknown="drop"), job(1, "a"), job(2, "a"), job(3, "b")) == {}
        assert [record.getMessage() for record in caplog.records] == [
            "2 jobs dropped: no handler for the topic 'a'",
            "1 jobs dropped: no handler for the topic 'b'",
        ]
        assert {record.levelno for record in caplog.records} == {logging.WARNING}

    async def test_the_others_of_the_batch_run(self) -> None:
        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "known", seen=seen)

        assert (await run(router, job(1, "unknown"), job(2, "known"))).keys() == {1}
        assert seen == [("known", "known")]

    def test_the_outermost_decides(self) -> None:
        with pytest.raises(RouteInvalid, match="unknown='drop'"):
            Router().include_router(Router("a", unknown="drop"))


class TestPolicy:
    def test_each_topic_has_its_own_or_the_default(self) -> None:
        router = Router()

        @router.on("patient.*", retry=RetryPolicy(max_attempts=50))
        def patient(job: Job) -> None: ...

        @router.on("hasty", retry=RetryPolicy(max_attempts=1))
        def hasty(job: Job) -> None: ...

        @router.on("usual")
        def usual(job: Job) -> None: ...

        policy = router.policy(RetryPolicy(max_attempts=3))

        def fates(attempt: int) -> list[bool]:
            topics = ["patient.a", "hasty", "usual", "unknown"]
            judged = [
                policy.judge(
                    job(1, topic, attempt=attempt), ValueError(), jitter=lambda low, high: high
                )
                for topic in topics
            ]
            lasts = [policy.is_last(job(1, topic, attempt=attempt)) for topic in topics]
            assert [isinstance(fate, Dead) for fate in judged] == lasts
            return lasts

        assert fates(1) == [False, True, False, False]
        assert fates(3) == [False, True, True, True]
        assert fates(50) == [True, True, True, True]

    def test_it_sees_the_error(self) -> None:
        router = Router()

        class Picky:
            def judge(self, job: Job, error: BaseException, *, jitter: Any) -> Any:
                return Dead("key") if isinstance(error, KeyError) else Retry(1)

            def is_last(self, job: Job) -> bool:
                return False

        @router.on("t", retry=Picky())
        def handle(job: Job) -> None: ...

        policy = router.policy(RetryPolicy())
        assert repr(policy.judge(job(1), KeyError(), jitter=min)) == "Dead('key')"

    def test_no_handler_is_dead_whatever_the_policy_is(self) -> None:
        class Stubborn:
            def judge(self, job: Job, error: BaseException, *, jitter: Any) -> Any:
                return Retry(1)

            def is_last(self, job: Job) -> bool:
                return False

        router, seen = Router(), list[tuple[str, str]]()
        recording(router, "a", seen=seen)
        fate = router.policy(Stubborn()).judge(job(1, "b"), Dead("no_handler"), jitter=min)
        assert repr(fate) == "Dead('no_handler')"

    def test_without_routes_it_is_refused(self) -> None:
        with pytest.raises(HandlerInvalid, match="no routes") as caught:
            Router().policy(RetryPolicy())

        assert "Import the modules" in caught.value.hint


class TestRefusing:
    """Contradictions are refused at registration, with the names of the functions."""

    def test_the_same_function_twice(self) -> None:
        router = Router()

        def handle(job: Job) -> None: ...

        router.on("a.*")(handle)
        router.on("a.b")(handle)
        with pytest.raises(RouteInvalid, match=r"handle is registered twice for 'a.\*'"):
            router.on("a.*")(handle)

    @pytest.mark.parametrize(
        ("first", "second", "wrong"),
        [
            ({"batch": True}, {}, "one takes batches"),
            ({"delivery": "at_most_once"}, {}, "at most once"),
            ({"retry": RetryPolicy()}, {"retry": RetryPolicy(max_attempts=2)}, "retry policies"),
        ],
    )
    def test_contradictions(self, first: Any, second: Any, wrong: str) -> None:
        router = Router()

        @router.on("t", **first)
        def one() -> None: ...

        with pytest.raises(RouteInvalid, match=wrong) as caught:

            @router.on("t", **second)
            def other() -> None: ...

        assert ".one" in str(caught.value)
        assert ".other" in str(caught.value)
        assert caught.value.hint

    def test_sync_and_async_in_one_transaction(self) -> None:
        router = Router()

        @router.on("t")
        def one() -> None: ...

        with pytest.raises(RouteInvalid, match="share a transaction"):

            @router.on("t", transactional=True)
            async def other() -> None: ...

    @pytest.mark.parametrize(
        ("options", "wrong"),
        [
            ({"timeout": 0}, "timeout: 0"),
            ({"timeout": -1}, "timeout: -1"),
            ({"timeout": "5"}, "timeout: '5'"),
            ({"timeout": float("nan")}, "timeout: nan"),
            ({"concurrency": 0}, "concurrency: 0"),
            ({"concurrency": 2.5}, "concurrency: 2.5"),
            ({"concurrency": True}, "concurrency: True"),
            ({"concurrency": 2, "transactional": True}, "share one transaction"),
            ({"delivery": "exactly_once"}, "'exactly_once'"),
            ({"delivery": "at_most_once", "transactional": True}, "at most once"),
        ],
    )
    def test_options(self, options: Any, wrong: str) -> None:
        with pytest.raises(RouteInvalid, match=wrong) as caught:

            @Router().on("t", **options)
            def handle(job: Job) -> None: ...

        assert "test_options.handle" in str(caught.value)

    @pytest.mark.parametrize("pattern", ["", "a..b", "a*", 5])
    def test_patterns(self, pattern: Any) -> None:
        with pytest.raises(RouteInvalid, match=r"handle: "):

            @Router().on(pattern)
            def handle(job: Job) -> None: ...

    @pytest.mark.parametrize(
        "settings",
        [
            {"unknown": "ignore"},
            {"prefix": "a."},
            {"prefix": 5},
            {"codecs": [object()]},
        ],
    )
    def test_settings(self, settings: Any) -> None:
        with pytest.raises(SettingsError):
            Router(**settings)
