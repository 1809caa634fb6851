"""Every column of the table: its name, type, unit, meaning and source. One row here per column."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from paramscope.anatomy import Matrix
from paramscope.engine import Result
from paramscope.measure import rank
from paramscope.measure.spectrum import Float64, Spectrum

Value = str | int | float | None
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all rows of a run, and when the row was made."""

    model_path: str
    model_id: str
    revision: str
    tolerance: float
    created_at: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        dtype: "string", "int64" or "float64".
        unit: of the number; empty where there is none.
        meaning: in one sentence, for the reference page.
        source: paper or definition; empty where the meaning says it all.
        value: from a result to the cell; None is an empty cell.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    value: Callable[[Result, Context], Value]
    source: str = ""


def _about(value: Callable[[Matrix], Value]) -> Callable[[Result, Context], Value]:
    return lambda result, context: value(result.matrix)


def _stat(name: str) -> Callable[[Result, Context], Value]:
    return lambda result, context: getattr(result.stats, name) if result.stats else None


def _arranged(name: str) -> Callable[[Result, Context], Value]:
    return lambda result, context: getattr(result.arrangement, name) if result.arrangement else None


def _spectral(measure: Callable[[Spectrum], Value]) -> Callable[[Result, Context], Value]:
    return lambda result, context: measure(result.spectrum) if result.spectrum else None


def _whole(measure: Callable[[Float64], Value]) -> Callable[[Result, Context], Value]:
    """For what needs every singular value: empty where only the leading ones are known."""
    return _spectral(lambda spectrum: measure(spectrum.s) if spectrum.complete else None)


def _total(spectrum: Spectrum) -> float | None:
    """Σσ² where it is more than the sum over the values at hand."""
    return None if spectrum.complete else spectrum.sum_of_squares


def _energy_rank(share: float) -> Callable[[Result, Context], int | None]:
    def value(result: Result, context: Context) -> int | None:
        spectrum = result.spectrum
        if spectrum is None:
            return None
        return rank.energy_rank(spectrum.s, share, sum_of_squares=_total(spectrum))

    return value


def _energy_ratio(share: float) -> Callable[[Result, Context], float | None]:
    count = _energy_rank(share)

    def value(result: Result, context: Context) -> float | None:
        reached = count(result, context)
        return None if reached is None else reached / _design_rank(result.matrix)

    return value


def _design_rank(matrix: Matrix) -> int:
    return min(matrix.rows, matrix.columns)


def _actual_rank(result: Result, context: Context) -> int | None:
    if result.spectrum is None:
        return None
    return rank.actual_rank(result.spectrum.s, tolerance=context.tolerance)


def _rank_ratio(result: Result, context: Context) -> float | None:
    actual = _actual_rank(result, context)
    return None if actual is None else actual / _design_rank(result.matrix)


def _condition_number(result: Result, context: Context) -> float | None:
    if result.spectrum is None or not result.spectrum.complete:
        return None
    return rank.condition_number(result.spectrum.s, error_bound=result.spectrum.error_bound)


def _bits_per_weight(matrix: Matrix) -> float | None:
    return 8 * matrix.tensor.nbytes / matrix.tensor.numel if matrix.tensor.numel else None


def _stored_names(matrix: Matrix) -> str:
    return " ".join(part.name for part in matrix.tensor.stored)


def shape_text(shape: tuple[int, ...]) -> str:
    """`(768, 3, 16, 16)`; a vector is `(768,)`, a scalar `()`."""
    return str(tuple(shape))


def _share_of_variance(percent: int, first: bool = False) -> tuple[Column, Column]:
    share = percent / 100
    least = f"the least j with Σ_{{i≤j}} σᵢ² ≥ {share}·Σ σᵢ²"
    return (
        Column(
            f"svd_{percent}_percent_rank",
            "int64",
            "",
            f"how many singular values carry {percent} % of the variance: {least}",
            _energy_rank(share),
        ),
        Column(
            f"svd_{percent}_percent_ratio",
            "float64",
            "",
            f"svd_{percent}_percent_rank / design_rank, in [0, 1]; small means compressible",
            _energy_ratio(share),
        ),
    )


