"""Lists by key as arrays: padding, chosen tokens, ids and texts."""

from __future__ import annotations

import numpy as np
import pytest

from scorers.grid import ABSENT, KeyCodes, forced_grid, grid_of, grid_with_chosen
from scorers.records import TokenLogprobs


def test_ids_become_numbers_and_rows_are_padded() -> None:
    logprobs = TokenLogprobs(
        tokens=("token_id:5", "token_id:7"),
        chosen=(-0.1, -0.2),
        top=({"token_id:5": -0.1, "token_id:6": -3.0}, {"token_id:7": -0.2}),
    )
    grid = grid_of(logprobs, None)
    assert grid.chosen.tolist() == [5, 7]
    assert grid.ids.tolist() == [[5, 6], [7, ABSENT]]
    assert grid.logprobs.tolist() == [[-0.1, -3.0], [-0.2, -np.inf]]
    assert len(grid.head(1)) == 1


def test_a_chosen_token_that_the_list_leaves_out_is_added() -> None:
    grid = grid_of(TokenLogprobs(("token_id:9",), (-2.0,), ({"token_id:1": -0.1},)), None)
    assert dict(zip(grid.ids[0].tolist(), grid.logprobs[0].tolist(), strict=True)) == {1: -0.1, 9: -2.0}


def test_texts_get_equal_numbers_within_one_pair() -> None:
    codes = KeyCodes()
    one = grid_of(TokenLogprobs(("a", "b"), (0.0, 0.0), ({}, {})), codes)
    two = grid_of(TokenLogprobs(("b", "c"), (0.0, 0.0), ({}, {})), codes)
    assert one.chosen[1] == two.chosen[0]
    assert len({one.chosen[0], one.chosen[1], two.chosen[1]}) == 3


@pytest.mark.parametrize("key", ["a", "token_id:", "token_id:-1", "token_id:1x", "token_id:99999999999", "token_id:²"])
def test_a_key_that_is_no_id_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a token id"):
        grid_of(TokenLogprobs((key,), (0.0,), ({},)), None)


def test_forced_lists_name_no_chosen_token() -> None:
    grid = forced_grid([{"token_id:3": -1.0}, {}])
    assert grid.chosen.tolist() == [ABSENT, ABSENT]
    assert grid.ids.tolist() == [[3], [ABSENT]]


def test_a_chosen_token_is_added_only_where_it_is_missing() -> None:
    ids, values = np.array([[1, 4], [5, 6]], np.int32), np.array([[-0.5, -2.0], [-0.1, -3.0]])
    grid = grid_with_chosen(np.array([1, 2], np.int32), np.array([-0.5, -0.6]), ids, values)
    assert grid.ids.tolist() == [[1, 4, ABSENT], [5, 6, 2]]
    assert grid.logprobs[1, 2] == -0.6
    assert grid_with_chosen(ids[:, 0], values[:, 0], ids, values).ids.shape == (2, 2)
