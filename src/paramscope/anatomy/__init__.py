"""Stored tensors to matrices: what each one is, and how it is cut out."""

from __future__ import annotations

from dataclasses import dataclass

from paramscope.anatomy.roles import ROLES
from paramscope.anatomy.view import View
from paramscope.checkpoint import StoredTensor


@dataclass(frozen=True, slots=True)
class Matrix:
    """One logical weight: a matrix, a vector, or a buffer, inside one stored tensor.

    Attributes:
        tensor: where it is stored.
        part: which piece of the stored tensor it is (`q`, `gate`, `expert.3.down`, …); empty
            where it is the whole tensor. (tensor.name, part) is unique in a checkpoint.
        role: what it does, a key of `roles.ROLES`.
        tower: the stack it belongs to (`encoder`, `decoder`, `vision`, …); empty where a model
            has one only.
        layer: index within the tower, from 0; None outside the layers.
        expert: index of the expert; None where there are none, or it is shared.
        view: which elements of the stored tensor.
        transposed: the stored tensor has the inputs first, so that rows and columns as stored
            are the columns and rows of the matrix.
        note: what a reader of the row should know, such as why a fused tensor stayed whole.
        refusal: why it is not measured; empty where it is.
        nbytes: its share of what the tensor takes in the files.
    """

    tensor: StoredTensor
    part: str
    role: str
    tower: str
    layer: int | None
    expert: int | None
    view: View
    transposed: bool = False
    note: str = ""
    refusal: str = ""
    nbytes: int = 0

    @property
    def block_type(self) -> str:
        """The coarser word for the role, which users see."""
        return ROLES[self.role].block_type

    @property
    def is_buffer(self) -> bool:
        """Whether it is no trained weight."""
        return self.block_type == "buffer"

    @property
    def rows(self) -> int:
        """Output features."""
        return self.view.columns if self.transposed else self.view.rows

    @property
    def columns(self) -> int:
        """Input features."""
        return self.view.rows if self.transposed else self.view.columns

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape where the matrix is a whole tensor as stored, else (rows, columns)."""
        if self.part or self.transposed:
            one_dimensional = len(self.tensor.shape) == 1
            return (self.columns,) if one_dimensional else (self.rows, self.columns)
        return self.tensor.shape

    @property
    def numel(self) -> int:
        return self.view.size
