"""Records of finished runs are read from the disk when they are asked for, and put in order with new ones."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from stochx.engine.io.lines import Record
from stochx.engine.io.store import RunFolder
from stochx.runs._results import earlier_records, merge_records

METHODS = ["ig", "lrp"]


def line(index, image="abcdefgh", method="ig", **more):
    return {"index": index, "image": f"{image[index]}.png", "method": method, **more}


def folder_of(path, *ranks):
    for rank, records in enumerate(ranks):
        RunFolder(path, {"seed": 0}, rank=rank).append(records)
    return RunFolder(path, {"seed": 0}, resume=True, kind=Record)


def names(images):
    return [f"{image}.png" for image in images]


def test_old_and_new_records_come_in_order_and_old_lines_are_copied(tmp_path):
    ranks = [line(2, n=1), line(0, n=2)], [line(3, n=3), line(1, n=4)]
    folder = folder_of(tmp_path, *ranks)
    text = b"".join((tmp_path / name).read_bytes() for name in ("records.jsonl", "records-1.jsonl"))
    wide = text.replace(b'"n": 2', b'"n":  2')
    (tmp_path / "records.jsonl").write_bytes(wide[: wide.index(b'{"index": 3')])
    folder = RunFolder(tmp_path, {"seed": 0}, resume=True)
    before = earlier_records(folder, names("abcdef"))
    records = merge_records(before, [line(4, n=5), line(1, n=6)])
    assert [record["n"] for record in records] == [2, 6, 1, 3, 5]
    assert before.images == {0, 1, 2, 3}
    assert (len(records), records[-1]["n"], [r["n"] for r in records[1:3]]) == (5, 5, [6, 1])
    folder.finish(records, {})
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert lines[0] == json.dumps(line(0, n=2)).replace('"n": 2', '"n":  2'), "an old line is copied as it is"
    assert [json.loads(each)["n"] for each in lines] == [2, 6, 1, 3, 5]
    assert [record["n"] for record in records] == [2, 6, 1, 3, 5], "they can be read when older files are gone"


def test_images_have_their_places_among_those_of_today(tmp_path):
    folder = folder_of(tmp_path, [line(index, n=index) for index in range(4)])
    records = earlier_records(folder, names("dxb"))
    assert [(record["index"], record["image"], record["n"]) for record in records] == [(0, "d.png", 3), (2, "b.png", 1)]
    folder.finish(records, {})
    assert [json.loads(each)["index"] for each in (tmp_path / "records.jsonl").read_text().splitlines()] == [0, 2]


def test_an_image_that_is_named_twice_keeps_both_records(tmp_path):
    folder = folder_of(tmp_path, [line(index, "aba", n=index) for index in range(3)])
    assert [record["n"] for record in earlier_records(folder, names("aba"))] == [0, 1, 2]


def test_an_image_counts_with_a_record_of_every_method(tmp_path):
    lines = [line(0), line(0, method="lrp"), line(1), line(2, method="lrp"), line(2), line(3, method="old")]
    before = earlier_records(folder_of(tmp_path, lines), names("abcd"), METHODS)
    assert [(r["index"], r["method"]) for r in before.complete(2)] == [(0, "ig"), (0, "lrp"), (2, "ig"), (2, "lrp")]
    merged = merge_records(before.complete(2), [line(1, method="lrp"), line(1)], METHODS)
    assert [(r["index"], r["method"]) for r in merged] == [(i, m) for i in range(3) for m in METHODS]


def test_of_a_record_that_was_written_twice_the_later_one_counts(tmp_path):
    """A run that was cut off between two lines of an image does both of them again."""
    lines = [line(0, n=1), line(0, n=2), line(0, method="lrp", n=3)]
    before = earlier_records(folder_of(tmp_path, lines), names("a"), METHODS).complete(2)
    assert [record["n"] for record in before] == [2, 3]


def test_records_that_do_not_count_are_left_out(tmp_path):
    folder = folder_of(tmp_path, [line(index, label=index % 2) for index in range(4)])
    assert earlier_records(folder, names("abcd"), counts=lambda record: record["label"] == 1).images == {1, 3}


def test_a_name_that_is_not_utf8_is_read_back(tmp_path):
    folder = folder_of(tmp_path, [{"index": 0, "image": "\udcff.png"}])
    records = earlier_records(folder, ["\udcff.png"])
    folder.finish(records, {})
    assert [record["image"] for record in records] == ["\udcff.png"]


def test_a_record_that_changes_while_it_is_used_is_named(tmp_path):
    folder = folder_of(tmp_path, [line(0), line(1)])
    records = earlier_records(folder, names("ab"))
    (tmp_path / "records.jsonl").write_text('{"index": 0, "im\n')
    with pytest.raises(Exception, match="not valid JSON in a line that has changed"):
        list(records)


def test_finished_records_take_the_memory_of_their_places(tmp_path):
    count = 5000
    folder = folder_of(tmp_path, [{"index": n, "image": str(n), "text": "x" * 500} for n in range(count)])
    images = [str(n) for n in range(count)]
    tracemalloc.start()
    records = merge_records(earlier_records(folder, images), [{"index": 0, "image": "0"}])
    assert len(records) == count
    folder.finish(records, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * count, "bytes: the text alone is 500 a record"
