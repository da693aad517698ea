"""The served page: what it shows, to whom, and that it only reads."""

import html
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from browser_fixtures import CHROMIUM, FLAGS, needs_chromium
from process_fixtures import wait_for
from report_fixtures import StudyFolder, ladder
from serve_fixtures import served
from study_fixtures import environment, open_search

from reports.serve.__main__ import ServeConfig, main
from reports.serve.outputs import Outputs
from reports.serve.pages import FACTS, Query, budgets_in_words, comparison, listing
from reports.serve.server import Site
from search.recipe import Recipe
from search.study.leases import WORKER
from search.study.storage import leases_of

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7777}}?#"
SECRET = "a secret"


def study(root: Path, name: str, **facts: Any) -> StudyFolder:
    """A study of one run with a small page."""
    made = StudyFolder(root, name, **facts)
    made.add(ladder([3])[0])
    page = f'<title>x</title><h1 id="answer">Best of {html.escape(name)} is\n3</h1><p>more</p>'
    (made.write() / "report.html").write_text(page)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two studies, a table without a page, a law, and what must not be seen."""
    config = {"data": {"source": "text", "path": "books/*.txt"}, "recipe": {"tokens": 5000}}
    study(tmp_path, "deep", config=config)
    space = {"name": "gqa", "axes": {}}
    other = {"data": {"source": "embedded"}, "recipe": {"tokens": 7000, "lr": 0.5}}
    other |= {"space": {"axes": {"tie_word_embeddings": [True, False]}}, "report_all": True}
    budget, began = {"kind": "parameters", "value": 4_000_000}, "2026-10-02T00:00:00+00:00"
    study(tmp_path, HOSTILE, config=other, budget=budget, space=space, started=began)
    outputs = tmp_path / "outputs"
    table, law = outputs / "tables" / "heads", outputs / "laws" / "grown"
    for folder in (table, law):
        folder.mkdir(parents=True)
    panel = {"budget": budget, "arms": [{"recipe": {"tokens": 9000}}]}
    facts = {"table": {"name": "heads", "caption": "How many heads?", "panels": [panel]}}
    place = {"state": "COMPLETE", "key": "feed0123feed0123", "seed": 4}
    (table / "study.json").write_text(json.dumps({**facts, "trials": [place], "finished": True}))
    (law / "report.html").write_text('<h1 id="answer">Depth grows.</h1>')
    (law / "budgets.csv").write_text("study,budget\ndeep,1000000\n")
    os.utime(law / "report.html", (1_795_000_000, 1_795_000_000))  # 2026-11-18
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.md").write_text(SECRET)
    (outputs / "secret.md").write_text(SECRET)
    (outputs / "deep" / "study.db").write_text(SECRET)
    (outputs / "deep" / ".hidden.md").write_text(SECRET)
    (outputs / "deep" / "link.md").symlink_to(tmp_path / "outside" / "secret.md")
    (outputs / "leads_out").symlink_to(tmp_path / "outside")
    return tmp_path


@pytest.fixture
def site(root: Path) -> Iterator[Site]:
    with served(root / "outputs") as site:
        yield site


Answer = tuple[int, dict[str, str], str]


def ask(site: Site, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Status, headers and text."""
    talk = http.client.HTTPConnection("127.0.0.1", site.server_port, timeout=30)
    talk.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        for each in value.split("|") if value else ():
            talk.putheader(name, each)
    talk.endheaders()
    answer = talk.getresponse()
    text = answer.read().decode()
    talk.close()
    return answer.status, dict(answer.getheaders()), text


def rows(page: str) -> dict[str, str]:
    """The rows of a page by their names, as text."""
    whole = page.replace("<wbr>", "")
    found = re.findall(r'<tr data-row="(.*?)".*?>(.*?)</tr>', whole, re.DOTALL)
    return {html.unescape(n): html.unescape(re.sub("<.*?>", " ", row)) for n, row in found}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


# --- what is shown -------------------------------------------------------------------------------


def test_tokens_are_those_of_whole_steps_as_on_pages(tmp_path: Path) -> None:
    """60,000 tokens in steps of 512 are 118 steps."""
    recipe = {"tokens": 60_000, "batch_size": 4, "seq_len": 128}
    study(tmp_path, "deep", config={"recipe": recipe})
    (entry,) = Outputs(tmp_path / "outputs").entries()
    assert FACTS["tokens per run"](entry) == "60,416"
    assert FACTS["tokens per run"](entry) == f"{Recipe(**recipe).trained_tokens:,}"


def looked_at(site: Site) -> str:
    """The list once the storages have been looked at."""
    wait_for(lambda: "not known yet" not in ask(site)[2])
    return ask(site)[2]


