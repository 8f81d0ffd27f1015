"""A dataset folder on the Hugging Face hub: sent or fetched only when asked for, private unless said otherwise."""

from __future__ import annotations

from pathlib import Path

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.extras import require
from traceworld.traces.manifest import CLIPS, DATASET_FILE, MANIFEST_FILE, MEDIA, STATUS
from traceworld.traces.store import Dataset, open_dataset

FILES = [DATASET_FILE, MANIFEST_FILE, f"{CLIPS}/*.parquet", f"{STATUS}/*.json", f"{MEDIA}/*"]
"""What goes: patterns as the hub reads them (`*` crosses folders). The cache, temporary and hidden files stay."""
HIDDEN = [".*", "*/.*"]


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    message: str = "Upload clips",
    missing_media: bool = False,
) -> str:
    """Send a finished dataset folder to a dataset repository, in one commit; what is there already is not sent again.

    Access is huggingface_hub's: `hf auth login`, or HF_TOKEN in the environment.

    Args:
        folder: a dataset that `finalise` has been called on.
        repo_id: `<user or organisation>/<name>`; made if it is not there.
        private: of a repository that is made now.
        revision: branch; None: main.
        message: of the commit.
        missing_media: send clips even if their pictures lie outside the folder, where nobody else has them.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        DatasetError: it is no dataset, or not finished; or the hub refused or was not reached.
        InvalidInputError: pictures lie outside the folder and `missing_media` is False.

    Returns:
        The address of the commit.
    """
    hub = require("huggingface_hub")
    dataset = open_dataset(folder)
    if not dataset.counts or not (dataset.path / MANIFEST_FILE).is_file():
        raise DatasetError("is not finished", where=str(folder), mend="run DatasetWriter(folder).finalise()")
    if not missing_media:
        _check_media(dataset)
    api = hub.HfApi(library_name="traceworld")
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=dataset.path,
            repo_type="dataset",
            revision=revision,
            commit_message=message,
            allow_patterns=FILES,
            ignore_patterns=HIDDEN,
        )
    except _hub_errors() as error:
        raise _refused(repo_id, error) from error
    return str(commit.commit_url)


def _check_media(dataset: Dataset) -> None:
    for clip in dataset:
        if clip.media.kind != "none" and Path(clip.media.path).is_absolute():
            raise InvalidInputError(
                f"refers to pictures outside the folder: {clip.media.path}",
                where=f"clip {clip.clip_id}",
                mend="extract with copies of the pictures, or send the traces without them (--missing-media)",
            )


def pull_dataset(repo_id: str, out: str | Path, *, revision: str | None = None) -> Dataset:
    """Fetch a dataset folder from the hub and open it; repeat the call to go on after a kill.

    Args:
        repo_id: `<user or organisation>/<name>`.
        out: a new folder, or one that an earlier call began.
        revision: branch, tag or commit; None: the newest.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        DatasetError: the folder holds something else, what came is no whole dataset, or the hub refused or was not reached.
        FormatVersionError: it was written by a newer traceworld.
    """
    hub, out = require("huggingface_hub"), Path(out)
    ours = {DATASET_FILE, MANIFEST_FILE, CLIPS, STATUS, MEDIA}
    foreign = {entry.name for entry in out.iterdir() if entry.name[0] != "."} - ours if out.is_dir() else set()
    if foreign:
        raise DatasetError(f"holds something else ({sorted(foreign)[0]})", where=str(out), mend="choose a new folder")
    try:
        hub.HfApi(library_name="traceworld").snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            local_dir=out,
            allow_patterns=FILES,
            ignore_patterns=HIDDEN,
        )
    except _hub_errors() as error:
        raise _refused(repo_id, error) from error
    dataset = open_dataset(out)
    for item in dataset.manifest:
        shard = out / CLIPS / item["shard"]
        if item["shard"] and (not shard.is_file() or shard.stat().st_size != item["shard_bytes"]):
            raise DatasetError("did not come whole", where=str(shard), mend="run the same command again")
    return dataset


def _hub_errors() -> tuple[type[BaseException], ...]:
    errors = require("huggingface_hub.errors")
    return (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, OSError)


def _refused(repo_id: str, error: BaseException) -> DatasetError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DatasetError(said, where=f"dataset {repo_id}", mend="check the name, the network, and `hf auth login`")
