"""Settings of trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from stochx.catalog import FAMILIES
from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, RUN, WHAT, Option
from stochx.settings.choices import Norm, Optimizer, Precision, Recipe, Schedule
from stochx.settings.figures import Drawing
from stochx.settings.groups import Limited, Machine
from stochx.settings.values import USUAL, Number, radius

RATES: dict[Optimizer, float] = {"sgd": 0.1, "adamw": 0.001}  # peak learning rates
EXTRA_SHARE = 0.7  # of a batch (Wang et al., 2023)


@dataclass(frozen=True, kw_only=True)
class Fitting(Machine, Drawing):
    """Optimisation of weights."""

    augment: Annotated[bool, Option(METHOD, "Shift and mirror images.")] = True
    optimizer: Annotated[Optimizer, Option(METHOD, "Optimizer; sgd has momentum.")] = "sgd"
    schedule: Annotated[Schedule, Option(METHOD, "Schedule of the learning rate.")] = "one-cycle"
    decay: Annotated[float, Option(METHOD, "Weight decay.", minimum=0, maximum=1e6)] = 5e-4
    average: Annotated[
        float, Option(METHOD, "EMA decay of the weights; 0 disables it.", minimum=0, maximum=0.99999)
    ] = 0.0
    accumulate: Annotated[
        int,
        Option(METHOD, "Split each batch into N parts and accumulate gradients, to save memory.", minimum=1),
    ] = 1
    patience: Annotated[
        int, Option(METHOD, "Stop after N epochs without a better validation; 0 never stops early.", minimum=0)
    ] = 0
    precision: Annotated[Precision, Option(RUN, "Precision of convolutions and products; auto is fp32.")] = "auto"
    save_epochs: Annotated[bool, Option(OUTPUT, "Keep the weights of every epoch in checkpoints/.")] = False


@dataclass(frozen=True, kw_only=True)
class Epochs(Fitting, Limited):
    """Training of a classifier, plain or adversarial."""

    epochs: Annotated[int, Option(METHOD, "Passes over the data.", minimum=1, free=True)] = 30
    lr: Annotated[
        float | None,
        Option(
            METHOD,
            "Peak learning rate; default 0.1, with adamw 0.001, a tenth of it for pretrained weights.",
            minimum=1e-6,
            maximum=1e6,
        ),
    ] = None
    batch_size: Annotated[int, Option(METHOD, "Images per step.", minimum=2)] = 128
    validation: Annotated[
        int | None,
        Option(
            METHOD,
            "Hold out N training images for model selection; by default a tenth in adversarial training, 1000 at "
            "most. Pretrained weights are only monitored, on 512.",
            minimum=0,
        ),
    ] = None
    adversarial: Annotated[
        str | None,
        Option(
            METHOD,
            "Train on adversarial examples from this attack, e.g. pgd:steps=7.",
            family="attacks",
            or_none=True,
        ),
    ] = None
    recipe: Annotated[Recipe | None, Option(METHOD, "Recipe of adversarial training; default madry.")] = None
    eps: Annotated[
        Number | None, Option(METHOD, "Radius of the attack's ball, in pixel units [0, 1]; default 8/255.")
    ] = None
    norm: Annotated[Norm | None, Option(METHOD, "Norm of the attack's ball; default linf.")] = None
    delay: Annotated[int, Option(METHOD, "Epochs of plain training before adversarial training.", minimum=0)] = 0
    awp: Annotated[
        float,
        Option(
            METHOD,
            "Size of adversarial weight perturbation (AWP), relative to the weights; usual: 0.01, with trades 0.005. "
            "0 disables it.",
            minimum=0,
            maximum=1,
        ),
    ] = 0.0
    awp_delay: Annotated[int, Option(METHOD, "Epochs before AWP sets in; usual with trades: 10.", minimum=0)] = 0
    extra: Annotated[
        str | None,
        Option(
            WHAT, "More images to train on, such as synthetic ones: npz:path=FILE.", family="datasets", or_path=True
        ),
    ] = None
    extra_share: Annotated[
        float | None, Option(METHOD, "Share of each batch that comes from `--extra`; default 0.7.")
    ] = None

    @property
    def pretrained(self) -> bool:
        """True where the weights to train are trained already."""
        raise NotImplementedError

    @property
    def attack(self) -> str | None:
        """The attack of adversarial training; None in plain training."""
        return None if self.adversarial == "none" else self.adversarial

    @property
    def rate(self) -> float:
        """The peak learning rate; pretrained weights want a tenth."""
        return self.lr or RATES[self.optimizer] / (10 if self.pretrained else 1)

    @property
    def ball(self) -> tuple[float, Norm]:
        """Radius and norm of the attack's ball."""
        norm = self.norm or "linf"
        return radius(self.eps or USUAL[norm], norm), norm

    @property
    def extra_part(self) -> float:
        """The share of each batch that comes from the extra images."""
        return EXTRA_SHARE if self.extra_share is None else self.extra_share

    @property
    def selects(self) -> bool:
        """True where held-out images choose the best epoch: not by default those that pretrained weights may know."""
        return self.validation is not None or not self.pretrained

    def check(self) -> None:
        super().check()
        held_out = self.validation or (self.validation is None and self.attack is not None and not self.pretrained)
        if self.patience and not held_out:
            raise UsageError("`--patience` needs images to validate on", "add `--validation 1000`")
        self._check_extra()
        if self.attack is None:
            for key in ("recipe", "eps", "norm", "delay", "awp", "awp_delay"):
                if getattr(self, key):
                    flag = key.replace("_", "-")
                    raise UsageError(f"`--{flag}` needs adversarial training", "add `--adversarial pgd:steps=7`")
            return
        if self.awp_delay and not self.awp:
            raise UsageError(f"`--awp-delay {self.awp_delay}` delays nothing", "add `--awp 0.005`")
        if FAMILIES["attacks"].declares(self.attack, "needs_source"):
            name = self.attack.partition(":")[0]
            raise UsageError(f"`{name}` needs another network, which training does not have", "use `pgd:steps=7`")
        if not self.ball[0]:
            raise UsageError("`--eps 0` leaves the images as they are", "leave out `--adversarial`")

    def _check_extra(self) -> None:
        if self.extra is None:
            if self.extra_share is not None:
                raise UsageError("`--extra-share` needs extra images", "add `--extra npz:path=FILE`")
            return
        share = self.extra_part
        if not 0 < share < 1:
            raise UsageError(f"`--extra-share {share:g}` is not a share", "use more than 0 and less than 1")
        if not 0 < round(share * self.batch_size) < self.batch_size:
            raise UsageError(
                f"`--extra-share {share:g}` leaves one kind of image out of batches of {self.batch_size}",
                "use a larger `--batch-size`, or a share nearer to a half",
            )

    def recorded(self) -> dict[str, object]:
        """Return the settings with the defaults that depend on others filled in."""
        record = super().recorded() | {"lr": self.rate}
        if self.extra is not None:
            record["extra_share"] = self.extra_part
        if self.attack is not None:
            norm = self.norm or "linf"
            record |= {"recipe": self.recipe or "madry", "norm": norm, "eps": self.eps or USUAL[norm]}
        return record