def test_studies_tables_and_laws_are_listed_with_what_was_asked_and_answered(site: Site) -> None:
    page = looked_at(site)
    found = rows(page)
    assert list(found) == ["deep", "laws/grown", HOSTILE, "tables/heads"]  # the newest first
    for text in ("Best of deep is 3", "finished", "1.0M parameters", "books/*.txt", "5,000"):
        assert text in found["deep"]
    assert "How many heads?" in found["tables/heads"]
    assert "9,000" in found["tables/heads"]
    assert "no page yet: python -m reports table=heads" in found["tables/heads"]
    for text in ("Depth grows.", "a law over deep", "1.0M parameters", "depth_width"):
        assert text in found["laws/grown"]
    assert "4 of 4 shown." in page
    assert "Not shown, because they lead out of this folder: leads_out" in page


def test_every_link_of_the_page_leads_to_a_file_that_is_there(site: Site, root: Path) -> None:
    links = [html.unescape(link) for link in re.findall('href="(/files/.*?)"', ask(site)[2])]
    assert len(links) >= 8
    answers = [ask(site, link) for link in links]
    assert {status for status, _, _ in answers} == {200}
    (folder,) = [link for link in links if "onerror" in link and link.endswith("study.json")]
    assert ask(site, folder)[2] == (root / "outputs" / HOSTILE / "study.json").read_text()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"name": "DEE"}, ["deep", "laws/grown"]),  # the law is over it
        ({"name": "feed0123"}, ["tables/heads"]),  # the key of a run
        ({"kind": "law"}, ["laws/grown"]),
        ({"space": "gqa"}, [HOSTILE]),
        ({"budget": "4.0M parameters"}, [HOSTILE, "tables/heads"]),
        ({"corpus": "books/*.txt"}, ["deep", "laws/grown"]),
        ({"until": "2026-10-31"}, [HOSTILE]),
        ({"since": "2026-10-03", "until": "2026-11-20", "kind": "study"}, ["deep"]),
        ({"name": "nowhere"}, []),
        ({"unknown": "x", "name": ""}, ["deep", "laws/grown", HOSTILE, "tables/heads"]),
    ],
)
def test_search_leaves_what_fits(site: Site, asked: dict[str, str], found: list[str]) -> None:
    page = ask(site, f"/?{urlencode(asked)}")[2]
    assert list(rows(page)) == found
    assert f"{len(found)} of 4 shown" in page


def test_the_values_that_can_be_searched_are_those_there_are(site: Site) -> None:
    page = ask(site, f"/?{urlencode({'space': 'gqa', 'name': HOSTILE})}")[2]
    options = re.findall(r"<option( selected)?>(.*?)</option>", page)
    assert (" selected", "gqa") in options
    assert ("", "books/*.txt") in options
    assert (
        f'value="{html.escape(HOSTILE)}"'.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
        in page
    )


def test_two_are_compared_with_the_settings_in_which_they_differ(site: Site) -> None:
    page = ask(site, f"/compare?{urlencode([('of', 'deep'), ('of', HOSTILE)])}")[2]
    found = rows(page)
    assert "Best of deep is 3" in found["answer"]
    assert f"Best of {HOSTILE} is 3" in found["answer"]
    assert re.search(r"1\.0M parameters\s+4\.0M parameters", found["budget"])
    assert re.search(r"5,000\s+7,000", found["tokens per run"])
    assert re.search(r"–\s+0\.5", found["setting recipe.lr"])
    assert re.search(r"–\s+true", found["setting report_all"])
    assert re.search(r"–\s+\[true, false\]", found["setting space.axes.tie_word_embeddings"])
    assert "<code>space.<wbr>axes.<wbr>tie_<wbr>word_<wbr>embeddings</code>" in page
    assert "report_<wbr>all" in page
    differing = re.findall(r'data-row="([^"]*)" class="differs"', page)
    assert "budget" in differing
    assert "seeds" not in differing


