"""A search over the settings of one group: Optuna asks, a sweep answers with validation errors.

What is drawn is a function of the file's seed, the group, the trial's number and the answers before
its batch; neither time nor the number of workers matters, and a search that goes on in another
process draws what it would have drawn in the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import inspect
from sqlalchemy.engine import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from fwt.fwcore import paths
from fwt.fwcore.errors import ConfigError, FileError, InUseError
from fwt.fwcore.rng import Stream
from fwt.sweep.plan import Range, SearchSpec

PATIENCE = 30  # seconds that SQLite waits for another process that writes; `?timeout=` has it else
TABLE = "version_info"  # a table of every database of Optuna's
MARK = "fwt"  # the attribute of a study that says which sweep made it

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells every trial


@dataclass(frozen=True)
class Trial:
    """A setting that was drawn.

    Attributes:
        number: from 0.
        values: name -> value.
        told: whether its answer is known.
    """

    number: int
    values: dict[str, Any]
    told: bool


def connect(where: str | Path) -> RDBStorage:
    """The database of a search.

    SQLite that another process writes to is waited for, at most `PATIENCE`.

    Args:
        where: its URL, or the file of SQLite. A URL's file may lie in a home, `sqlite:///~/a.db`.

    Raises:
        ConfigError: the URL is none.
        FileError: it cannot be opened, or holds something else.
    """
    try:
        file = isinstance(where, Path)
        given = URL.create("sqlite", database=str(where)) if file else make_url(str(where))
        options: dict[str, Any] = {}
        if given.get_backend_name() == "sqlite":
            if given.database and given.database.startswith("~"):
                given = given.set(database=str(paths.expand(given.database)))
            options = {"poolclass": NullPool}  # a file is open while it is asked alone
            if "timeout" not in given.query:
                options["connect_args"] = {"timeout": PATIENCE}
            _check_file(given, options)
        with _reached(given):
            return RDBStorage(given.render_as_string(hide_password=False), engine_kwargs=options)
    except (ArgumentError, ImportError, ValueError) as error:
        raise ConfigError(f"--storage: expected the URL of a database: {error}") from error


def _check_file(url: URL, options: Mapping[str, Any]) -> None:
    """Refuse a file of SQLite with tables of something else. Raises FileError."""
    engine = create_engine(url, **options)
    with _reached(url):
        names = inspect(engine).get_table_names()
    if names and TABLE not in names:
        raise FileError(
            f"--storage: {_shown(url)}: expected a new file or one of a search, got a database "
            f"with other tables: {', '.join(names)}; name another file"
        )


@contextmanager
def _reached(url: URL) -> Iterator[None]:
    """While a database is asked. Raises FileError if it does not answer, or not as it should."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        reason = error if isinstance(error, RuntimeError) else error.__cause__ or error
        reason = getattr(reason, "orig", None) or reason
        raise FileError(
            f"--storage: {_shown(url)}: {reason}; what ran is kept, and the same command goes on "
            "once the database can be used"
        ) from error


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


class Search:
    """The search of one group.

    Args:
        storage: see `connect`.
        name: of the study, which goes on if it is there.
        spec: see its class.
        settings: all else that makes the runs what they are.

    Raises:
        ConfigError: the study is there, and is that of another sweep.
    """

    def __init__(
        self, storage: RDBStorage, name: str, spec: SearchSpec, settings: Mapping[str, Any]
    ) -> None:
        self._spec, self._name, self._url = spec, name, make_url(storage.url)
        data = spec.json_data()
        self._space = {key: _distribution(given) for key, given in spec.ranges().items()}
        kept = {key: data[key] for key in ("sampler", "batch", "startup", "seed", "space")}
        mark = json.dumps({**kept, **settings}, sort_keys=True)
        with _reached(self._url):
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True
            )
            have = self._study.user_attrs.get(MARK)
            if have is None:
                self._study.set_user_attr(MARK, mark)
        if have not in (None, mark):
            raise ConfigError(
                f"sweep: the study {name!r} was made by another sweep: {have}; give this one "
                "another name"
            )

    def _trials(self) -> list[FrozenTrial]:
        """All trials of the study, oldest first."""
        with _reached(self._url):
            return self._study.get_trials(deepcopy=False)

    def known(self) -> list[Trial]:
        """The trials so far, oldest first, at most the budget."""
        trials = self._trials()[: self._spec.trials]
        return [
            Trial(trial.number, dict(trial.params), trial.state == TrialState.COMPLETE)
            for trial in trials
        ]

    def partial(self) -> bool:
        """Whether the last batch was not drawn to its end."""
        count = len(self._trials())
        return count % self._spec.batch > 0 and count < self._spec.trials

    def ask(self) -> list[Trial]:
        """The next batch; [] once the budget is spent."""
        first = len(self._trials())
        size = self._spec.batch
        last = min(first - first % size + size, self._spec.trials)
        return [self._ask(number) for number in range(first, last)]

    def _ask(self, number: int) -> Trial:
        self._study.sampler = self._sampler(number)
        with _reached(self._url):
            trial = self._study.ask(self._space)
        if trial.number != number:
            raise InUseError(
                f"sweep: the study {self._name!r} is searched by another process, which drew trial "
                f"{number}; wait for it, or give this sweep another name"
            )
        return Trial(trial.number, dict(trial.params), told=False)

    def _sampler(self, number: int) -> BaseSampler:
        """A sampler with a stream of its own, so that none has to be kept between processes."""
        stream = Stream(self._spec.seed, "search", self._name, number)
        seed = int(stream.integers(2**32, (1,))[0])
        if self._spec.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(
            seed=seed,
            n_startup_trials=self._spec.startup,
            multivariate=True,
            constant_liar=True,  # the trials of a batch keep apart
        )

    def tell(self, trial: Trial, error_pct: float) -> None:
        """The answer to a trial: its mean validation error, 100 if it diverged."""
        if not trial.told:
            with _reached(self._url):
                self._study.tell(trial.number, error_pct)


def _distribution(given: Range | list[Any]) -> BaseDistribution:
    if isinstance(given, list):
        return CategoricalDistribution(given)
    low, high = given.ends()
    if given.integer:
        return IntDistribution(int(low), int(high), log=given.log)
    return FloatDistribution(low, high, log=given.log)
