"""Retrying ends: after exactly so many executions, and never later than the policy says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.core.retry import EXHAUSTED, RetryPolicy
from pgcdc_outbox.core.verdict import goes_alone, judge, judge_raised
from pgcdc_outbox.errors import PayloadInvalid
from pgcdc_outbox.job import Failing, History, Job
from pgcdc_outbox.outcome import Dead, Retry

quick = settings(max_examples=60, deadline=None)
attempts = st.integers(1, 2**31 - 1)
chances = st.floats(0, 1)
errors = st.sampled_from([ValueError("no"), Retry(), Retry(5.0), Dead("no"), PayloadInvalid("no")])
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000_000),
    first_delay=st.floats(0, 1e9),
    factor=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)


def job(attempt: int, *, prior: int = 0, id_: int = 1) -> Job:
    history = History(created_us=0, prior_attempts=prior) if prior else None
    return Job(id_, "topic", b"{}", attempt=attempt, history=history)


def low(a: float, b: float) -> float:
    return a


def high(a: float, b: float) -> float:
    return b


@quick
@given(policies, attempts, chances)
def test_a_delay_is_finite_and_within_its_bounds(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    fate = policy.judge(job(attempt), ValueError(), jitter=lambda a, b: a + chance * (b - a))

    match fate:
        case Dead():
            assert attempt >= policy.max_attempts
        case Retry(after=delay):
            assert attempt < policy.max_attempts
            assert delay is not None
            assert 0 <= delay <= policy.max_delay


@quick
@given(policies, st.integers(1, 100))
def test_delays_grow_from_the_first_to_the_cap(policy: RetryPolicy, attempt: int) -> None:
    patient = RetryPolicy(
        max_attempts=1_000_000,
        first_delay=policy.first_delay,
        factor=policy.factor,
        max_delay=policy.max_delay,
        jitter=policy.jitter,
    )

    def ceiling(attempt: int) -> float:
        return patient.judge(job(attempt), ValueError(), jitter=high).after

    def floor(attempt: int) -> float:
        return patient.judge(job(attempt), ValueError(), jitter=low).after

    assert ceiling(1) == min(policy.first_delay, policy.max_delay)
    assert ceiling(attempt) <= ceiling(attempt + 1) <= policy.max_delay
    assert floor(attempt) == ceiling(attempt) * (1 - policy.jitter)


@quick
@given(st.integers(1, 12), st.sampled_from([ValueError("no"), Retry(), Retry(5.0), SystemExit(1)]))
def test_a_job_that_always_fails_is_executed_exactly_so_many_times(
    limit: int, error: BaseException
) -> None:
    policy = RetryPolicy(max_attempts=limit)
    executed = []
    current: Job | None = job(1)

    while current is not None:
        executed.append(current.attempt)
        assert len(executed) <= limit
        (failure,) = judge_raised([current], error, policy, jitter=high)
        match failure.fate:
            case Retry():
                current = job(current.attempt + 1)
            case Dead(reason=reason):
                assert reason == EXHAUSTED
                current = None

    assert executed == list(range(1, limit + 1))


@quick
@given(st.integers(1, 20), st.integers(1, 1000))
def test_a_person_who_retries_a_dead_job_grants_the_whole_budget_again(
    limit: int, prior: int
) -> None:
    policy = RetryPolicy(max_attempts=limit, jitter=0)

    for attempt in range(1, limit + 1):
        again = policy.judge(job(prior + attempt, prior=prior), ValueError(), jitter=high)
        fresh = policy.judge(job(attempt), ValueError(), jitter=high)
        assert repr(again) == repr(fresh), "neither the delay nor the end depends on the past"

    assert isinstance(
        policy.judge(job(prior + limit, prior=prior), ValueError(), jitter=high), Dead
    )


@quick
@given(policies, attempts, errors)
def test_nobody_dies_of_a_call_that_was_shared(
    policy: RetryPolicy, attempt: int, error: Exception
) -> None:
    jobs = [job(attempt, id_=id_) for id_ in (1, 2, 3)]

    failures = judge_raised(jobs, error, policy, jitter=high)

    assert [failure.job for failure in failures] == jobs
    assert all(isinstance(failure.fate, Retry) for failure in failures)
    assert all(failure.jobs == 3 for failure in failures)


@quick
@given(policies, attempts, st.integers(1, 3))
def test_a_job_goes_alone_after_a_shared_failure_and_at_its_last_attempt(
    policy: RetryPolicy, attempt: int, shared_by: int
) -> None:
    last = Failing(attempt=attempt, at="", error="ValueError", text="", jobs=shared_by)
    suspect = Job(1, "topic", b"", attempt=attempt, history=History(created_us=0, errors=(last,)))

    assert goes_alone(suspect, policy) == (shared_by > 1 or attempt >= policy.max_attempts)


@quick
@given(policies, attempts, errors)
def test_a_job_judged_by_its_own_error_is_final_only_with_a_reason(
    policy: RetryPolicy, attempt: int, error: Exception
) -> None:
    (failure,) = judge([job(attempt)], {1: error}, policy, jitter=high)

    final = isinstance(error, Dead | PayloadInvalid) or attempt >= policy.max_attempts
    assert isinstance(failure.fate, Dead) == final


@quick
@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 1200), chances)
def test_reconnecting_waits_between_half_a_ceiling_and_the_ceiling(
    first: float, cap: float, failures: int, chance: float
) -> None:
    backoff = Backoff(first=first, cap=cap)

    for number in range(failures):
        delay = backoff.next(lambda a, b: a + chance * (b - a))
        ceiling = min(first * 2.0 ** min(number, 100), cap)
        assert ceiling / 2 * 0.999 <= delay <= ceiling * 1.001

    backoff.reset()
    assert backoff.next(high) == first
