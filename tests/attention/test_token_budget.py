"""Average budgets and FLOPs of a prompt that loses tokens once."""

from __future__ import annotations

import pytest

from szilard.attention.token_budget import average_budget_to_keep, flops_reduction, layer_flops


@pytest.mark.parametrize(("average", "keep"), [(192, 166), (128, 98), (576, 576)])
def test_the_papers_averages_leave_the_papers_counts(average, keep):
    assert average_budget_to_keep(32, 2, 576, average) == keep


def test_an_average_below_the_first_layers_is_refused_with_the_least_that_is_possible():
    with pytest.raises(ValueError, match="at least 33"):
        average_budget_to_keep(4, 2, 64, 16)
    assert average_budget_to_keep(4, 2, 64, 33) == 2
    with pytest.raises(ValueError, match="after 1 to 3"):
        average_budget_to_keep(4, 4, 64, 16)


def test_the_reduction_is_about_that_of_the_tokens_and_nothing_when_all_stay():
    assert flops_reduction(32, 2, 576, 576, 4096, 11008) == pytest.approx(0)
    found = flops_reduction(32, 2, 576, 98, 4096, 11008)
    assert found == pytest.approx(30 / 32 * (1 - 98 / 576), abs=0.01)
    assert flops_reduction(32, 2, 0, 0, 4096, 11008) == 0


def test_a_layer_counts_projections_attention_and_feed_forward():
    assert layer_flops(10, 4, 6) == 8 * 10 * 16 + 4 * 100 * 4 + 6 * 10 * 4 * 6


def test_with_its_text_the_papers_prompt_costs_a_third():
    # 2.88 of 8.80 teraFLOPs in the paper; the number of text tokens is not stated
    assert flops_reduction(32, 2, 576 + 86, 98 + 86, 4096, 11008) == pytest.approx(1 - 2.88 / 8.80, abs=0.02)
