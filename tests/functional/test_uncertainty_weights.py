import logging

import pytest
import torch

from lit_vlm.functional.uncertainty_weights import design_factor, error_bounds, gram_matrix, uncertainty_weights
from lit_vlm.interfaces.errors import UserError


def features(rows=40, width=5, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_weights_of_the_card():
    found = uncertainty_weights(torch.tensor([0.0, 5.0, 14.0, 30.0]))
    torch.testing.assert_close(found, torch.tensor([2.01375, 1.56831, 1.0, 1.0]), atol=1e-5, rtol=0)


def test_the_bound_and_weight_of_the_card():
    bounds = error_bounds(torch.tensor([[1.0, 2.0]]), design_factor(torch.diag(torch.tensor([4.0, 1.0])), 1.0))
    torch.testing.assert_close(bounds, torch.tensor([2.06155]), atol=1e-5, rtol=0)
    torch.testing.assert_close(uncertainty_weights(bounds), torch.tensor([1.81652]), atol=1e-5, rtol=0)


def test_the_bound_is_the_norm_under_the_inverse():
    given = features()
    design = gram_matrix(given) + 0.5 * torch.eye(5, dtype=torch.float64)
    expected = (given @ torch.linalg.inv(design) * given).sum(1).sqrt()
    torch.testing.assert_close(error_bounds(given, design_factor(design, 0.5)), expected)


def test_features_in_other_directions_or_of_other_signs_weigh_the_same():
    given = features()
    rotation, _ = torch.linalg.qr(features(5, 5, seed=1))

    def weights(values):
        design = gram_matrix(values) + 0.1 * torch.eye(5, dtype=torch.float64)
        return uncertainty_weights(error_bounds(values, design_factor(design, 0.1)), scale=2.0)

    torch.testing.assert_close(weights(given @ rotation), weights(given))
    torch.testing.assert_close(weights(-given), weights(given))
    assert weights(given).std() > 0


def test_what_was_seen_often_is_bounded_more_tightly_than_what_was_not():
    given = torch.eye(2).repeat_interleave(torch.tensor([9, 1]), 0)
    common, rare = error_bounds(torch.eye(2), design_factor(gram_matrix(given), 1.0)).tolist()
    assert common == pytest.approx(1 / 3)
    assert rare == pytest.approx(1.0)


def test_pieces_of_the_features_add_up_to_the_whole():
    given = features()
    torch.testing.assert_close(gram_matrix(given[:7]) + gram_matrix(given[7:]), gram_matrix(given))
    assert (gram_matrix(given[:0]) == 0).all()


def test_a_large_scale_gives_the_least_weight_and_none_at_all_the_same_for_all():
    bounds = torch.tensor([0.5, 1.0, 3.0])
    assert uncertainty_weights(bounds, scale=1e4).tolist() == [1.0, 1.0, 1.0]
    assert uncertainty_weights(bounds, scale=0.0, offset=0.0).tolist() == [1.0, 1.0, 1.0]
    assert uncertainty_weights(bounds, offset=5.0).tolist() == pytest.approx([2.21, 2.21, 2.21])


def test_no_gradient_passes():
    given = features().requires_grad_()
    factor = design_factor(gram_matrix(given) + torch.eye(5, dtype=torch.float64), 1.0)
    bounds = error_bounds(given, factor)
    assert not factor.requires_grad
    assert not bounds.requires_grad
    assert not uncertainty_weights(torch.ones(2, requires_grad=True)).requires_grad


def test_weights_are_single_precision_whatever_the_features_are():
    given = features().bfloat16()
    factor = design_factor(gram_matrix(given) + torch.eye(5, dtype=torch.float64), 1.0)
    assert uncertainty_weights(error_bounds(given, factor)).dtype == torch.float32


def test_a_matrix_that_is_not_definite_gets_the_ridge_and_a_warning(caplog):
    flat = torch.diag(torch.tensor([1.0, 0.0]))
    with caplog.at_level(logging.WARNING):
        factor = design_factor(flat, ridge=0.25)
    assert "0.25 is added to its diagonal" in caplog.text
    torch.testing.assert_close(factor @ factor.T, torch.diag(torch.tensor([1.25, 0.25])))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        design_factor(torch.eye(2), ridge=0.25)
    assert not caplog.text


def test_a_matrix_that_the_ridge_does_not_mend_is_refused():
    with pytest.raises(UserError, match=r"even with 0\.1 on its diagonal; give a larger ridge"):
        design_factor(torch.diag(torch.tensor([1.0, -1.0])), ridge=0.1)
    with pytest.raises(UserError, match="must be square"):
        design_factor(torch.ones(2, 3), ridge=0.1)


def test_features_of_another_width_are_refused():
    with pytest.raises(UserError, match=r"shape \(1, 3\), but the reward was fitted on 2 features"):
        error_bounds(torch.ones(1, 3), torch.eye(2))
