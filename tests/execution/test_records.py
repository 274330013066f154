"""Records are believed when they are what was written, and not otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stpipe.execution.records import RecordBook

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.sampled_from(["digest", "counts", "sample", "files"]), JSONS, max_size=4))
def test_what_was_written_is_read_by_the_same_run_and_by_no_other(
    content: dict[str, Any], tmp_path_factory: Any
) -> None:
    folder = str(tmp_path_factory.mktemp("records"))
    book = RecordBook(folder, "key")
    book.write("0000001", content)
    assert repr(book.read("0000001")) == repr({"key": "key", **content})
    assert RecordBook(folder, "another").read("0000001") is None
    assert book.read("0000002") is None


@given(data=st.data())
def test_no_bit_that_flips_changes_what_is_believed(data: st.DataObject, tmp_path_factory: Any) -> None:
    book = RecordBook(str(tmp_path_factory.mktemp("records")), "key")
    content = {"digest": "0123abcd", "counts": {"filled": 1203, "share": 0.25}, "files": [{"path": "a.tif"}]}
    book.write("0000001", content)
    path = Path(book.folder) / "0000001.json"
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    assert book.read("0000001") in (None, {"key": "key", **content})
