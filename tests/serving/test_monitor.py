"""What an operator sees of the traffic: an hour by minutes, percentiles, and never a word of a customer."""

from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_service import NOW

from fedbank.serving.engines.interface import Health
from fedbank.serving.monitor import Monitor


def samples(monitor: Monitor) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(monitor.exposition().decode())
    found = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def test_percentiles_are_nearest_ranks_of_what_was_answered() -> None:
    monitor = Monitor()
    for milliseconds in range(100, 0, -1):
        monitor.ended("answered", "spring", float(milliseconds), NOW)
    monitor.ended("failed", "spring", 90_000.0, NOW)
    monitor.ended("cancelled", "spring", 90_000.0, NOW)
    now = monitor.traffic(NOW)["now"]
    assert (now["p50_ms"], now["p95_ms"], now["answers"], now["failures"], now["refused"]) == (50.0, 95.0, 100, 1, 0)


def test_the_percentiles_of_a_busy_minute_are_of_all_of_it() -> None:
    monitor = Monitor()
    for number in range(8000):
        monitor.ended("answered", "spring", 10.0 if number < 4000 else 1000.0, NOW)
    now = monitor.traffic(NOW)["now"]
    assert now["answers"] == 8000 and now["p95_ms"] == 1000.0


def test_the_hour_is_sixty_minutes_oldest_first_with_empty_ones() -> None:
    monitor = Monitor()
    for minutes, outcome in ((0, "answered"), (1, "refused"), (58, "failed"), (70, "answered")):
        monitor.ended(outcome, "spring", 5.0, NOW + timedelta(minutes=minutes))  # type: ignore[arg-type]
    found = monitor.traffic(NOW + timedelta(minutes=71))["minutes"]
    assert len(found) == 60
    assert found[0]["at"] == "2027-03-01T09:12+00:00" and found[-1]["at"] == "2027-03-01T10:11+00:00"
    busy = {
        one["at"][11:16]: (one["answers"], one["failures"], one["refused"])
        for one in found
        if one["p50_ms"] or one["failures"]
    }
    assert busy == {"09:58": (0, 1, 0), "10:10": (1, 0, 0)}


def test_a_clock_that_goes_back_loses_nothing() -> None:
    monitor = Monitor()
    monitor.ended("answered", "spring", 5.0, NOW)
    monitor.ended("answered", "spring", 5.0, NOW - timedelta(minutes=3))
    assert monitor.traffic(NOW - timedelta(minutes=3))["now"]["answers"] == 2


def test_the_metrics_count_outcomes_tokens_events_and_the_engine() -> None:
    monitor = Monitor()
    monitor.ended("answered", "spring", 250.0, NOW, read=12, written=5)
    monitor.ended("refused", "none", 1.0, NOW)
    monitor.counted("rate-limited")
    monitor.engine(Health(True, "", 3, 4))
    found = samples(monitor)
    assert found["fedbank_answers_total", "answered", "spring"] == 1
    assert found["fedbank_answers_total", "refused", "none"] == 1
    assert found["fedbank_tokens_total", "read"] == 12 and found["fedbank_tokens_total", "written"] == 5
    assert found["fedbank_events_total", "rate-limited"] == 1
    assert found["fedbank_engine", "running"] == 3 and found["fedbank_engine", "waiting"] == 4
    assert found["fedbank_answer_seconds_bucket", "0.2"] == 0 and found["fedbank_answer_seconds_bucket", "0.5"] == 1


@pytest.mark.parametrize("name", ["customer", "principal", "session", "question", "request"])
def test_no_metric_has_a_label_for_a_person_or_a_text(name: str) -> None:
    monitor = Monitor()
    monitor.ended("answered", "spring", 1.0, NOW)
    monitor.counted("unauthorized")
    families = text_string_to_metric_families(monitor.exposition().decode())
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels <= {"outcome", "release", "kind", "direction", "what", "le"} and name not in labels
