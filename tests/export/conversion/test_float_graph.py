"""The names of the operations of a graph, whose converter has renamed them."""

from __future__ import annotations

import pytest

from export.conversion.float_graph import name_steps

OPERATIONS = [("Sub", False), ("Mul", False), ("Conv", True), ("Add", False), ("MaxPool", False), ("Conv", True),
              ("Gemm", True), ("Sigmoid", False)]  # fmt: skip
OWN = [f"node_{index}" for index in range(len(OPERATIONS))]


def test_weighted_operations_take_the_names_of_the_layers_in_order() -> None:
    assert name_steps(OPERATIONS, ["stem.0", "block.project", "embedding"], OWN) == [
        "Sub at the input",
        "Mul 2 at the input",
        "stem.0",
        "Add after stem.0",
        "MaxPool 2 after stem.0",
        "block.project",
        "embedding",
        "Sigmoid after embedding",
    ]


@pytest.mark.parametrize("layers", [["stem.0", "embedding"], ["stem.0", "a", "b", "embedding"], []])
def test_a_graph_with_split_or_merged_layers_keeps_the_converters_names(layers: list[str]) -> None:
    assert name_steps(OPERATIONS, layers, OWN) == [
        "Sub at the input",
        "Mul 2 at the input",
        "node_2",
        "Add after node_2",
        "MaxPool 2 after node_2",
        "node_5",
        "node_6",
        "Sigmoid after node_6",
    ]


def test_no_two_operations_share_a_name() -> None:
    # Names choose what mixed precision leaves in float, so one name must not mean two operations.
    operations = [("Conv", True), *[("Add", False)] * 3, ("Conv", True), *[("Add", False)] * 3]
    names = name_steps(operations, ["a", "b"], [""] * 8)
    assert names[1:4] == ["Add after a", "Add 2 after a", "Add 3 after a"]
    assert names[5:] == ["Add after b", "Add 2 after b", "Add 3 after b"]
    assert len(set(names)) == 8


def test_a_graph_without_operations_has_no_names() -> None:
    assert name_steps([], ["stem.0"], []) == []
