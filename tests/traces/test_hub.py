"""push and pull through a stub that has huggingface_hub's own signatures and copies files as its patterns say."""

import inspect
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from trace_clips import assert_same_clip, make_clip, write_dataset

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.traces import hub
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Media
from traceworld.traces.writer import DatasetWriter

hf = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


class FakeHub:
    """Repositories as folders. Calls are bound to the real methods' signatures; patterns go through the real filter."""

    def __init__(self, root: Path):
        self.root, self.calls, self.fail = root, [], None

    def HfApi(self, library_name=None):
        inspect.signature(hf.HfApi.__init__).bind(None, library_name=library_name)
        return SimpleNamespace(**{
            name: self.bound(name) for name in ("create_repo", "upload_folder", "snapshot_download")
        })  # fmt: skip

    def bound(self, name):
        def call(*args, **kwargs):
            given = inspect.signature(getattr(hf.HfApi, name)).bind(None, *args, **kwargs).arguments
            self.calls.append((name, given))
            if self.fail is not None:
                raise self.fail
            return getattr(self, name)(given)

        return call

    def copied(self, source, target, given):
        names = [p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()]
        kept = hf.utils.filter_repo_objects(
            names, allow_patterns=given["allow_patterns"], ignore_patterns=given["ignore_patterns"]
        )
        for name in kept:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)

    def create_repo(self, given):
        folder = self.root / given["repo_id"]
        assert given["exist_ok"]
        folder.mkdir(parents=True, exist_ok=True)

    def upload_folder(self, given):
        self.copied(Path(given["folder_path"]), self.root / given["repo_id"], given)
        return SimpleNamespace(commit_url=f"https://hub/{given['repo_id']}/commit/1")

    def snapshot_download(self, given):
        self.copied(self.root / given["repo_id"], Path(given["local_dir"]), given)
        return str(given["local_dir"])


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    modules = {"huggingface_hub": SimpleNamespace(HfApi=fake.HfApi), "huggingface_hub.errors": errors}
    monkeypatch.setattr(hub, "require", modules.__getitem__)
    return fake


def test_a_dataset_there_and_back(fake, tmp_path):
    folder = write_dataset(tmp_path / "d", clips=2, pictures=range(3), T=4)
    open_dataset(folder).cache()
    (folder / "clips" / ".x.partial").write_bytes(b"half")
    assert hub.push_dataset(folder, "me/clips") == "https://hub/me/clips/commit/1"
    assert [name for name, _ in fake.calls] == ["create_repo", "upload_folder"]
    assert fake.calls[0][1]["private"] is True
    assert {given["repo_type"] for _, given in fake.calls} == {"dataset"}
    sent = {
        p.relative_to(fake.root / "me/clips").as_posix() for p in (fake.root / "me/clips").rglob("*") if p.is_file()
    }
    assert {"dataset.json", "manifest.parquet"} <= sent
    assert not any("cache" in name or ".partial" in name for name in sent)
    back = hub.pull_dataset("me/clips", tmp_path / "back", revision="v1")
    assert fake.calls[-1][1]["revision"] == "v1"
    for a, b in zip(back, open_dataset(folder), strict=True):
        assert_same_clip(a, b)
    hub.pull_dataset("me/clips", tmp_path / "back")  # going on with one's own folder is no mistake


def test_what_is_not_sent(fake, tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1, pictures=(), finalise=False)
    with pytest.raises(DatasetError, match="not finished"):
        hub.push_dataset(folder, "me/clips")
    writer = DatasetWriter(folder)
    writer.write_item("far", [replace(make_clip("far", T=4), media=Media("video", "/videos/a.mp4"))])
    writer.finalise()
    with pytest.raises(InvalidInputError, match=r"/videos/a\.mp4"):
        hub.push_dataset(folder, "me/clips")
    assert fake.calls == []
    hub.push_dataset(folder, "me/clips", missing_media=True, private=False)
    assert fake.calls[0][1]["private"] is False


def test_what_is_not_pulled(fake, tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1, pictures=range(2), T=4)
    hub.push_dataset(folder, "me/clips")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DatasetError, match=r"thesis\.tex"):
        hub.pull_dataset("me/clips", tmp_path / "mine")
    shard = next((fake.root / "me/clips/clips").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DatasetError, match="did not come whole"):
        hub.pull_dataset("me/clips", tmp_path / "cut")
    (fake.root / "me/empty").mkdir()
    with pytest.raises(DatasetError, match="not a dataset"):
        hub.pull_dataset("me/empty", tmp_path / "empty")


def test_a_refusal_says_what_to_do(fake, tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1, pictures=range(2), T=4)
    fake.fail = OSError("no route to host\nmore")
    with pytest.raises(DatasetError, match=r"me/clips: no route to host .*hf auth login"):
        hub.push_dataset(folder, "me/clips")
    with pytest.raises(DatasetError, match="no route"):
        hub.pull_dataset("me/clips", tmp_path / "b")
    fake.fail = errors.HFValidationError("bad name")
    with pytest.raises(DatasetError, match="bad name"):
        hub.pull_dataset("me//clips", tmp_path / "b")
