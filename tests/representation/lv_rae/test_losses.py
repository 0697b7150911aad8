"""The losses, the adaptive weight, the discriminator."""

from __future__ import annotations

import pytest
import torch

from szilard.representation.lv_rae.discriminator import Augmentation, Discriminator, as_bytes
from szilard.representation.lv_rae.losses import (
    MultiScaleDissimilarity,
    adaptive_weight,
    few_scales,
    generator_loss,
    hinge_loss,
    perceptual_loss,
)
from tests.representation.lv_rae.tiny import autoencoder, pictures, vision_model


@pytest.mark.parametrize(("a", "b"), [(3.0, -2.0), (-0.5, 4.0)])
def test_the_adaptive_weight_is_the_ratio_of_gradients(a: float, b: float) -> None:
    w = torch.tensor([1.5], requires_grad=True)
    found = adaptive_weight((a * w).sum(), (b * w).sum(), w)
    assert float(found) == pytest.approx(abs(a) / abs(b), rel=1e-5)
    assert not found.requires_grad
    assert w.grad is None


def test_the_adaptive_weight_is_capped() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    assert float(adaptive_weight((100 * w).sum(), (0 * w).sum(), w)) == 1e4


def test_hinge_and_generator_losses_by_hand() -> None:
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.0])
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.5))
    assert float(generator_loss(fake)) == 1.0


def test_ms_ssim_takes_small_pictures_and_knows_equal_ones() -> None:
    pytest.importorskip("pytorch_msssim")
    x = 2 * pictures(2, 32, 32) - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    loss = MultiScaleDissimilarity()
    assert float(loss(x, x)) == pytest.approx(0, abs=1e-5)
    assert 0.02 < float(loss(x, y)) < 1
    large = pictures(1, 176, 180)
    other = (large + 0.2 * torch.randn(large.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    whole = 1 - float(loss(2 * large - 1, 2 * other - 1))
    assert float(few_scales(large, other, 5)) == pytest.approx(whole, abs=1e-4)
    with pytest.raises(ValueError, match="more than 10 pixels"):
        loss(x[..., :8, :8], x[..., :8, :8])


def test_lpips_without_its_weights_says_what_to_do() -> None:
    assert perceptual_loss("none") is None
    with pytest.raises(ValueError, match="perceptual='lpips' needs"):
        perceptual_loss("lpips")


def test_a_perceptual_loss_sees_pictures_from_minus_one_to_one() -> None:
    model, x, seen = autoencoder(), pictures(), []

    class Watched(torch.nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            seen.append(second)
            return (first - second).square().mean()

    losses = model.training_losses(x, perceptual=Watched(), perceptual_weight=2.0)
    losses = {name: value.detach() for name, value in losses.items()}
    torch.testing.assert_close(seen[0], 2 * x - 1)
    assert float(losses["total"]) == pytest.approx(float(losses["l1"]) + 2 * float(losses["lpips"]), rel=1e-5)


def test_heads_judge_every_token_of_five_maps_of_twelve_blocks() -> None:
    judge = Discriminator(vision_model(num_hidden_layers=12), augmentation=Augmentation(0.0, False, None))
    assert judge.blocks == (2, 5, 8, 11) and len(judge.heads) == 5
    assert judge(2 * pictures() - 1).shape == (3, 5 * 16)
    assert Discriminator(vision_model()).blocks == (0, 1)
    with pytest.raises(ValueError, match="blocks"):
        Discriminator(vision_model(), blocks=(2,))


def test_a_judge_lends_gradients_to_pictures_alone() -> None:
    judge = Discriminator(vision_model()).train()
    x = pictures().requires_grad_()
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    with judge.as_judge():
        judge(x).mean().backward()
    assert float(x.grad.abs().max()) > 0
    assert all(weight.grad is None for weight in judge.parameters())
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())
    assert judge.training and not judge.trunk.training
    assert all(weight.requires_grad for weight in judge.heads.parameters())


def test_training_weighs_the_adversarial_term_by_kappa_and_the_gradients() -> None:
    model, judge = autoencoder(), Discriminator(vision_model())
    with judge.as_judge():
        losses = model.training_losses(pictures(), 2, discriminate=lambda x: judge(2 * x - 1))
    losses = {name: value.detach() for name, value in losses.items()}
    assert float(losses["weight"]) > 0
    wanted = float(losses["l1"]) + 0.75 * float(losses["weight"]) * float(losses["gan"])
    assert float(losses["total"]) == pytest.approx(wanted, rel=1e-5)


def test_augmentations_keep_shapes_and_pass_gradients() -> None:
    x = pictures(4, 16, 24).requires_grad_()
    found = Augmentation(0.25, True, 12)(x)
    assert found.shape == (4, 3, 12, 12)
    found.sum().backward()
    assert float(x.grad.abs().sum()) > 0
    still = Augmentation(0.0, False, None)(x)
    assert still is x


def test_a_shift_moves_whole_pictures() -> None:
    x = torch.zeros(64, 3, 8, 8)
    x[:, :, 4, 4] = 1
    found = Augmentation(0.25, False, None)(x)
    places = found[:, 0].flatten(1).argmax(1)
    assert float(found.sum()) == float(x.sum())
    assert len(set(places.tolist())) > 5
    assert torch.equal(found[:, 0], found[:, 1])


def test_fakes_have_the_steps_of_bytes() -> None:
    x = as_bytes(torch.linspace(-1.2, 1.2, 1001))
    assert torch.equal(as_bytes(x), x)
    assert len(x.unique()) == 256 and float(x.min()) == -1 and float(x.max()) == 1
