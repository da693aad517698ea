"""What every sampler must do. On your own: `--implementation mine.py`."""

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from contract_fixtures import failures_of
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState
from study_fixtures import run, study_json

from search.study.samplers import SAMPLERS, SamplerConfig, make_sampler, worker_seed
from space.axes import Space
from space.budget import Budget

DOOR = SAMPLERS
SPACE = Space(
    name="small",
    budget=Budget.parse("100k"),
    vocab_size=300,
    axes={
        "num_blocks": [2, 3, 4, 5, 7],
        "tie_word_embeddings": [True, False],
        "qk_norm": [True, False],
    },
)


@pytest.fixture(autouse=True)
def only_errors_are_shown() -> None:
    """Samplers warn of what they draw independently."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


def open_study(
    implementation: str, storage: optuna.storages.BaseStorage | None = None, seed: int = 0
) -> optuna.Study:
    """As a worker opens it."""
    sampler = make_sampler(SamplerConfig(name=implementation), seed)
    return optuna.create_study(
        study_name="study", storage=storage, sampler=sampler, load_if_exists=True
    )


def loss(trial: optuna.Trial) -> float:
    """Of the architecture that a trial proposes; raises where it is none of the space."""
    return SPACE.suggest(trial).num_layers + 0.1 * trial.params["qk_norm"]


def proposals(study: optuna.Study, number: int) -> list[dict[str, object]]:
    """The parameters of the next trials."""
    before = len(study.trials)
    study.optimize(loss, n_trials=number)
    return [trial.params for trial in study.trials[before:]]


def test_every_proposal_is_an_architecture_of_the_space(implementation: str) -> None:
    for params in proposals(open_study(implementation), 15):
        assert SPACE.candidate(params).architecture in SPACE.enumerate()


def test_a_seed_fixes_what_is_proposed(implementation: str) -> None:
    first, again = (proposals(open_study(implementation, seed=3), 12) for _ in range(2))
    assert first == again


def test_workers_do_not_propose_the_same(implementation: str) -> None:
    config = SamplerConfig(name=implementation)
    seeds = [worker_seed(config, 0, worker, trials=0) for worker in range(2)]
    if SAMPLERS.load(implementation).one_sequence:
        assert seeds[0] == seeds[1]
        return
    first, second = (proposals(open_study(implementation, seed=seed), 8) for seed in seeds)
    assert first != second


def test_it_goes_on_after_a_restart(
    implementation: str, storage: optuna.storages.BaseStorage
) -> None:
    """A sampler that is made anew reads from the study what was tried."""
    proposals(open_study(implementation, storage), 12)
    study = open_study(implementation, storage, seed=1)
    for params in proposals(study, 3):
        SPACE.candidate(params)
    assert len(study.trials) == 15


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING])
def test_it_proposes_beside_trials_without_a_value(implementation: str, state: TrialState) -> None:
    study = open_study(implementation)
    for _ in range(12):
        trial = study.ask()
        SPACE.suggest(trial)
        if state != TrialState.RUNNING:
            study.tell(trial, state=state)
    assert len(proposals(study, 2)) == 2


def test_it_proposes_after_trials_that_were_enqueued(implementation: str) -> None:
    study = open_study(implementation)
    enqueued = dict(SPACE.candidates()[0].params)
    study.enqueue_trial(enqueued)
    proposals(study, 4)
    assert study.trials[0].params == enqueued
    assert len(study.trials) == 4


def test_an_option_that_it_does_not_take_is_refused_in_one_line(implementation: str) -> None:
    config = SamplerConfig(name=implementation, options={"no_such_option": 1})
    with pytest.raises(ValueError, match=r"sampler\..* must be ") as error:
        make_sampler(config, seed=0)
    assert "no_such_option" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
class TestAsOptunaAsks(BasicSamplerTestCase):
    """Optuna's own suite for samplers: distributions of all kinds, also of ones that change."""

    @pytest.fixture
    def sampler(self, implementation: str) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(SamplerConfig(name=implementation), seed=0)


MINE = '''
"""Proposes what comes first in each axis, or last once in `pace` trials."""

import optuna
from optuna.samplers import BaseSampler

from search.study.samplers import Sampler


class FirstOrLast(BaseSampler):
    def __init__(self, pace):
        self.pace = pace

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        last = trial.number % self.pace == self.pace - 1
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            return distribution.choices[-1 if last else 0]
        return distribution.high if last else distribution.low


class Mine(Sampler):
    def make(self, seed, pace=2):
        return FirstOrLast(pace)


SAMPLER = Mine()
'''


@pytest.mark.slow
def test_a_sampler_of_ones_own_leads_a_search(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    given = ("sampler=mine.py", "+sampler.options.pace=3", "n_trials=2", "replicates.seeds=1")
    done = run(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    content = study_json(tmp_path)
    assert content["sampler"] == "mine.py"
    tried = [trial["params"]["num_blocks"] for trial in content["trials"]]
    assert tried == [2, 7], "the first two times the first, then the last"


def test_what_is_no_sampler_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace("return FirstOrLast(pace)", "return pace"))
    done = run(tmp_path, "sampler=mine.py")
    assert done.returncode == 2
    assert "sampler=mine.py must make one of Optuna's samplers, but made 2;" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_what_goes_wrong_in_a_file_of_ones_own_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace("return FirstOrLast(pace)", "1 / 0"))
    line = (tmp_path / "mine.py").read_text().splitlines().index("        1 / 0") + 1
    done = run(tmp_path, "sampler=mine.py")
    assert done.returncode == 2
    place = f"{tmp_path / 'mine.py'}, line {line}, in make"
    assert done.stderr == f"error: {place}: ZeroDivisionError: division by zero\n"
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "mine.py").write_text("raise SystemExit(3)\n")
    done = run(tmp_path, "sampler=mine.py")
    assert done.returncode == 2
    assert done.stderr.endswith("mine.py could not be loaded: SystemExit: 3\n")


def test_a_first_proposal_that_goes_wrong_leaves_nothing(tmp_path: Path) -> None:
    asked = "def sample_independent(self, study, trial, name, distribution):"
    assert asked in MINE
    (tmp_path / "mine.py").write_text(MINE.replace(asked, f"{asked}\n        1 / 0"))
    line = (tmp_path / "mine.py").read_text().splitlines().index("        1 / 0") + 1
    done = run(tmp_path, "sampler=mine.py")
    assert done.returncode == 2
    place = f"{tmp_path / 'mine.py'}, line {line}, in sample_independent"
    assert done.stderr.endswith(f", but {place}: ZeroDivisionError: division by zero\n")
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "runs").exists()


def test_a_bad_option_of_ones_own_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = run(tmp_path, "sampler=mine.py", "+sampler.options.speed=3")
    assert done.returncode == 2
    said = "error: sampler.speed must be an option of sampler=mine.py, but is none; it takes pace\n"
    assert done.stderr == said
    assert not (tmp_path / "outputs").exists()


BAD = '''
from optuna.samplers import BaseSampler


class Forgetful(BaseSampler):
    """Draws without a seed, and beyond what was asked for."""

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return 10**6


class Bad:
    exhaustive = one_sequence = False

    def make(self, seed, **options):
        return Forgetful()


SAMPLER = Bad()
'''


@pytest.mark.slow
def test_the_contract_names_what_a_bad_sampler_lacks(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    failed = failures_of(Path(__file__), tmp_path / "bad.py")
    assert {
        "test_every_proposal_is_an_architecture_of_the_space",
        "test_an_option_that_it_does_not_take_is_refused_in_one_line",
    } <= failed
