"""Reckon a plan's bytes by the sizes of some of its images, and keep these for other runs.

They lie in the output, in `_ledger/<config>/sizes.json`: that is what all slices share, wherever
they run, and what a run that is continued finds again. Nothing that is written depends on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from pico_banana.input_sources import SOURCES
from pico_banana.open_images.index import Index
from pico_banana.reading.estimate import KINDS, Mean, SampleMeans
from pico_banana.urls import mirrored

from ..options import ConvertSettings
from ..output.store import Store, dump_json
from .plan import Plan

__all__ = ["keep", "reckon", "reckon_by_sample"]


def reckon(plan: Plan, settings: ConvertSettings, means: SampleMeans) -> None:
    """Set what a plan's Parquet files are estimated to take."""
    plan.means = means
    texts = plan.records * settings.text_bytes(plan.config)
    images = plan.images if settings.images == "bytes" else {}
    spec = settings.for_config(plan.config)
    plan.estimated_bytes = int(texts + means.size_bytes(images, spec))
    plan.reckoned = means.told(plan.images)


def reckon_by_sample(
    plans: Sequence[Plan], settings: ConvertSettings, index: Index | None, store: Store | None
) -> None:
    """Estimate plans by the sizes of some of their images; those that an output keeps, or asked.

    Nothing is asked where no image is fetched, nor with `no_probe`.
    """
    if settings.no_probe or settings.images != "bytes":
        return
    left = []
    for plan in plans:
        means = None if store is None else _kept(plan, settings, store)
        if means is not None:
            reckon(plan, settings, means)
        elif plan.records:
            left.append(plan)
    asked = SampleMeans.ask([plan.sample(index) for plan in left], settings)
    for plan, means in zip(left, asked, strict=True):
        reckon(plan, settings, means)


def keep(plan: Plan, settings: ConvertSettings, store: Store) -> None:
    """Write what was told of sizes into the output; `WriteError` where that cannot be done."""
    if plan.means.by_kind and _kept(plan, settings, store) is None:
        value = {"of": _digest(plan, settings), "means": dict(plan.means.by_kind)}
        store.write(_name(plan), dump_json(value))


def _name(plan: Plan) -> str:
    return f"_ledger/{plan.config}/sizes.json"


def _kept(plan: Plan, settings: ConvertSettings, store: Store) -> SampleMeans | None:
    """What an output keeps of a plan's sizes; None where it has none, or those of another."""
    value = store.read_json(_name(plan))
    try:
        if value["of"] != _digest(plan, settings):
            return None
        means = {kind: Mean(int(n), float(size)) for kind, (n, size) in value["means"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    return SampleMeans(means) if means.keys() <= {*KINDS} else None


def _digest(plan: Plan, settings: ConvertSettings) -> str:
    """What sizes are of: the same plan, from the same hosts; folders differ between machines."""
    asked = [SOURCES[name].asked(settings.mirrors) for name in settings.sources]
    of: Any = [plan.sha256, plan.settings, mirrored(settings.cdn, settings.mirrors), asked]
    return hashlib.sha256(orjson.dumps(of, option=orjson.OPT_SORT_KEYS)).hexdigest()