def test_what_one_kind_is_not_asked_is_no_difference(site: Site, root: Path) -> None:
    """A table has its budget from its file, and no trials; two studies may differ in these."""
    config = {"budget": "1m", "n_trials": 8, "recipe": {"lr": 0.5}, "space": {"name": "gqa"}}
    study(root, "deep", config=config)
    study(root, "wide", config={**config, "n_trials": 9})
    facts = root / "outputs" / "tables" / "heads" / "study.json"
    asked = {"budget": None, "budgets": [], "scale": "proxy", "space": None}
    asked |= {"recipe": {"lr": 0.5, "optimizer": "muon"}}
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "config": asked}))
    for other, settings in (("tables/heads", {"recipe.optimizer"}), ("wide", {"n_trials"})):
        page = ask(site, f"/compare?{urlencode([('of', 'deep'), ('of', other)])}")[2]
        found = re.findall('data-row="setting (.*?)" class="differs"', page)
        assert set(found) == settings
        assert {name for name in rows(page) if name.startswith("setting ")} == {
            f"setting {name}" for name in settings
        }
    page = ask(site, "/compare?of=deep&of=tables/heads&of=laws/grown")[2]
    assert re.search(r"1\.0M parameters\s+4\.0M parameters", rows(page)["budget"])
    headings = re.findall(r'<th scope="row">(?:<code>)?(.*?)</', page)
    assert len(headings) == len(set(headings)), "no two rows of one name"


def test_what_an_answer_is_worth_stands_before_it(site: Site, root: Path) -> None:
    page = '<div id="answer">\n<h1>Smoke run.</h1>\n<p class="lead">Of 20,480 tokens.</p>\n'
    page += "<p>Best <b>is</b> 3.</p></div><h1>x</h1>"
    (root / "outputs" / "deep" / "report.html").write_text(page)
    assert " Smoke run. Best is 3. " in rows(ask(site)[2])["deep"]
    table = '<h1>How many heads?</h1><p id="answer">1 of 3 is resolved.</p>'
    (root / "outputs" / "tables" / "heads" / "table.html").write_text(table)
    row = rows(ask(site)[2])["tables/heads"]
    assert " 1 of 3 is resolved. " in row
    assert row.count("How many heads?") == 1


@pytest.mark.parametrize("asked", ["", "?of=deep", "?of=deep&of=deep", "?of=nowhere&of=deep"])
def test_one_alone_is_not_compared(site: Site, asked: str) -> None:
    status, _, page = ask(site, f"/compare{asked}")
    assert status == 200
    assert "Choose two or more" in page


def test_what_is_damaged_is_named_and_the_others_are_shown(site: Site, root: Path) -> None:
    (root / "outputs" / "deep" / "study.json").write_text("{")
    assert "cannot be read" in rows(ask(site)[2])["deep"]
    (root / "outputs" / "deep" / "study.json").write_text('{"trials": 3, "study": "deep"}')
    found = rows(ask(site)[2])
    assert "cannot be read" in found["deep"]
    assert "How many heads?" in found["tables/heads"]


def test_states_and_counts_are_shown_once_the_storages_have_been_looked_at(root: Path) -> None:
    """`study.json` has the runs that have begun, and may be of an earlier start."""
    facts = root / "outputs" / "tables" / "heads" / "study.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "finished": False}))
    outputs = Outputs(root / "outputs")
    before, after = (listing(outputs.entries(looked), Query()) for looked in (None, {}))
    for name in ("deep", HOSTILE, "tables/heads"):
        assert "not known yet" in rows(before)[name]
        assert "…" in rows(before)[name]
        assert "1 of 1" not in rows(before)[name]
    assert "finished" in rows(before)["laws/grown"]  # which has no storage
    assert "finished" in rows(after)["deep"]
    assert "stopped" in rows(after)["tables/heads"]
    assert all("1 of 1 finished" in rows(after)[name] for name in ("deep", "tables/heads"))
    assert 'data-live="3"' in before, "the page looks again soon"
    assert 'data-live="0"' in after
    differing = re.findall('data-row="(.*?)" class="differs"', comparison(outputs.entries()))
    assert "answer" in differing
    assert not {"state", "runs"} & set(differing)


def test_a_study_that_runs_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search = open_search(tmp_path, "n_trials=2", "replicates.seeds=1")
    leases = leases_of(search.study, "one:1")
    leases.said = {"doing": "training", "step": 10, "of": 20, "tokens_per_s": 1500.0}
    assert leases.claim(f"{WORKER}/{leases.holder}")
    search.lock.release()
    before = set(tree(tmp_path / "outputs"))
    with served(Path("outputs")) as site:

        def row() -> str:
            return rows(ask(site)[2])["tiny"]

        begun = row()  # nobody has looked yet, and the page does not wait
        assert "not known yet" in begun or "running" in begun
        wait_for(lambda: "running" in row())
        assert "running, 0 of 2 runs done, 1 worker, 1.5k tokens/s" in row()
        assert "100k parameters" in row()  # before its first run has ended
        assert '<progress value="0.2500"' in ask(site)[2]
        leases.close()
        wait_for(lambda: "stopped" in row())
    assert set(tree(tmp_path / "outputs")) == before