COLUMNS: tuple[Column, ...] = (
    Column("model_path", "string", "", "where the files are: a path, or a Hub id", lambda r, c: c.model_path),
    Column("model_id", "string", "", "the model's name, `org/name` where it is known", lambda r, c: c.model_id),
    Column("revision", "string", "", "commit of the files; empty where it is not known", lambda r, c: c.revision),
    Column("param_name", "string", "", "name of the tensor; of a packed weight, the name it has in the model", _about(lambda m: m.tensor.name)),
    Column("layer_index", "int64", "", "layer within its tower, from 0; empty outside the layers", _about(lambda m: m.layer)),
    Column("block_type", "string", "", "what the parameter is, in coarse words", _about(lambda m: m.block_type)),
    Column("shape", "string", "", "shape of the matrix; the stored shape where it is not split", _about(lambda m: shape_text(m.shape))),
    Column("rows", "int64", "", "rows of the 2-D view: output features; a vector is one row", _about(lambda m: m.rows)),
    Column("cols", "int64", "", "columns of the 2-D view: input features, (shape[0], -1) beyond two dimensions", _about(lambda m: m.columns)),
    Column("design_rank", "int64", "", "min(rows, cols): the largest rank possible", _about(_design_rank)),
    Column("actual_rank", "int64", "", "numerical rank: the number of σᵢ > tolerance·σ₁, by default 1e-6", _actual_rank),
    Column("rank_ratio", "float64", "", "actual_rank / design_rank, in [0, 1]", _rank_ratio),
    *_share_of_variance(90),
    Column("mean", "float64", "", "mean of the finite elements", _stat("mean")),
    Column("std", "float64", "", "standard deviation (population: divided by n)", _stat("std")),
    Column("var", "float64", "", "variance (population), std²", _stat("var")),
    Column("sparsity", "float64", "", "share of elements with |x| ≤ 1e-8 (an option), in [0, 1]", _stat("sparsity")),
    Column("dtype", "string", "", "stored dtype; of packed weights, that of the codes", _about(lambda m: m.tensor.stored_dtype)),
    Column("created_at", "string", "", "when the row was measured, UTC, ISO 8601", lambda r, c: c.created_at),
    Column("part", "string", "", "which piece of the stored tensor: `q`, `gate`, `expert.3.down`, …; empty for all of it", _about(lambda m: m.part)),
    Column("role", "string", "", "what the parameter does; see the table of roles", _about(lambda m: m.role)),
    Column("tower", "string", "", "encoder, decoder, vision, … where a model has several stacks", _about(lambda m: m.tower)),
    Column("expert_index", "int64", "", "index of the expert; empty where there is none", _about(lambda m: m.expert)),
    Column("min", "float64", "", "smallest finite element", _stat("min")),
    Column("max", "float64", "", "largest finite element", _stat("max")),
    Column("numel", "int64", "elements", "number of elements", _about(lambda m: m.numel)),
    Column("nbytes", "int64", "bytes", "its bytes in the files, scales of packed weights included", _about(lambda m: m.nbytes)),
    Column("nan_count", "int64", "elements", "elements that are NaN", _stat("nan_count")),
    Column("inf_count", "int64", "elements", "elements that are infinite", _stat("inf_count")),
    Column("skewness", "float64", "", "standardised third central moment; empty for a constant, and where float64 cannot hold it", _stat("skewness")),
    Column("kurtosis", "float64", "", "standardised fourth central moment, 3 for a normal distribution; empty likewise", _stat("kurtosis")),
    Column("entropy_bits", "float64", "bits", "Shannon entropy of the stored codes per element; 8- and 16-bit dtypes only", _stat("entropy_bits")),
    *_share_of_variance(95),
    *_share_of_variance(99),
    Column("spectral_norm", "float64", "", "largest singular value, σ₁", _spectral(lambda x: rank.spectral_norm(x.s))),
    Column("frobenius_norm", "float64", "", "√Σσᵢ²", _spectral(lambda x: math.sqrt(x.sum_of_squares))),
    Column("stable_rank", "float64", "", "Σσᵢ² / σ₁², in [1, design_rank]; 0 for a matrix of zeros, as the two below", _spectral(lambda x: rank.stable_rank(x.s, sum_of_squares=_total(x))), "Rudelson & Vershynin 2007, arXiv:math/0503442"),
    Column("effective_rank", "float64", "", "exp(-Σ q ln q) with q = σ / Σσ", _whole(rank.effective_rank), "Roy & Vetterli, EUSIPCO 2007"),
    Column("effective_rank_energy", "float64", "", "the same with q = σ² / Σσ²; never above effective_rank", _whole(rank.effective_rank_energy)),
    Column("condition_number", "float64", "", "σ₁ / σ_k; empty where σ_k cannot be told from zero", _condition_number),
    Column("sigma_error_bound", "float64", "", "no singular value is further than this from the true one", lambda r, c: r.spectrum.error_bound if r.spectrum else None),
    Column("method", "string", "", "`gram` (fast route) or `svdvals` (slow route, where the fast one cannot settle a rank), `factors` (a product of two factors, from the factors alone), `krylov` (leading values only: ranks are lower bounds)", lambda r, c: r.spectrum.method if r.spectrum else None),
    Column("zero_rows", "int64", "", "rows that are zero throughout, by the threshold of `sparsity`: outputs that no input moves", _arranged("zero_rows")),
    Column("zero_cols", "int64", "", "columns that are zero throughout: inputs that move no output", _arranged("zero_columns")),
    Column("content_hash", "string", "", "XXH3 fingerprint of the stored elements, row after row as they are stored, 16 hexadecimal digits: the same for equal matrices; not cryptographic", _arranged("content_hash")),
    Column("scheme", "string", "", "how packed codes become weights, such as `gptq 4-bit g128`; empty where nothing is packed", _about(lambda m: m.tensor.scheme)),
    Column("bits_per_weight", "float64", "bits", "bits in the files per element of the tensor, scales included", _about(_bits_per_weight)),
    Column("stored_tensors", "string", "", "names of the stored tensors it is made of, the codes first, with spaces between", _about(_stored_names)),
    Column("stored_shape", "string", "", "shape of the stored tensor; of packed weights, that of the codes", _about(lambda m: shape_text(m.tensor.stored_shape))),
    Column("file", "string", "", "file that holds the stored tensor, or the codes", _about(lambda m: m.tensor.file)),
    Column("status", "string", "", "`ok`; `failed` where a number could not be had; `refused` where the codes are not understood", lambda r, c: r.status),
    Column("reason", "string", "", "why a row failed or was refused, or what to know about how it was cut; integers and buffers have no spectrum, and need no reason for it", lambda r, c: "; ".join(filter(None, (r.reason, r.matrix.note)))),
)  # fmt: skip

COLUMN_NAMES = tuple(column.name for column in COLUMNS)


def row(result: Result, context: Context) -> Row:
    """One row of the table, its cells in the order of `COLUMNS`."""
    return {column.name: column.value(result, context) for column in COLUMNS}
