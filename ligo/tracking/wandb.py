"""Weights & Biases as a mirror of metrics.jsonl: offline unless told otherwise, and wherever there is no login.

A run of ligo is several W&B runs in the group of its study, one for each job (`ligo.tracking.artifacts`): `small`, `learn`,
`train`, `scratch`, `short` and `continue` have the curve of their arm under the same names, so that any of them share
a chart; `grow` (or `tune`) has the summary. What they hand on are artifacts. None of them tells of a place, a machine or a
secret.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

from ligo.core.errors import Interrupted, ResourceError, require
from ligo.core.log import warn
from ligo.core.redact import published, redact
from ligo.core.run import Run
from ligo.tracking.artifacts import JOBS, Fingerprint, Product, Products

_JOB_OF_ARM = {"grown": "train"}
_ORDER = tuple(JOBS)


def job_of(arm: str) -> str:
    """The job that trains an arm."""
    return _JOB_OF_ARM.get(arm, arm)


def wandb_name(run: str, job: str) -> str:
    """What the W&B run of a job is called."""
    return run if job in ("grow", "tune") else f"{run} {job}"


class WandbTracker:
    """The W&B runs of one run of ligo, each begun with the first record of its job."""

    def __init__(
        self, folder: Path, *, mode: str, project: str, group: str, name: str, config: dict[str, Any],
        artifacts: str, fingerprint: Fingerprint, identity: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            mode: offline or online.
            artifacts: reference, files or off, as in the options.
            fingerprint: of a model folder.
            identity: what the ids of the W&B runs follow from. None: the folder, so that a later start is the same
                runs; otherwise the whole folder is replayed, and what it holds already is logged too.

        Raises:
            ConfigError: wandb is not installed.
            ResourceError: the folder cannot be written.
        """
        if not os.access(folder, os.W_OK):  # W&B would take a folder for passing files, and say nothing
            raise ResourceError(
                f"cannot write {folder}.\n  Try: ls -ld {folder}, which shows who may; or a copy of it"
            )
        self._wandb = require("wandb", extra="wandb", why=f"tracking.wandb={mode}")
        os.environ.setdefault("WANDB_SILENT", "true")
        warnings.filterwarnings("ignore", module="wandb")
        self._folder, self._project, self._group, self._name = folder, project, group, name
        self._config, self._artifacts = config, artifacts
        self._identity = identity or str(folder.resolve())
        self._main = "tune" if "tuning" in config else "grow"
        self._products = Products(Run(folder), fingerprint)
        self._open: dict[str, Any] = {}
        roles = {role for job in JOBS.values() for role in job.makes}
        self._made: set[str] = set() if identity else {role for role in roles if self._products.find(role)}
        self._taken: set[tuple[str, str]] = set()
        self.mode = mode if mode == "offline" or self._is_logged_in() else "offline"
        self.folders: list[Path] = []
        """Of the W&B runs, in the order in which they are to be sent."""

    def log(self, record: dict[str, Any]) -> None:
        job = job_of(record["arm"])
        if job not in self._open:
            self._settle(job)
        values = {key: value for key, value in record.items() if key != "arm" and value is not None}
        self._run(job).log(values)

    def rewind(self, arm: str, step: int) -> None:
        pass  # a mirror cannot unsay; metrics.jsonl is rewritten, and `python -m ligo.sync` mirrors that

    def summary(self, values: dict[str, Any]) -> None:
        self._settle(None)
        self._run(self._main).summary.update(published(values))

    def finish(self) -> None:
        self._settle(None)
        for run in self._open.values():
            run.finish()
        self._open = {}

    # --- jobs ---------------------------------------------------------------------------------------------

    def _settle(self, next_job: str | None) -> None:
        """End the jobs that come before the next (None: all of them), and log what they took and made.

        Learning for a growth inside an arm is no job in the row: it ends none, and the arm goes on after it.
        """
        if next_job is not None and next_job not in JOBS:
            return
        for name in _ORDER[: None if next_job is None else _ORDER.index(next_job)]:
            try:
                self._hand_on(name)
            except Interrupted:
                raise
            except Exception as error:  # W&B's, its server's, the network's: a mirror ends nothing
                warn(f"W&B has no artifacts of {name}: {error}\n  Try: python -m ligo.sync {self._folder}")
            if name in self._open and name != self._main:
                self._open.pop(name).finish()

    def _hand_on(self, job: str) -> None:
        """Log what a job took and made, if it is one of this process; the main job has no records to begin with."""
        found = [product for role in JOBS[job].makes if (product := self._products.find(role)) is not None]
        made = [product for product in found if product.path is not None and product.role not in self._made]
        if self._artifacts == "off" or not (job in self._open or (job == self._main and made)):
            return
        run = self._run(job)
        for roles in JOBS[job].takes:
            taken = self._products.first(roles)
            if taken is not None and (job, taken.role) not in self._taken:
                # The public use_artifact refuses to work offline. What it does with a new artifact online is this, and
                # `wandb sync` sends it as a use; created by a user, it is nobody's output.
                run._log_artifact(
                    self._artifact(taken), aliases=[taken.role], is_user_created=True, use_after_commit=True
                )
                self._taken.add((job, taken.role))
        for product in made:
            logged = run.log_artifact(self._artifact(product), aliases=[product.role])
            if self.mode == "online":
                logged.wait()  # whoever takes it comes after who made it
            self._made.add(product.role)

    def _artifact(self, product: Product) -> Any:
        artifact = self._wandb.Artifact(product.name, type=product.type, metadata=product.metadata)
        if self._artifacts == "reference" or product.path is None:
            artifact.add_reference(product.reference, name=product.type)
        elif product.path.is_dir():  # immutable: sent from where it lies, not copied to the home folder first
            artifact.add_dir(str(product.path), policy="immutable")
        else:
            artifact.add_file(str(product.path), policy="immutable")
        return artifact

    def _run(self, job: str) -> Any:
        if job not in self._open:
            self._open[job] = self._begin(job)
        return self._open[job]

    def _begin(self, job: str) -> Any:
        options: dict[str, Any] = dict(
            project=redact(self._project),
            group=redact(self._group),
            job_type=re.sub(r"-\d+$", "", job),
            name=redact(wandb_name(self._name, job)),
            id=hashlib.sha256(f"{self._identity} {job}".encode()).hexdigest()[:12],
            resume="allow",
            reinit="create_new",  # beside the one with the summary
            config=published(self._config),
            dir=str(self._folder),
            # it would send what is printed, the command line, the program's path and the names of user and machine
            settings=self._wandb.Settings(
                host="", x_disable_meta=True, disable_git=True, disable_code=True, console="off"
            ),
        )
        try:
            run = self._wandb.init(mode=self.mode, **options)
        except self._wandb.errors.Error as error:
            if self.mode == "offline":
                raise
            self._stay_offline(error)
            run = self._wandb.init(mode=self.mode, **options)
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        self.folders.append(Path(run.settings.sync_dir))
        return run

    # --- login --------------------------------------------------------------------------------------------

    def _is_logged_in(self) -> bool:
        """Ask the server whether it knows us, without asking anybody for a key."""
        try:
            if self._wandb.login(prompt=False, verify=True):
                return True
            self._stay_offline("nobody is logged in")
        except self._wandb.errors.Error as error:
            self._stay_offline(error)
        return False

    def _stay_offline(self, why: object) -> None:
        self.mode = "offline"
        warn(
            f"W&B stays offline: {str(why).splitlines()[0].rstrip('.')}. Nothing is lost, and metrics.jsonl is the truth.\n"
            f"  Try: wandb login, and then python -m ligo.sync {self._folder} --mode online"
        )
