"""The analysis of an embedding from a checkpoint to its files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from paramscope.embeddings.run import EmbeddingOptions, embedding, embedding_all
from paramscope.errors import CheckpointError, RunError, UsageError
from paramscope.table.embedding_files import FLAGS, read_tokens
from paramscope.table.embedding_result import Embedding
from paramscope.views.embedding_view import embedding_view
from planted import blobs, trained_rows, untrained_rows, word_tokens, write_tokenizer

SCRIPT = Path(__file__).parents[1] / "scripts" / "embedding_analysis.py"
NAME = "model.embed_tokens.weight"
FILES = {
    "clusters.csv",
    "clusters.json",
    "curve.csv",
    "run_meta.json",
    "tokens.parquet",
}


def quick(model, out, **options) -> Embedding:
    return embedding(model, out=out, plots=False, **{"k_max": 12, **options})


@pytest.fixture
def model(write_checkpoint) -> Path:
    rows, _ = blobs(6, n=600, d=24)
    folder = write_checkpoint({NAME: rows}, config={"model_type": "llama"})
    write_tokenizer(folder, ["[UNK]", *word_tokens(599)], special=(0,))
    return folder


@pytest.fixture(scope="module")
def real(real_model, tmp_path_factory) -> Embedding:
    out = tmp_path_factory.mktemp("real")
    return embedding(real_model, out=out, k=23, neighbors=["king"])


def test_the_real_model_falls_into_clusters_that_mean_something(real):
    texts = read_tokens(real.folder / "tokens.parquet").text
    labels = np.array(read_tokens(real.folder / "tokens.parquet").cluster)

    def share_together(members) -> float:
        return np.bincount(labels[members]).max() / len(members)

    def ids(condition) -> list[int]:
        return [i for i, text in enumerate(texts) if condition(text)]

    assert share_together(ids(lambda t: t.startswith("[unused"))) > 0.95
    years = ids(lambda t: len(t) == 4 and t.isdecimal() and "1700" <= t < "1900")
    assert share_together(years) > 0.9
    names = [texts.index(name) for name in ("anna", "maria", "john", "robert", "peter", "elena")]
    assert share_together(names) > 0.8
    pieces = ids(lambda t: t.startswith("##") and t[2:].isascii() and t[2:].isalpha())
    inside = np.bincount(labels[pieces], minlength=real.k)
    outside = np.bincount(labels, minlength=real.k) - inside
    assert inside[inside > 2 * outside].sum() > 0.6 * len(pieces)
    for cluster in real.clusters:
        assert len(cluster["representatives"]) == 8


def test_the_real_model_as_a_whole(real):
    matrix = real.facts["matrix"]
    assert real.facts["param_name"] == "embeddings.word_embeddings.weight"
    assert (real.facts["rows"], real.facts["columns"]) == (30522, 384)
    assert real.facts["tied"] is True and real.facts["head"] is None
    assert 0.5 < matrix["isoscore"] < 0.6
    assert matrix["smallest_norms"][0]["text"] == "[MASK]"
    assert [group["seeds"] for group in matrix["untrained"]["groups"]] == [0, 994, 337]
    nearest = [token["text"] for token in real.neighbors[0]["neighbors"]]
    assert nearest[:2] == ["kings", "queen"]
    assert len(list(embedding_view(real))) > 30


def test_the_real_model_has_no_clear_elbow_and_says_so(real_model, tmp_path):
    elbow = quick(real_model, tmp_path, k_max=40).facts["elbow"]
    assert not elbow["clear"] and "No clear elbow" in elbow["note"]


def test_continuations_that_no_text_leads_to_look_untrained_on_the_real_model(real):
    tokens = real.tokens()
    flags = [set(filter(None, names.split(","))) for names in tokens.flags]
    seeds = {i for i, text in enumerate(tokens.text) if text.startswith("[unused")}
    unreachable = {i for i in range(len(flags)) if "unreachable" in flags[i]} - seeds
    found = {i for i in unreachable if "undertrained" in flags[i]}
    print(f"unreachable tokens found as untrained: {len(found)} of {len(unreachable)}")
    assert len(found) / len(unreachable) > 0.9


def test_the_pictures_of_the_real_model_are_there(real):
    for name in ("elbow", "cluster_sizes", "map", "norms"):
        picture = (real.folder / "plots" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_two_runs_with_one_seed_give_the_same_files(model, tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        embedding(model, out=tmp_path / name, k_max=12, workers=workers)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert {str(file) for file in files} == FILES | {
        f"plots/{name}.png" for name in ("cluster_sizes", "elbow", "map", "norms")
    }
    for file in files:
        if file.name != "run_meta.json":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), (
                file
            )


def test_files_hold_what_they_promise(model, tmp_path):
    result = quick(model, tmp_path / "some" / "table.csv")
    folder = tmp_path / "some"
    assert {file.name for file in folder.iterdir()} == (FILES - {"clusters.csv"}) | {"table.csv"}
    rows = list(csv.DictReader((folder / "table.csv").read_text("utf-8").splitlines()))
    assert list(rows[0]) == [
        "cluster", "size", "share", "mean_distance", "silhouette", "representatives",
    ]  # fmt: skip
    assert [int(row["size"]) for row in rows] == [100] * 6
    table = pq.read_table(folder / "tokens.parquet")
    assert table.column_names == [
        "token_id", "text", "cluster", "distance", "norm", "x", "y", "flags",
    ]  # fmt: skip
    assert table["token_id"].to_pylist() == list(range(600))
    assert (table["text"][0].as_py(), table["flags"][0].as_py()) == ("[UNK]", "special")
    for row, cluster in zip(rows, result.clusters, strict=True):
        texts = [token["text"] for token in cluster["representatives"]]
        assert json.loads(row["representatives"]) == texts
        members = [
            i for i, c in enumerate(table["cluster"].to_pylist()) if c == int(row["cluster"])
        ]
        far = sorted(table["distance"][i].as_py() for i in members)
        assert [t["distance"] for t in cluster["representatives"]] == pytest.approx(far[:8])
        assert float(row["mean_distance"]) == pytest.approx(np.mean(far))
    curve = list(csv.DictReader((folder / "curve.csv").read_text("utf-8").splitlines()))
    assert list(curve[0]) == [
        "k", "inertia", "calinski_harabasz", "davies_bouldin", "silhouette", "chosen",
    ]  # fmt: skip
    assert [point["k"] for point in curve if point["chosen"] == "1"] == ["6"]
    assert result.facts["elbow"]["clear"] and result.k == 6
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_complete_result_is_not_computed_again(model, tmp_path):
    quick(model, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    seen = []
    quick(model, tmp_path / "out", progress=seen.append)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert [now.done == now.total for now in seen] == [True]
    quick(model, tmp_path / "out", seed=7)
    assert json.loads((tmp_path / "out" / "clusters.json").read_text())["seed"] == 7
    (tmp_path / "out" / "tokens.parquet").unlink()
    quick(model, tmp_path / "out", seed=7)
    assert (tmp_path / "out" / "tokens.parquet").is_file()


def test_other_weights_of_the_same_shape_are_computed_again(write_checkpoint, tmp_path):
    for seed in (0, 1):
        rows, _ = blobs(6, n=300, seed=seed)
        result = quick(write_checkpoint({NAME: rows}), tmp_path / "out")
        assert result.tokens().norm == pytest.approx(np.linalg.norm(rows, axis=1), rel=1e-5)


def test_pictures_are_drawn_again_from_the_tables(model, tmp_path):
    quick(model, tmp_path / "out")
    assert not (tmp_path / "out" / "plots").exists()
    embedding(model, out=tmp_path / "out", k_max=12)
    assert len(list((tmp_path / "out" / "plots").iterdir())) == 4


def test_run_meta_of_another_analysis_is_left_alone(model, tmp_path):
    (tmp_path / "run_meta.json").write_text('{"coverage": 1}')
    quick(model, tmp_path)
    assert (tmp_path / "run_meta.json").read_text() == '{"coverage": 1}'


def test_neighbors_can_be_asked_for_later(model, tmp_path):
    quick(model, tmp_path)
    result = quick(model, tmp_path, neighbors=["aaaq", "5"])
    assert [token["token_id"] for token in result.neighbors] == [1, 5]
    assert len(result.neighbors[0]["neighbors"]) == 10
    with pytest.raises(UsageError, match=r"no token 'aaqq'.*Nearest"):
        quick(model, tmp_path, neighbors=["aaqq"])


def test_without_a_tokenizer_ids_serve_and_a_sentence_says_so(write_checkpoint, tmp_path):
    rows, _ = blobs(4, n=200)
    result = quick(write_checkpoint({NAME: rows}), tmp_path)
    assert result.tokens().text[3] == "⟨3⟩"
    assert any("No tokenizer" in note for note in result.notes)
    assert all(set(names.split(",")) <= {""} for names in result.tokens().flags)


def test_a_vocabulary_smaller_than_the_matrix_leaves_padding(write_checkpoint, tmp_path):
    rows, _ = blobs(4, n=300)
    folder = write_checkpoint({NAME: rows})
    write_tokenizer(folder, ["[UNK]", *word_tokens(249)])
    result = quick(folder, tmp_path)
    flags = result.tokens().flags
    assert [i for i, names in enumerate(flags) if "padding" in names] == list(range(250, 300))
    assert any("50 rows beyond them are padding" in note for note in result.notes)
    assert result.facts["tokenizer"]["rows_without_token"] == 50


def test_a_vocabulary_larger_than_the_matrix_is_reported(write_checkpoint, tmp_path):
    rows, _ = blobs(4, n=300)
    folder = write_checkpoint({NAME: rows})
    write_tokenizer(folder, ["[UNK]", *word_tokens(349)])
    result = quick(folder, tmp_path)
    assert result.facts["tokenizer"]["tokens_without_row"] == 50
    assert any("the matrix only 300 rows" in note for note in result.notes)
    assert len(result.tokens()) == 300


def test_rows_with_nan_are_left_out_counted_and_listed(write_checkpoint, tmp_path):
    rows, planted = blobs(5, n=500)
    clean = rows.copy()
    rows[[7, 300]] = np.nan
    rows[8, 3] = np.inf
    result = quick(write_checkpoint({NAME: rows}), tmp_path)
    tokens = result.tokens()
    left_out = [7, 8, 300]
    assert np.flatnonzero(tokens.cluster < 0).tolist() == left_out
    assert [i for i, names in enumerate(tokens.flags) if "nan" in names] == left_out
    assert np.isnan(tokens.norm[left_out]).all() and np.isnan(tokens.x[left_out]).all()
    assert result.facts["matrix"]["nan_token_ids"] == left_out
    assert any("3 rows hold NaN or Inf" in note for note in result.notes)
    kept = np.delete(np.arange(500), left_out)
    assert tokens.norm[kept] == pytest.approx(np.linalg.norm(clean[kept], axis=1), rel=1e-5)
    assert len(set(zip(tokens.cluster[kept], planted[kept], strict=True))) == 5


def test_a_matrix_of_nan_is_an_error_that_names_it(write_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=f"{NAME}.*NaN or Inf"):
        quick(write_checkpoint({NAME: np.full((9, 4), np.nan, np.float32)}), tmp_path)
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize("scaling", ["none", "unit", "standard"])
def test_constant_rows_and_columns_do_no_harm(scaling, write_checkpoint, tmp_path):
    rows, _ = blobs(5, n=500)
    rows[:20] = 0.0
    rows[20:30] = 0.5
    rows[:, 3] = 0.25
    rows[:20, 3] = 0.0
    result = quick(write_checkpoint({NAME: rows}), tmp_path, scaling=scaling)
    assert result.facts["matrix"]["constant_rows"] == 20
    assert np.isfinite(result.tokens().distance).all()
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_fewer_rows_than_clusters(n, write_checkpoint, tmp_path):
    rows, _ = blobs(5, n=n, d=6)
    result = embedding(write_checkpoint({NAME: rows}), out=tmp_path, k_max=50)
    assert 1 <= result.k <= n
    assert sum(cluster["size"] for cluster in result.clusters) == n
    assert any("differ" in note for note in result.notes)


def test_more_clusters_asked_for_than_rows_differ(write_checkpoint, tmp_path):
    rows = np.repeat(blobs(4, n=4, d=6)[0], 20, axis=0)
    result = quick(write_checkpoint({NAME: rows}), tmp_path, k=9)
    assert result.k == 4 and any("4 clusters, not 9" in note for note in result.notes)
    assert result.facts["matrix"]["duplicates"] == 76


def test_equal_rows_stay_in_one_cluster(write_checkpoint, tmp_path):
    result = quick(write_checkpoint({NAME: np.ones((40, 8), np.float32)}), tmp_path)
    assert result.k == 1 and result.facts["matrix"]["isoscore"] is None


def test_no_embedding_says_what_was_looked_at(write_checkpoint, tmp_path):
    folder = write_checkpoint(
        {
            "model.layers.0.self_attn.q_proj.weight": np.ones((8, 8), np.float32),
            "encoder.position_embeddings.weight": np.ones((16, 8), np.float32),
        }
    )
    with pytest.raises(UsageError, match=r"found none.*position_embeddings.*--matrix"):
        quick(folder, tmp_path)
    rows, _ = blobs(3, n=90, d=8)
    odd = write_checkpoint({"my.own.table": rows}, folder="odd")
    result = quick(odd, tmp_path, matrix="my.own.table")
    assert result.facts["param_name"] == "my.own.table" and result.k == 3
    with pytest.raises(UsageError, match=r"no matrix .my\.own\.tabel.\. Nearest: my\.own\.table"):
        quick(odd, tmp_path, matrix="my.own.tabel")


def test_of_several_embeddings_the_largest_is_taken_and_named(write_checkpoint, tmp_path):
    small, large = blobs(3, n=90)[0], blobs(3, n=120)[0]
    folder = write_checkpoint(
        {"encoder.embed_tokens.weight": small, "decoder.embed_tokens.weight": large}
    )
    result = quick(folder, tmp_path)
    assert result.facts["rows"] == 120
    assert any("2 token embeddings" in note and "--matrix" in note for note in result.notes)
    other = quick(folder, tmp_path / "b", matrix="encoder.embed_tokens.weight")
    assert other.facts["rows"] == 90


@pytest.mark.parametrize(
    ("head", "config", "tied"),
    [
        (False, {}, True),
        (False, {"tie_word_embeddings": True}, True),
        (False, {"tie_word_embeddings": False}, False),
        (True, {"tie_word_embeddings": False}, False),
        (False, {"text_config": {"tie_word_embeddings": False}}, False),
    ],
)
def test_the_output_head_and_whether_it_is_tied(head, config, tied, write_checkpoint, tmp_path):
    rows, _ = blobs(3, n=60)
    tensors = {NAME: rows} | ({"lm_head.weight": rows + 1} if head else {})
    result = quick(write_checkpoint(tensors, config={"model_type": "llama", **config}), tmp_path)
    assert result.facts["tied"] is tied
    assert result.facts["head"] == ("lm_head.weight" if head else None)


def test_16_bit_rows_are_read_exactly(write_checkpoint, tmp_path):
    rows, _ = blobs(3, n=90)
    half = rows.astype(np.float16)
    result = quick(write_checkpoint({NAME: half}), tmp_path)
    assert result.tokens().norm == pytest.approx(np.linalg.norm(half.astype(float), axis=1))


def test_packed_codes_are_refused(tmp_path):
    from handmade import header_of

    header = {NAME: {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]}}
    (tmp_path / "model.safetensors").write_bytes(header_of(header) + bytes(16))
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        quick(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scaling": "unt"}, "--scaling"),
        ({"map": "tsne"}, "--map"),
        ({"k_max": 1}, "--k-max"),
        ({"k": 0}, "--k"),
        ({"seed": -1}, "--seed"),
        ({"workers": 0}, "--workers"),
        ({"neighbors": "king"}, "list"),
        ({"out": Path("a.json")}, ".csv"),
    ],
)
def test_wrong_options_are_refused_at_once(option, message):
    with pytest.raises(UsageError, match=message):
        EmbeddingOptions(**option)


def test_planted_untrained_tokens_come_back(write_checkpoint, tmp_path):
    n, d, vocabulary = 6000, 64, 5900
    rows = trained_rows(n, d)
    planted = np.sort(np.random.default_rng(3).choice(vocabulary, 200, replace=False))
    rows[vocabulary:] = untrained_rows(n - vocabulary, d, seed=8)  # padding: the seeds
    rows[planted] = untrained_rows(200, d, seed=9)
    folder = write_checkpoint({NAME: rows})
    write_tokenizer(folder, ["[UNK]", *word_tokens(vocabulary - 1)], special=(0,))
    tokens = quick(folder, tmp_path).tokens()
    flags = [set(names.split(",")) for names in tokens.flags]
    found = {i for i in range(vocabulary) if "undertrained" in flags[i]}
    hits = len(found & set(planted.tolist()))
    print(f"untrained: precision {hits / len(found):.3f}, recall {hits / 200:.3f}")
    assert hits / len(found) > 0.95 and hits / 200 > 0.95


def test_planted_duplicates_are_flagged_with_their_originals(write_checkpoint, tmp_path):
    rows = trained_rows(2000, 32)
    rows[1500:1600] = rows[100:200]
    result = quick(write_checkpoint({NAME: rows}), tmp_path)
    flagged = {i for i, names in enumerate(result.tokens().flags) if "duplicate" in names}
    assert flagged == set(range(100, 200)) | set(range(1500, 1600))
    assert result.facts["matrix"]["duplicates"] == 100
    assert result.facts["matrix"]["duplicate_groups"][0]["size"] == 2


def test_hostile_tokens_are_harmless_everywhere(write_checkpoint, tmp_path):
    rows, _ = blobs(3, n=30, d=8)
    tokens = [
        "=cmd|'/c calc'!A0",
        "+1",
        "@SUM(A1)",
        "$x^2$",
        "\x1b[31m",
        '"',
        ",",
        "\n",
        "<script>",
    ]
    tokens += ["{{7*7}}", "%n", "\u202eabc", "a" * 500, "中文", "𝔘", "😀"]
    folder = write_checkpoint({NAME: rows})
    (folder / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(tokens + word_tokens(30 - len(tokens)))})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = embedding(folder, out=tmp_path, k=3)
    text = (tmp_path / "clusters.csv").read_text("utf-8")
    for row in csv.reader(text.splitlines()):
        assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in row)
    assert all(line.isprintable() for line in embedding_view(result))
    assert set(",".join(result.tokens().flags).split(",")) <= {"", *FLAGS}


def test_a_missing_result_says_what_to_run(tmp_path):
    with pytest.raises(RunError, match="paramscope embedding MODEL"):
        Embedding.load(tmp_path)


def test_several_models_each_get_a_folder(write_checkpoint, tmp_path):
    for name in ("models/a", "models/b"):
        write_checkpoint({NAME: blobs(3, n=60)[0]}, folder=name)
    results = list(
        embedding_all(tmp_path / "models", out=tmp_path / "out.csv", plots=False, k_max=5)
    )
    assert [result.table for result in results] == [
        tmp_path / "out" / name / "clusters.csv" for name in ("a", "b")
    ]


def test_the_script_writes_the_table(model, tmp_path):
    command = [sys.executable, str(SCRIPT), "--model_path", str(model), "--verbose"]
    command += ["--out", str(tmp_path / "table.csv"), "--random_state", "3"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert "nearest to the centre" in found.stdout
    assert found.stdout.splitlines()[-1] == str(tmp_path / "table.csv")
    assert json.loads((tmp_path / "clusters.json").read_text("utf-8"))["seed"] == 3
    wrong = subprocess.run([*command[:2], "--model_path", "/nowhere", "--out", str(tmp_path)],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert wrong.returncode == 2 and wrong.stderr.startswith("Error: ")
