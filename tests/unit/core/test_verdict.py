"""What a call of the handler means for each of its jobs."""

from collections.abc import AsyncIterator, Callable, Iterable
from types import MappingProxyType
from typing import Any

import pytest

from pgcdc_outbox.core.retry import UNDECODABLE, RetryPolicy
from pgcdc_outbox.core.verdict import (
    TEXT_LIMIT,
    Failed,
    bounded,
    goes_alone,
    judge,
    judge_raised,
    read,
)
from pgcdc_outbox.errors import PayloadInvalid, ResultInvalid
from pgcdc_outbox.job import Failing, History, Job
from pgcdc_outbox.outcome import Dead, Done, Retry, Snooze

JOBS = [Job(id_, "topic", b"{}") for id_ in (1, 2, 3)]
POLICY = RetryPolicy(max_attempts=5)


def latest(a: float, b: float) -> float:
    return b


class TestRead:
    """A result that says nothing must not pass for success."""

    @pytest.mark.parametrize("result", [None, [], (), set(), {}, iter(())])
    def test_nothing_failed(self, result: Any) -> None:
        assert read(result, JOBS) == {}

    @pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter, dict.fromkeys([1]).keys])
    def test_ids_of_jobs_that_failed(self, kind: Callable[[Iterable[int]], Iterable[int]]) -> None:
        ids = kind([1, 3]) if isinstance(kind, type) or kind is iter else {1: 0, 3: 0}.keys()

        errors = read(ids, JOBS)

        assert errors.keys() == {1, 3}
        assert all(isinstance(error, Failed) for error in errors.values())

    def test_ids_from_a_generator(self) -> None:
        assert read((job.id for job in JOBS if job.id != 2), JOBS).keys() == {1, 3}

    def test_an_id_given_twice_fails_once(self) -> None:
        assert list(read([2, 2], JOBS)) == [2]

    @pytest.mark.parametrize("kind", [dict, MappingProxyType])
    def test_outcomes_by_id(self, kind: Callable[[Any], Any]) -> None:
        retry, dead, broken = Retry(5), Dead("no"), ValueError("no")

        assert read(kind({1: retry, 2: dead, 3: broken}), JOBS) == {1: retry, 2: dead, 3: broken}

    def test_done_is_no_error(self) -> None:
        assert read({1: Done(), 2: Done()}, JOBS) == {}

    async def jobs_that_failed(self) -> AsyncIterator[int]:
        yield 1

    @pytest.mark.parametrize(
        "result",
        [
            pytest.param(True, id="true"),
            pytest.param(False, id="false"),
            pytest.param(0, id="zero"),
            pytest.param(42, id="a number"),
            pytest.param("abc", id="text"),
            pytest.param("", id="no text"),
            pytest.param(b"", id="no bytes"),
            pytest.param(b"\x01", id="bytes that would pass for an id"),
            pytest.param(bytearray(b"\x01"), id="a bytearray"),
            pytest.param(object(), id="an object"),
            pytest.param(Done(), id="an outcome without ids"),
            pytest.param(Dead("no"), id="another outcome without ids"),
            pytest.param([4], id="an id of no job"),
            pytest.param([True], id="a bool for an id"),
            pytest.param([1.0], id="a float for an id"),
            pytest.param(["1"], id="text for an id"),
            pytest.param([None], id="nothing for an id"),
            pytest.param([JOBS[0]], id="a job for an id"),
            pytest.param([[1]], id="a list for an id"),
            pytest.param([(1, Done())], id="pairs instead of a mapping"),
            pytest.param({4: Done()}, id="an outcome of no job"),
            pytest.param({True: Done()}, id="an outcome of a bool"),
            pytest.param({1: None}, id="nothing for an outcome"),
            pytest.param({1: "failed"}, id="text for an outcome"),
            pytest.param({1: True}, id="true for an outcome"),
            pytest.param({1: Done}, id="a class for an outcome"),
            pytest.param({1: KeyboardInterrupt()}, id="an interrupt for an outcome"),
        ],
    )
    def test_anything_else_is_refused(self, result: Any) -> None:
        with pytest.raises(ResultInvalid) as caught:
            read(result, JOBS)

        assert "the handler returned" in str(caught.value)
        assert caught.value.hint

    async def test_an_async_generator_is_refused(self) -> None:
        result = self.jobs_that_failed()

        with pytest.raises(ResultInvalid, match="async_generator"):
            read(result, JOBS)

        await result.aclose()

    def test_one_bad_id_spoils_the_whole_result(self) -> None:
        with pytest.raises(ResultInvalid, match="'x'"):
            read([1, "x"], JOBS)

    def test_what_a_generator_raises_is_raised(self) -> None:
        def failing() -> Iterable[int]:
            yield 1
            raise LookupError("in the middle")

        with pytest.raises(LookupError):
            read(failing(), JOBS)

    def test_a_payload_does_not_get_into_the_message(self) -> None:
        with pytest.raises(ResultInvalid) as caught:
            read([Job(1, "topic", b"secret", headers={"token": "secret"})], JOBS)

        assert "secret" not in str(caught.value)


