"""Dashboards ask for declared metrics alone, and reach Grafana by file and by its API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml

from cluster.cli import main
from cluster.observability.grafana import dashboards
from cluster.observability.metrics import METRICS, known_series
from tests.unit.cluster.promql import metric_names, promtool, without_variables

BOARDS = dashboards()


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in panels(board) for target in panel["targets"]]


def test_there_are_five():
    assert BOARDS.keys() == {"calibration", "drafters", "fleet", "replica", "slo"}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (model) (rate(a_total{x="b_total"}[5m])) / on (c) group_left d', {"a_total", "d"}),
        ("max(x) or 0 * y > 1e3 and z", {"x", "y", "z"}),
        ("histogram_quantile(0.95, sum by (le) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}),
        ("dspark:kept:ratio5m < 0.9", {"dspark:kept:ratio5m"}),
    ],
)
def test_names_are_found_in_expressions(expression, names):
    assert metric_names(expression) == names


@pytest.mark.parametrize("name", BOARDS)
def test_every_expression_asks_for_known_metrics(name):
    for expression in expressions(BOARDS[name]):
        names = metric_names(expression)
        assert names
        assert names <= known_series(), expression


def test_every_metric_of_ours_is_shown_somewhere():
    shown = {
        name
        for board in BOARDS.values()
        for expression in expressions(board)
        for name in metric_names(expression)
    }
    assert not [metric.exported for metric in METRICS if not shown & set(metric.series)]


def test_identities_are_unique_and_ours():
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids)
    for board in BOARDS.values():
        assert "id" not in board
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)


def test_prometheus_parses_every_expression(tmp_path):
    wanted = [without_variables(text) for board in BOARDS.values() for text in expressions(board)]
    rules = [{"record": f"r{i}", "expr": text} for i, text in enumerate(wanted)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", str(path))


@pytest.mark.parametrize("name", BOARDS)
def test_panels_go_by_the_chosen_data_source_and_do_not_overlap(name):
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels(BOARDS[name]):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources)


def test_files_are_laid_out_as_grafana_and_prometheus_read_them(tmp_path, capsys):
    assert main(["dashboards", "write", str(tmp_path / "out")]) == 0
    written = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.*")}
    assert written == {
        *(f"dashboards/{name}.json" for name in BOARDS),
        "provisioning/dashboards/dspark.yml",
        "provisioning/datasources/dspark.yml",
        "prometheus/alerts.yml",
        "prometheus/prometheus.yml",
    }
    assert len(capsys.readouterr().out.splitlines()) == len(written)
    prometheus = yaml.safe_load((tmp_path / "out/prometheus/prometheus.yml").read_text())
    assert prometheus["rule_files"] == ["alerts.yml"]


def test_a_place_that_cannot_be_written_is_named(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.touch()
    assert main(["dashboards", "write", str(taken)]) == 1
    assert str(taken) in capsys.readouterr().err


class Grafana(BaseHTTPRequestHandler):
    """Records what is sent to it and answers as Grafana's API does."""

    received: list[tuple[str, str, str | None, Any]]
    folders: list[dict[str, Any]]
    status = 200

    def do_GET(self):
        self._answer(self.folders)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/folders"):
            self._answer({"id": 7, "uid": body["uid"]}, body)
        else:
            self._answer({"uid": body["dashboard"]["uid"], "status": "success"}, body)

    def _answer(self, answer, body=None):
        self.received.append((self.command, self.path, self.headers["Authorization"], body))
        payload = json.dumps(answer if self.status == 200 else {"message": "no, because"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args):
        pass


@pytest.fixture
def grafana() -> Iterator[tuple[type[Grafana], str]]:
    handler = type("Recorded", (Grafana,), {"received": [], "folders": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_push_creates_the_folder_and_replaces_every_dashboard(grafana, capsys):
    recorder, url = grafana
    assert main(["dashboards", "push", "--url", f"{url}/grafana", "--token", "t"]) == 0
    calls = [(method, path) for method, path, _, _ in recorder.received]
    assert calls == [
        ("GET", "/grafana/api/folders"),
        ("POST", "/grafana/api/folders"),
        *[("POST", "/grafana/api/dashboards/db")] * 5,
    ]
    assert {auth for _, _, auth, _ in recorder.received} == {"Bearer t"}
    sent = [body for _, path, _, body in recorder.received if path.endswith("/db")]
    assert all(body["overwrite"] and body["folderId"] == 7 for body in sent)
    assert [body["dashboard"] for body in sent] == [
        board | {"id": None} for board in BOARDS.values()
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{url}/grafana/d/dspark-calibration"


def test_a_folder_that_is_there_is_used(grafana, monkeypatch):
    recorder, url = grafana
    recorder.folders.append({"id": 3, "uid": "dspark"})
    monkeypatch.setenv("GRAFANA_TOKEN", "from the environment")
    assert main(["dashboards", "push", "--url", url]) == 0
    sent = [body for _, _, _, body in recorder.received if body]
    assert {body["folderId"] for body in sent} == {3}
    assert {auth for _, _, auth, _ in recorder.received} == {"Bearer from the environment"}


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_said_with_its_reason(grafana, capsys, status):
    recorder, url = grafana
    recorder.status = status
    assert main(["dashboards", "push", "--url", url, "--token", "t"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"dspark dashboards push: {url} refuses: ")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("grafana:3000", "is no address: http://HOST:PORT"),
        ("http://h:port", "is no address"),
        ("http://127.0.0.1:9", "does not answer as Grafana"),
    ],
)
def test_an_address_that_is_none_is_named(capsys, url, said):
    assert main(["dashboards", "push", "--url", url, "--token", "t"]) == 1
    assert said in capsys.readouterr().err


def test_a_push_without_a_token_says_where_to_give_it(capsys, monkeypatch):
    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    assert main(["dashboards", "push", "--url", "http://127.0.0.1:9"]) == 1
    assert "GRAFANA_TOKEN" in capsys.readouterr().err
