"""Publish an output that is there, or write the card of what `push_to_hub` has pushed."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import CommitOperationAdd

from pico_banana.errors import OutputError, UsageError, WorkError
from pico_banana.schema import CONFIGS, columns

from ..options import PublishOptions
from ..output.card import CARD_NAME, card_of_pushed
from ..output.finished import ConfigReport, read_reports
from ..output.ledger import Ledger
from ..output.store import Store
from ..screen import Shown
from .publication import Publication, check_file
from .repository import Repository, repository_id

__all__ = ["publish", "publish_card"]


def publish(options: PublishOptions, store: Store, shown: Shown) -> Publication:
    """Publish a finished output; what the repository holds already is left as it is.

    Returns:
        What the repository holds then.

    Raises:
        UsageError: before anything is uploaded: an output that is not finished or not whole, or
            what `Publication` refuses.
        WorkError: the Hub failed after that; the same command continues.
    """
    publication = Publication(options, store, shown.say)
    if not any(Ledger(store, config).has_plan() for config in CONFIGS):
        raise OutputError(
            f"{store.root} is no output of `pico-banana convert`: no plan in _ledger/", store.root
        )
    reports, unfinished = read_reports(store, publication.published)
    if unfinished:
        raise OutputError(
            f"{store.root} is not complete: {unfinished[0]} is not finished, or its ledger is "
            f"absent ({len(unfinished):,} in all); run the same `pico-banana convert` again",
            store.root,
        )
    for report in reports:
        publication.agree(report.config, report.plan)
    publication.bring_ledgers()
    _check_files(reports, publication, store, shown)
    publication.repository.create()
    with publication:
        for report in reports:
            publication.settle(report.config, report.ledgers)
        publication.finish()
    return publication


def _check_files(
    reports: Sequence[ConfigReport], publication: Publication, store: Store, shown: Shown
) -> None:
    """Look at every file that will be uploaded, before the first one is."""
    left = [
        (report, ledger)
        for report in reports
        for ledger in report.ledgers
        if not Ledger(store, report.config, publication.published).is_published(ledger)
    ]
    done, total = 0, sum(ledger.size_bytes for _, ledger in left)
    with shown.bytes_bar("checking files") as progress:
        for report, ledger in left:
            try:
                check_file(store, report.config, ledger, report.plan)
            except WorkError as error:
                raise OutputError(str(error), store.root) from None
            done += ledger.size_bytes
            progress(done, total)


def publish_card(options: PublishOptions, shown: Shown) -> Repository:
    """Write the card of a private repository without ledgers, as `push_to_hub` makes them.

    What its own card tells of configs and files is kept.

    Raises:
        UsageError: it is not there, has ledgers, is public, or its columns are not ours.
    """
    repository = Repository(repository_id(options.repo), shown.say)
    if not repository.is_there:
        raise UsageError(
            f"{repository.id} is not there, or the token may not see it; push to it first, with "
            "private=True"
        )
    if any(path.startswith("_ledger/") for path in repository.files):
        raise UsageError(
            f"{repository.id} has ledgers, and its card is made from them: run the `pico-banana "
            "publish OUT REPO`, or the convert, that published it"
        )
    if options.public or not repository.is_private:
        raise UsageError(
            f"{repository.id} must be private: it has no ledgers, so nobody can tell that its "
            "images are the published ones. Make it private in its settings; public is allowed to "
            "an output that `pico-banana publish OUT REPO --public --accept-license` publishes"
        )
    old = repository.read(CARD_NAME).decode() if CARD_NAME in repository.files else ""
    _check_columns(old, repository.id)
    repository.create()
    card = card_of_pushed(old, repository.id)
    if not repository.files[CARD_NAME].is_of(card):
        title = "Write the card: licences, attribution, columns"
        repository.commit(title, [CommitOperationAdd(CARD_NAME, card)], {CARD_NAME: card})
    return repository


def _check_columns(old: str, repo_id: str) -> None:
    from huggingface_hub import DatasetCard  # noqa: PLC0415  (slow to import)

    infos = DatasetCard(old).data.get("dataset_info") or []
    infos = [infos] if isinstance(infos, dict) else infos
    for info in infos:
        config = info.get("config_name", "default")
        found = {feature["name"] for feature in info.get("features", ())}
        ours = {column.name for column in columns(config)} if config in CONFIGS else set()
        if config not in CONFIGS or found != ours:
            raise UsageError(
                f"{repo_id}: the columns of its config {config!r} are not those of this loader, so "
                "its card cannot be ours; push configs sft, preference and multi_turn, as loaded"
            )
    if not infos:
        raise UsageError(
            f"{repo_id}: its card tells of no config (dataset_info), so it was not made by "
            "push_to_hub; push to it first, with private=True"
        )
