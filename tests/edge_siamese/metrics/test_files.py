"""The files for Prometheus and Grafana, and the page: they name exactly the metrics that a daemon exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_siamese.metrics.collect import MAX_OBJECTS, METRICS
from edge_siamese.settings import MetricsSettings
from tests.markdown_pages import quoted, table_rows

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "grafana" / "edge-siamese.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
OURS = {metric.name: metric for metric in METRICS}
OF_THE_PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
OF_PROMETHEUS = {"up"}


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    found += [note["expr"] for note in DASHBOARD["annotations"]["list"] if "expr" in note]
    return found + [variable.get("definition", "") for variable in DASHBOARD["templating"]["list"]]


def named(expression: str) -> set[str]:
    """The metrics of an expression; of a histogram without the suffixes of its series."""
    names = set(re.findall(r"\b(?:edge_siamese_|process_)\w+|\bup\b", expression))
    stems = {name: re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    return {
        stem if OURS.get(stem) and OURS[stem].kind == "histogram" else name for name, stem in stems.items()
    }


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels) of each selector of an expression."""
    for name, inside in re.findall(r"(\w+)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]~?", inside))


def test_every_queried_metric_is_exposed() -> None:
    known = set(OURS) | OF_THE_PROCESS | OF_PROMETHEUS
    assert len(queries()) > 35 and len(RULES) >= 12
    for expression in [*queries(), *(rule["expr"] for rule in RULES)]:
        assert named(expression) - known == set(), expression


def test_every_queried_label_exists() -> None:
    for expression in [*queries(), *(rule["expr"] for rule in RULES)]:
        for name, labels in selectors(expression):
            own = OURS.get(re.sub(r"_(bucket|sum|count)$", "", name)) or OURS.get(name)
            assert labels <= {"job", "instance", "le", *(own.labels if own else ())}, expression


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in queries() for name in named(expression)}
    assert set(OURS) - shown == set()


def test_the_dashboard_is_valid_for_grafana() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["id"] is None and DASHBOARD["uid"] == "edge-siamese"
    assert DASHBOARD["schemaVersion"] >= 39
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["instance"]["multi"] and variables["instance"]["includeAll"]
    for panel in panels():
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] and '$instance"' in target["expr"]


def test_panels_fill_the_grid_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    rows = max(y for _, y in taken) + 1
    assert len(taken) == 24 * rows


def test_alerts_have_a_summary_and_a_remedy() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert re.fullmatch(r"EdgeSiamese[A-Z]\w+", rule["alert"])
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
        assert set(rule["annotations"]) == {"summary", "description"}
        if rule["alert"] != "EdgeSiameseNotScraped":
            assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].rstrip().endswith(".")


# --- the page ---


def test_the_page_lists_every_metric_as_defined() -> None:
    rows = {quoted(row[0])[0]: row for row in table_rows(PAGE) if row[0].startswith("`edge_siamese_")}
    assert list(rows) == list(OURS)
    for name, (_, kind, labels, meaning) in rows.items():
        metric = OURS[name]
        assert kind == metric.kind
        assert tuple(quoted(labels)) == metric.labels
        assert meaning == metric.help


def test_the_page_lists_every_alert() -> None:
    rows = {quoted(row[0])[0]: row for row in table_rows(PAGE) if row[0].startswith("`EdgeSiamese")}
    assert list(rows) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        _, severity, after, _ = rows[rule["alert"]]
        assert severity == rule["labels"]["severity"]
        expected = rule["for"].replace("m", " min") if "for" in rule else "immediately"
        assert after == expected, rule["alert"]


def test_the_page_states_the_actual_numbers() -> None:
    defaults = MetricsSettings()
    assert (defaults.listen, defaults.enabled) == ("127.0.0.1", False)
    assert f"http://127.0.0.1:{defaults.port}/metrics" in PAGE
    assert f"{MAX_OBJECTS} objects" in PAGE


@pytest.mark.parametrize(
    "path", ["prometheus/prometheus.yml", "prometheus/alerts.yml", "grafana/edge-siamese.json"]
)
def test_the_page_links_to_the_files(path: str) -> None:
    assert f"]({path})" in PAGE


def test_the_example_scrapes_the_default_address() -> None:
    (job,) = yaml.safe_load((DOCS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))[
        "scrape_configs"
    ]
    assert job["job_name"] == "edge-siamese"
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{MetricsSettings().port}"]}]
    assert "metrics_path" not in job  # /metrics is what Prometheus asks for by itself
    for rule in RULES:
        for job_name in re.findall(r'job="([^"]*)"', rule["expr"]):
            assert job_name == "edge-siamese"