class Attributes(HTMLParser):
    """Names and values of all attributes of a page."""

    found: list[tuple[str, str]]

    @classmethod
    def of(cls, page: str) -> list[tuple[str, str]]:
        parser = cls()
        parser.found = []
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(name, value or "") for name, value in attrs]


# --- to whom, and what not -----------------------------------------------------------------------


def test_a_study_counts_all_the_runs_that_its_storage_plans(root: Path) -> None:
    worker = {"step": None, "of": None, "host": "one", "worker": "one:1"}
    for workers, state in (([worker], "running, 2 of 7 runs done"), ([], "finished")):
        said = {
            "done": 2,
            "finished": 1,
            "total": 7,
            "at_most": False,
            "tokens_per_s": 0.0,
            "workers": workers,
        }
        found = {entry.name: entry for entry in Outputs(root / "outputs").entries({"deep": said})}
        assert FACTS["state"](found["deep"]).startswith(state)
        assert FACTS["runs"](found["deep"]) == "1 of 7 finished"


def test_a_folder_that_leads_out_is_not_shown_while_it_runs(root: Path) -> None:
    worker = {"step": None, "of": None}
    said = {
        "done": 0,
        "finished": 0,
        "total": 2,
        "at_most": False,
        "tokens_per_s": 0.0,
        "workers": [worker],
        "starts": [],
    }
    (root / "outputs" / HOSTILE / "study.db").symlink_to(root / "outside" / "secret.md")
    names_said = ("leads_out", "elsewhere", HOSTILE, "../outside")
    found = Outputs(root / "outputs").entries(dict.fromkeys(names_said, said))
    names = [entry.name for entry in found]
    assert not {"leads_out", "../outside"} & set(names)
    assert [entry.name for entry in found if entry.progress] == ["elsewhere"]
    assert names[0] == "elsewhere"  # a study of the storage that has no folder yet


@pytest.mark.parametrize("method", "POST PUT DELETE PATCH OPTIONS TRACE CONNECT PROPFIND".split())
def test_other_methods_are_refused(site: Site, root: Path, method: str) -> None:
    before = tree(root)
    status, headers, _ = ask(site, "/files/deep/report.html", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert tree(root) == before


@pytest.mark.parametrize("path", ["/", "/files/deep/report.html", "/nowhere"])
def test_head_says_what_get_does_without_its_content(site: Site, path: str) -> None:
    status, headers, text = ask(site, path)
    head = ask(site, path, "HEAD")
    assert head[0] == status
    assert head[2] == ""
    assert {**head[1], "Date": ""} == {**headers, "Date": ""}
    assert int(headers["Content-Length"]) == len(text.encode())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "", "a|127.0.0.1"],
)
def test_requests_for_another_host_are_refused(site: Site, host: str) -> None:
    for path in ("/", "/style.css", "/files/deep/report.html"):
        status, _, text = ask(site, path, Host=host)
        assert status == 403
        assert "deep" not in text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LocalHost"])
def test_this_machine_may_be_reached_by_another_port(site: Site, host: str) -> None:
    assert ask(site, Host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/secret.md",
        "/files/secret.md",
        "/files/../outside/secret.md",
        "/files/%2e%2e/outside/secret.md",
        "/files/deep/..%2f..%2foutside%2fsecret.md",
        "/files/deep/../secret.md",
        "/files/deep/%2e%2e/%2e%2e/outside/secret.md",
        "/files//outside/secret.md",
        "/files/leads_out/secret.md",
        "/files/deep/link.md",
        "/files/deep/.hidden.md",
        "/files/deep/study.db",
        "/files/deep/report.html%00.md",
        "/files/deep/",
        "/files/deep",
        "/files/tables%2fheads/study.json",
        "//files/deep/../../outside/secret.md",
        "http://evil.example/files/../outside/secret.md",
        "/files/%ff/%fe.md",
        "/files",
        "files/deep/report.html",
        "*",
        "?",
    ],
)
def test_nothing_else_is_shown(site: Site, path: str) -> None:
    status, _, text = ask(site, path)
    assert status == (403 if path.startswith("http:") else 404)  # as its Host says
    assert SECRET not in text