class TestJudge:
    def test_each_by_its_own_error_in_the_order_of_the_batch(self) -> None:
        errors = {3: Dead("no"), 1: ValueError("bad")}

        first, third = judge(JOBS, errors, POLICY, jitter=latest)

        assert (first.job, first.error, first.text) == (JOBS[0], "ValueError", "bad")
        assert isinstance(first.fate, Retry)
        assert (third.job, third.text) == (JOBS[2], "no")
        assert isinstance(third.fate, Dead)
        assert first.jobs == third.jobs == 1, "whose fault it was is known"

    def test_an_error_is_named_with_its_module(self) -> None:
        (failure,) = judge(JOBS, {1: PayloadInvalid("no")}, POLICY, jitter=latest)

        assert failure.error == "pgcdc_outbox.errors.PayloadInvalid"

    def test_an_id_without_more_is_named_in_a_word(self) -> None:
        (failure,) = judge(JOBS, read([2], JOBS), POLICY, jitter=latest)

        assert failure.error == "Failed"


class TestJudgeRaised:
    """With several jobs nobody knows whose fault it was."""

    def test_a_single_job_is_judged_by_what_was_raised(self) -> None:
        (failure,) = judge_raised(JOBS[:1], PayloadInvalid("no"), POLICY, jitter=latest)

        assert isinstance(failure.fate, Dead)
        assert failure.fate.reason == UNDECODABLE
        assert failure.jobs == 1

    def test_a_single_job_may_raise_that_it_is_done(self) -> None:
        assert judge_raised(JOBS[:1], Done(), POLICY, jitter=latest) == []

    @pytest.mark.parametrize("error", [Dead("no"), PayloadInvalid("no")])
    def test_what_would_be_final_brings_each_back_alone_and_at_once(self, error: Exception) -> None:
        failures = judge_raised(JOBS, error, POLICY, jitter=latest)

        assert [failure.fate.after for failure in failures] == [0, 0, 0]
        assert [failure.jobs for failure in failures] == [3, 3, 3]

    def test_done_from_the_midst_of_a_batch_does_not_speak_for_all_of_it(self) -> None:
        failures = judge_raised(JOBS, Done(), POLICY, jitter=latest)

        assert len(failures) == 3

    def test_the_delay_that_was_asked_for_holds_for_all(self) -> None:
        failures = judge_raised(JOBS, Retry(7), POLICY, jitter=latest)

        assert [failure.fate.after for failure in failures] == [7, 7, 7]

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
    def test_errors_that_end_a_process_are_failures_of_a_job(self, error: BaseException) -> None:
        (failure,) = judge_raised(JOBS[:1], error, POLICY, jitter=latest)

        assert isinstance(failure.fate, Retry)
        assert failure.error == type(error).__name__


