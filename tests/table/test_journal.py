from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from paramscope.errors import RunError
from paramscope.table.journal import JOURNAL, Entry, Journal

IDENTITY = {"checkpoint": "abc", "svd": True}


def entry(position: int, s=None) -> Entry:
    return Entry(position, {"status": "ok", "param_name": f"w{position}"}, s, 0.5)


def test_what_was_stored_is_there_when_opened_again(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.add([entry(2), entry(0, np.array([3.0, 1.0]))])
    with Journal(tmp_path, IDENTITY) as journal:
        assert journal.done() == {0, 2}
        first, second = journal.entries(spectra=True)
        assert first.s.tolist() == [3.0, 1.0]
        assert second.s is None
        assert first.row["param_name"] == "w0"
        assert all(item.s is None for item in journal.entries(spectra=False))
        assert journal.time_s() == 1.0


def test_another_checkpoint_or_other_settings_are_refused(tmp_path):
    Journal(tmp_path, IDENTITY).__exit__(None, None, None)
    with pytest.raises(RunError, match=r"differs in svd.*--fresh"):
        Journal(tmp_path, {**IDENTITY, "svd": False})
    with Journal(tmp_path, {**IDENTITY, "svd": False}, fresh=True) as journal:
        assert journal.done() == set()


def test_a_second_writer_is_told_so(tmp_path):
    with (
        Journal(tmp_path, IDENTITY),
        pytest.raises(RunError, match="another process is writing"),
    ):
        Journal(tmp_path, IDENTITY)


def test_a_damaged_journal_is_an_error_that_names_the_way_out(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b"this is no database" * 100)
    with pytest.raises(RunError, match=r"damaged.*--fresh"):
        Journal(tmp_path, IDENTITY)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Journal(tmp_path / "file" / "run", IDENTITY)


def test_a_full_disk_keeps_what_was_stored(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.add([entry(0)])
        pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"disk is full. Finished rows are kept"):
            journal.add([entry(1, np.ones(100_000))])
    with Journal(tmp_path, IDENTITY) as journal:
        assert journal.done() == {0}


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        connection = journal._connection
        connection.execute("CREATE TRIGGER t BEFORE INSERT ON rows WHEN NEW.position = 7 "
                           "BEGIN SELECT RAISE(ABORT, 'no sevens'); END")  # fmt: skip
        with pytest.raises(RunError):
            journal.add([entry(6), entry(7)])
    with sqlite3.connect(tmp_path / JOURNAL) as connection:
        assert connection.execute("SELECT COUNT(*) FROM rows").fetchone() == (0,)
    connection.close()