def test_an_address_that_cannot_be_read_is_said_so(
    site: Site, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(site, f"/?{'a=1&' * 1001}")[0] == 400
    assert ask(site, "/\\..//[::")[0] == 404
    assert "Traceback" not in capfd.readouterr().err


def test_hostile_names_are_text(site: Site, root: Path) -> None:
    os.mkdir(os.fsencode(root / "outputs") + b"/\xff\xfe")
    Path(os.fsdecode(os.fsencode(root / "outputs") + b"/\xff\xfe/table.md")).write_text("odd")
    both = urlencode([("of", "deep"), ("of", HOSTILE)])
    for path in ("/", f"/?{urlencode({'name': HOSTILE})}", f"/compare?{both}"):
        status, _, page = ask(site, path)
        assert status == 200
        assert "<img" not in page
        assert "54439" not in page
        assert HOSTILE in rows(page) or f"Best of {HOSTILE} is 3" in rows(page)["answer"]
    (link,) = {link for link in re.findall('href="(/files/.*?)"', ask(site)[2]) if "%FF" in link}
    assert ask(site, link)[2] == "odd"


def test_pages_may_run_their_own_script_alone_and_ask_nobody_else(site: Site) -> None:
    for path in ("/", "/compare?of=deep&of=tables/heads"):
        _, headers, page = ask(site, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        found = Attributes.of(page)
        assert not [name for name, _ in found if name == "style" or name.startswith("on")]
        places = {value for name, value in found if name in ("src", "href", "action")}
        assert {place for place in places if not re.match(r"/(?!/)", place)} == {"data:,"}
        assert not re.search("<style|<script>", page)
    files = ask(site, "/files/deep/report.html")[1]
    assert "connect-src" not in files["Content-Security-Policy"]
    assert "sandbox allow-scripts" in files["Content-Security-Policy"]
    assert files["X-Content-Type-Options"] == "nosniff"


def test_all_that_is_done_with_it_writes_nothing(site: Site, root: Path) -> None:
    before = tree(root)
    for path in ("/", "/?name=x", "/compare?of=deep&of=laws/grown", "/files/deep/report.html"):
        ask(site, path)
    wait_for(lambda: site.watch.found is not None)
    ask(site)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "0.0.0.0"}, "knows no passwords.*'0.0.0.0'; from another machine: ssh -L"),
        ({"port": 70_000}, "port must be 0, for a free one, to 65535, but got 70000"),
        ({"every_s": 0.0}, "every_s must"),
    ],
)
def test_what_it_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ServeConfig(**given)


def test_a_port_that_is_taken_and_a_folder_that_is_absent_are_one_line(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        (f"outputs={root}", f"port={site.server_port}"): "port must be free",
        ("outputs=nowhere",): "outputs must be a folder that is there, but nowhere is not",
    }
    for given, said in cases.items():
        monkeypatch.setattr(sys, "argv", ["reports", *given])
        with pytest.raises(SystemExit, match="2"):
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_the_command_prints_its_address_and_ends_with_ctrl_c(root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "reports", "serve", f"outputs={root / 'outputs'}", "port=0"],
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)$", line.strip())
    talk = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    talk.request("GET", "/")
    assert "Best of deep is" in talk.getresponse().read().decode()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "stopped\n")


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_what_changes_without_loading_the_page_again(
    site: Site, root: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_context(viewport={"width": 360, "height": 740}).new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url))
        tab.goto(site.url)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        of = "document.querySelector('.scroll')"
        for width in (1300, 360):
            tab.set_viewport_size({"width": width, "height": 740})
            assert tab.evaluate(f"{of}.scrollWidth - {of}.clientWidth") <= 0, width
        box = tab.get_by_label("compare deep", exact=True)
        box.check()
        tab.click("[data-row=deep] summary")
        box.focus()
        study(root, "newer", started="2026-12-01T00:00:00+00:00")
        (root / "outputs" / "deep" / "report.html").write_text('<p id="answer">Changed.</p>')
        tab.wait_for_selector("[data-row=newer]")
        tab.wait_for_selector("[data-row=deep] >> text=Changed.")
        assert "newer" in tab.inner_text("[data-live] tr:first-child")
        assert box.is_checked()
        assert tab.is_visible("[data-row=deep] a >> text=study.json")
        assert box.evaluate("box => box === document.activeElement")
        tab.get_by_label("compare newer").check()
        tab.get_by_role("button", name="Compare the chosen").click()
        tab.wait_for_selector("h1 >> text=Side by side")
        browser.close()
    assert [c for c in complaints if not c.startswith((site.url, "data:"))] == []


def test_a_query_is_of_what_an_address_has() -> None:
    assert Query.of({"name": ["a", " b "], "other": ["c"]}) == Query(name="b")


def test_budgets_say_once_what_they_count() -> None:
    counted = "non-embedding parameters"
    law = [f"{n} {counted}" for n in ("500k", "1.0M", "2.0M")]
    assert budgets_in_words([*law, "8.0 MB of weights"]) == (
        f"500k, 1.0M and 2.0M {counted}; 8.0 MB of weights"
    )
    assert budgets_in_words([]) == ""