class TestGoesAlone:
    def job(self, *, attempt: int, shared_by: tuple[int, ...] = ()) -> Job:
        errors = tuple(
            Failing(attempt=number, at="", error="", text="", jobs=jobs)
            for number, jobs in enumerate(shared_by, 1)
        )
        return Job(1, "t", b"", attempt=attempt, history=History(created_us=0, errors=errors))

    def test_a_fresh_job_shares_its_call(self) -> None:
        assert not goes_alone(Job(1, "topic", b""), POLICY)

    def test_after_a_shared_failure_it_goes_alone(self) -> None:
        assert goes_alone(self.job(attempt=2, shared_by=(3,)), POLICY)

    def test_after_a_failure_of_its_own_it_may_share_again(self) -> None:
        assert not goes_alone(self.job(attempt=3, shared_by=(3, 1)), POLICY)

    def test_the_last_attempt_is_made_alone(self) -> None:
        assert goes_alone(self.job(attempt=5, shared_by=(1, 1, 1, 1)), POLICY)


class TestText:
    """What is kept of an error can be stored, is bounded, and holds no secret."""

    def text(self, error: BaseException, **kwargs: Any) -> str:
        (failure,) = judge(JOBS, {1: error}, POLICY, jitter=latest, **kwargs)
        return failure.text

    def test_a_long_text_is_cut_and_says_so(self) -> None:
        text = self.text(ValueError("x" * 10_000))

        assert text == "x" * TEXT_LIMIT + "... (6000 more characters)"

    def test_a_text_that_just_fits_is_kept(self) -> None:
        assert self.text(ValueError("ä" * TEXT_LIMIT)) == "ä" * TEXT_LIMIT

    def test_what_postgresql_cannot_store_is_replaced(self) -> None:
        text = self.text(ValueError("a\0b\ud800c"))

        assert text == "a\N{REPLACEMENT CHARACTER}b?c"
        text.encode()

    def test_it_is_redacted_before_it_is_cut(self) -> None:
        secret = "x" * (TEXT_LIMIT - 3) + "password"

        text = self.text(ValueError(secret), redact=lambda text: text.replace("password", "***"))

        assert text == "x" * (TEXT_LIMIT - 3) + "***"

    def test_the_reason_of_a_dead_job_is_treated_alike(self) -> None:
        (failure,) = judge(
            JOBS, {1: Dead("token 42\0" + "x" * 10_000)}, POLICY,
            jitter=latest, redact=lambda text: text.replace("42", "***"),
        )  # fmt: skip

        assert failure.fate.reason.startswith("token ***\N{REPLACEMENT CHARACTER}x")
        assert len(failure.fate.reason) < TEXT_LIMIT + 50
        assert failure.text == failure.fate.reason

    def test_an_error_that_cannot_be_printed_is_kept_all_the_same(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("not today")

        assert self.text(Mute()) == "(its text could not be had: RuntimeError)"

    @pytest.mark.parametrize("redact", [lambda text: 1 / 0, lambda text: None])
    def test_a_redaction_that_fails_lets_nothing_through(self, redact: Any) -> None:
        assert "secret" not in self.text(ValueError("secret"), redact=redact)

    def test_a_text_without_trouble_is_not_touched(self) -> None:
        assert bounded("Grüße, 世界 🎉") == "Grüße, 世界 🎉"


class Strict:
    """A policy of somebody's own, which knows nothing of putting off."""

    def judge(self, job: Job, error: BaseException, *, jitter: Any) -> Dead:
        return Dead("strict")

    def is_last(self, job: Job) -> bool:
        return True


def test_a_job_that_is_put_off_is_not_judged() -> None:
    snooze = Snooze(after=5)

    (returned,) = judge(JOBS, {2: snooze}, Strict(), jitter=latest)
    (raised,) = judge_raised(JOBS[:1], snooze, Strict(), jitter=latest)

    assert (returned.job.id, returned.fate) == (2, snooze)
    assert (raised.job.id, raised.fate) == (1, snooze)


def test_put_off_by_a_call_with_several_jobs_each_comes_back_alone() -> None:
    failures = judge_raised(JOBS, Snooze(after=86400), POLICY, jitter=latest)

    assert [(type(failure.fate), failure.jobs) for failure in failures] == [(Retry, 3)] * 3
    assert all(failure.fate.after == 1 for failure in failures)
