"""The workspace of a study on W&B: what is built without a login, and what W&B's client sends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from search.show.trackers import TrackerConfig
from search.show.trackers.wandb import OF_ONE_RUN, WandbTracker
from search.show.workspace import ADDRESS, SIZES, saved, workspace
from space.arch import Architecture

pytest.importorskip("wandb_workspaces")
STUDY, PLOT = "it's mine", "depth_vs_width_plot"


class Store(BaseHTTPRequestHandler):
    """As much of W&B's GraphQL as keeps a view and gives it back."""

    views: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        given = asked.get("variables") or {}
        data: dict[str, Any] = {"viewer": {"id": "u", "entity": "me", "username": "me"}}
        data["viewer"] |= {"flags": "{}", "teams": {"edges": []}}
        if "upsertView" in asked["query"]:
            self.views[given["name"]] = given | {"id": "V1"}
            view = {"id": "V1", "name": given["name"]}
            data["upsertView"] = {"view": view, "inserted": True}
        if "allViews" in asked["query"]:
            node = self.views[given["viewName"]]
            data["project"] = {"allViews": {"edges": [{"node": node}]}}
        text = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """What a server of this machine keeps, which W&B's client takes for its own."""
    import wandb

    kept: dict[str, dict[str, Any]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Kept", (Store,), {"views": kept}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield kept
    wandb.teardown()
    server.shutdown()
    server.server_close()


def spec(metric: str = "val_bpb") -> dict[str, Any]:
    """A workspace as W&B's client would send it."""
    model = workspace("me", "isoparam", STUDY, metric, PLOT)._to_model()
    sent: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return sent["section"]


def panels(sent: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for part in sent["panelBankConfig"]["sections"] for panel in part["panels"]]


def test_it_has_quality_over_depth_and_width_of_this_studys_runs() -> None:
    sent = spec()
    (runs,) = sent["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "=", STUDY)
    depth, width, *curves, figure = panels(sent)
    assert depth["viewType"] == "Scatter Plot"
    assert depth["config"] == {
        "chartTitle": "Depth against width",
        "xAxis": "config:architecture.value.num_hidden_layers",
        "yAxis": "summary:val_bpb",
    }
    assert width["config"]["xAxis"] == "config:architecture.value.hidden_size"
    assert [panel["config"]["metrics"] for panel in curves] == [["train_loss"], ["val_loss"]]
    assert figure["config"]["mediaKeys"] == [PLOT]


def test_its_axes_are_settings_that_runs_are_shown_with() -> None:
    settings = Architecture.from_yaml("mobilellm_125m").to_dict()
    assert {name.removeprefix("architecture.") for name in SIZES.values()} <= set(settings)


def test_each_start_renews_the_same_workspace(views: dict[str, Any], tmp_path: Path) -> None:
    first, second = (
        saved(workspace("me", "isoparam", STUDY, metric, PLOT), tmp_path)
        for metric in ("val_bpb", "val_loss")
    )
    assert first == second == (tmp_path / ADDRESS).read_text().strip()
    (view,) = views.values()
    assert (view["entityName"], view["projectName"]) == ("me", "isoparam")
    assert view["displayName"] == STUDY
    sent = json.loads(view["spec"])["section"]
    assert panels(sent)[0]["config"]["yAxis"] == "summary:val_loss"


def test_it_goes_with_wandb_alone() -> None:
    with pytest.raises(ValueError, match="must go with tracker=wandb, but got tracker=jsonl"):
        TrackerConfig(name="jsonl", report=True)


def test_without_its_package_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.show.trackers.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'isoparam\[wandb\]'"):
        TrackerConfig(report=True)


def test_offline_it_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*OF_ONE_RUN, "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONSOLE"):
        monkeypatch.setenv(name, "")  # it sets and removes some, which is undone
    WandbTracker(TrackerConfig(report=True), "tiny", tmp_path)
    assert capsys.readouterr().out == (
        "tracker.report=true makes a workspace on W&B's server, so none is made offline: it needs "
        "`wandb login` and tracker.mode=online\n"
    )
