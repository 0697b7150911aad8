"""Training: it learns, resumes exactly, decays and clips what it should, and refuses what it cannot do."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from szilard.representation.qlae import QLAE, InfoGanConfig, LatentAutoencoder, QlaeConfig, train_qlae
from szilard.representation.qlae.config import numbers
from szilard.representation.qlae.infogan import InfoGanObjective, train_infogan
from szilard.representation.qlae.objective import ReconstructionObjective, measure, penalty_weights
from szilard.representation.sprites import SpriteGrid, Sprites
from szilard.training.loop import fit

TINY: dict[str, Any] = {"image_size": 16, "num_latents": 4, "architecture": "small", "widths": [6, 8], "dense": [16]}
GRID = SpriteGrid(shapes=2, colours=2, scales=1, rotations=1, columns=4, rows=4)
PIXELS, FACTORS = Sprites(16, GRID).tensors()
CONFIG = QlaeConfig(steps=12, batch_size=8, save_every=4, log_every=2, evaluate_every=6, learning_rate=1e-2)


def made(kind: str = "qlae", **changes: Any) -> LatentAutoencoder:
    torch.manual_seed(0)
    return QLAE(**TINY | changes) if kind == "qlae" else LatentAutoencoder(kind, **TINY | changes)


class Stop(Exception):
    pass


def stopping(monkeypatch: pytest.MonkeyPatch, cls: type, at: int) -> None:
    """Let the `at`-th forward of an objective fail."""
    whole, calls = cls.forward, iter(range(10_000))

    def forward(self: Any, pictures: torch.Tensor) -> Any:
        if next(calls) == at:
            raise Stop
        return whole(self, pictures)

    monkeypatch.setattr(cls, "forward", forward)


@pytest.mark.parametrize("kind", ["qlae", "beta-vae"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(kind)
    expected = train_qlae(whole, PIXELS, CONFIG, tmp_path / "whole", factors=FACTORS, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, ReconstructionObjective, 7)
        train_qlae(made(kind), PIXELS, CONFIG, tmp_path / "cut", factors=FACTORS, device="cpu")
    resumed = made(kind)
    found = train_qlae(resumed, PIXELS, CONFIG, tmp_path / "cut", factors=FACTORS, device="cpu")
    assert found == expected
    assert [row["step"] for row in found.metrics] == list(range(2, 13, 2))
    assert [row["step"] for row in found.evaluations] == [0, 6, 12]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])
    again = train_qlae(made(kind), PIXELS, CONFIG, tmp_path / "cut", factors=FACTORS, device="cpu")
    assert again == expected  # a finished run is read back


def test_a_run_learns_and_its_folder_holds_model_card_and_numbers(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=60, log_every=10, save_every=60, evaluate_every=60)
    model = made()
    result = train_qlae(model, PIXELS, config, tmp_path / "run", factors=FACTORS, device="cpu", data="sprites")
    first, last = result.evaluations[0], result.evaluations[-1]
    assert last["psnr"] > first["psnr"] + 3
    assert {"modularity", "explicitness", "compactness", "active"} < set(last)
    again = QLAE.from_pretrained(str(tmp_path / "run"))
    assert measure(again, PIXELS)["psnr"] == pytest.approx(last["psnr"])
    assert "64 pictures (sprites)" in (tmp_path / "run" / "README.md").read_text()
    assert again.record["settings"]["steps"] == 60


def test_without_a_folder_nothing_is_kept_and_settings_go_before_the_config() -> None:
    result = train_qlae(made(), PIXELS.float() / 255, CONFIG, device="cpu", steps=2, held_out=0.25)
    assert [row["step"] for row in result.metrics] == [2]


def test_a_memory_mapped_array_trains_as_the_tensor_does(tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", PIXELS.numpy())
    mapped = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    first, second = (train_qlae(made(), pixels, CONFIG, device="cpu", steps=4) for pixels in (PIXELS, mapped))
    assert first == second


def test_decay_without_gradient_shrinks_weights_and_touches_no_bias_and_no_codebook(tmp_path: Path) -> None:
    class Still(ReconstructionObjective):
        def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": sum(0.0 * weight.sum() for weight in self.parameters())}  # type: ignore[dict-item]

    model = made()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    config = replace(CONFIG, steps=1, log_every=1, weight_decay=0.5)
    fit(Still(model, config), _Rows(), config, tmp_path, collate=_Rows.collate, device="cpu")
    for name, weight in model.named_parameters():
        kept = name.endswith("bias") or "codebook" in name
        assert torch.allclose(weight, before[name] * (1 if kept else 1 - 0.5 * 1e-2), rtol=1e-6), name


def test_gradients_of_weights_are_cut_number_by_number_and_those_of_biases_and_codebooks_are_not(
    tmp_path: Path,
) -> None:
    seen: dict[str, torch.Tensor] = {}

    class Steep(ReconstructionObjective):
        def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": sum(3.0 * weight.sum() for weight in self.parameters())}  # type: ignore[dict-item]

    model = made()
    config = replace(CONFIG, steps=1, log_every=1, max_grad_value=1.0)
    from transformers import TrainerCallback

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            seen.update({name: weight.grad.clone() for name, weight in model.named_parameters()})

    fit(Steep(model, config), _Rows(), config, tmp_path, collate=_Rows.collate, device="cpu", callbacks=[Look()])
    assert seen
    for name, gradient in seen.items():
        assert (gradient == (3.0 if name.endswith("bias") or "codebook" in name else 1.0)).all(), name


class _Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return PIXELS[index]

    @staticmethod
    def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pictures": torch.stack(rows)}


def test_frozen_codebooks_stay_and_learned_ones_move() -> None:
    for learns in (True, False):
        model = made(learn_values=learns)
        before = torch.stack(model.bottleneck.quantizer.values)  # type: ignore[union-attr, operator]
        train_qlae(model, PIXELS, CONFIG, device="cpu", steps=3)
        after = torch.stack(model.bottleneck.quantizer.values)  # type: ignore[union-attr, operator]
        assert torch.equal(before, after) != learns


def test_the_loss_is_the_mean_cross_entropy_and_the_weighted_penalties() -> None:
    objective = ReconstructionObjective(made().eval(), CONFIG)
    with torch.no_grad():
        found = objective(PIXELS[:8])
    expected = found["cross_entropy"] + 0.01 * found["quantization"] + 0.01 * found["commitment"]
    assert found["loss"] == pytest.approx(float(expected))
    target = PIXELS[:8].float() / 255
    pixels = objective.model(target)[0].detach().sigmoid()
    by_hand = -(target * pixels.log() + (1 - target) * (1 - pixels).log()).mean()
    assert found["cross_entropy"] == pytest.approx(float(by_hand), rel=1e-4)
    assert found["psnr"] == pytest.approx(-10 * math.log10(float((pixels - target).square().mean())), rel=1e-4)


def test_weights_of_penalties_are_each_papers_unless_given() -> None:
    pixels = 3 * 16 * 16
    assert penalty_weights(made("vq-vae"), CONFIG) == {"quantization": 1.0, "commitment": 0.25}
    assert penalty_weights(made("vq-vae"), replace(CONFIG, commitment_weight=0.0))["commitment"] == 0
    assert penalty_weights(made("beta-vae"), replace(CONFIG, beta=4.0)) == {"divergence": 4 / pixels}
    both = penalty_weights(made("beta-tcvae"), replace(CONFIG, beta=4.0))
    assert both == {"divergence": 1 / pixels, "total_correlation": 3 / pixels}


def test_a_gan_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = InfoGanConfig(steps=14, batch_size=4, save_every=4, log_every=2)
    whole = made()
    expected = train_infogan(whole, PIXELS, config, tmp_path / "whole", device="cpu")  # type: ignore[arg-type]
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, InfoGanObjective, 9)
        train_infogan(made(), PIXELS, config, tmp_path / "cut", device="cpu")  # type: ignore[arg-type]
    found = train_infogan(resumed := made(), PIXELS, config, tmp_path / "cut", device="cpu")  # type: ignore[arg-type]
    assert found == expected
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])
    assert QLAE.from_pretrained(str(tmp_path / "cut")).sample(2).shape == (2, 3, 16, 16)


def test_critic_turns_move_the_encoder_and_generator_turns_decoder_and_codebooks() -> None:
    objective = InfoGanObjective(made(), InfoGanConfig(critic_steps=2))  # type: ignore[arg-type]
    for turn in range(6):
        objective.zero_grad()
        objective(PIXELS[:4])["loss"].backward()
        moved = {name for name, weight in objective.named_parameters() if weight.grad is not None}
        generates = turn % 3 == 2
        assert any("encoder" in name for name in moved) != generates
        assert any("decoder" in name for name in moved) == generates
        assert ("model.bottleneck.quantizer.codebook" in moved) == generates
        assert ("value.weight" in moved) != generates


def test_the_gan_learns_to_read_back_the_codes_that_it_drew() -> None:
    config = InfoGanConfig(steps=120, batch_size=16, log_every=20, save_every=20, learning_rate=2e-3, critic_steps=1)
    rows = train_infogan(made(), PIXELS, config, device="cpu").metrics  # type: ignore[arg-type]
    assert rows[-1]["latent_error"] < 0.75 * rows[0]["latent_error"]


def test_bad_input_is_refused_before_any_work(tmp_path: Path) -> None:
    model = made()
    with pytest.raises(ValueError, match="image_size and channels"):
        train_qlae(model, torch.rand(4, 3, 32, 32), CONFIG)
    with pytest.raises(ValueError, match="from 0 to 1"):
        train_qlae(model, torch.rand(4, 3, 16, 16) * 2, CONFIG)
    with pytest.raises(ValueError, match=r"factors must be \[64, n_s\]"):
        train_qlae(model, PIXELS, CONFIG, factors=FACTORS[:5])
    with pytest.raises(ValueError, match="every factor has one value"):
        train_qlae(model, PIXELS, CONFIG, factors=torch.zeros(64, 2))
    with pytest.raises(ValueError, match="no setting 'weight_decays'"):
        train_qlae(model, PIXELS, CONFIG, weight_decays=1)
    with pytest.raises(TypeError, match="must be a QLAE"):
        train_qlae(torch.nn.Linear(1, 1), PIXELS, CONFIG)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is a QLAE"):
        train_infogan(made("fsq"), PIXELS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gradient_accumulation must be 1"):
        InfoGanConfig(gradient_accumulation=2)
    with pytest.raises(ValueError, match="with commas"):
        numbers("widths", "16;32")
    (tmp_path / "model.safetensors").write_text("of somebody else")
    with pytest.raises(ValueError, match="something else than a training"):
        train_qlae(model, PIXELS, CONFIG, tmp_path)


def test_another_config_or_table_of_factors_is_refused_before_any_work(tmp_path: Path) -> None:
    for factors, sentence in ((np.array([["a"]] * 64), "number the words"), (torch.rand(64, 2), "occurs twice")):
        with pytest.raises((TypeError, ValueError), match=sentence):
            train_qlae(made(), PIXELS, CONFIG, tmp_path / "run", factors=factors)
    for config in (InfoGanConfig(), {"steps": 3}):
        with pytest.raises(TypeError, match="config must be a QlaeConfig"):
            train_qlae(made(), PIXELS, config)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_other_factors_grids_and_frozen_codebooks_are_another_run(tmp_path: Path) -> None:
    for kind, changes in (("qlae", {"learn_values": False}), ("fsq", {"num_values": 5}), ("ae", {"num_latents": 5})):
        train_qlae(made(kind), PIXELS, CONFIG, tmp_path / kind, device="cpu", steps=2)
        with pytest.raises(ValueError, match="of another model"):
            train_qlae(made(kind, **changes), PIXELS, CONFIG, tmp_path / kind, device="cpu", steps=2)
    with pytest.raises(ValueError, match="other settings"):
        train_qlae(made(), PIXELS, CONFIG, tmp_path / "qlae", device="cpu", steps=2, factors=FACTORS)


def test_bioae_draws_latents_above_and_to_zero() -> None:
    model = made("bioae")
    code = model.bottleneck(torch.tensor([[-2.0, 1.0, 0.0, 3.0]]))
    assert code.penalties["nonnegativity"] == 0.5 and code.penalties["activity"] == 14 / 4
    assert penalty_weights(model, replace(CONFIG, activity_weight=0.1)) == {"nonnegativity": 1.0, "activity": 0.1}


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train_qlae(made(), PIXELS, CONFIG, tmp_path / "run", device="cpu", steps=2)
    with pytest.raises(ValueError, match="other settings or pictures, or of another model"):
        train_qlae(made(), PIXELS, CONFIG, tmp_path / "run", device="cpu", steps=2, weight_decay=0.2)
    with pytest.raises(ValueError, match="of another model"):
        train_qlae(made(num_latents=5), PIXELS, CONFIG, tmp_path / "run", device="cpu", steps=2)
    train_qlae(made(), PIXELS, CONFIG, tmp_path / "run", device="cpu", steps=2, weight_decay=0.2, resume=False)
