"""Pictures from sprites, folders and arrays; pages of traversals; the commands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from szilard.cli.main import main
from szilard.representation.qlae import QLAE, LatentAutoencoder
from szilard.representation.qlae.pictures import Pictures, read_pictures
from szilard.representation.qlae.traversals import strip, traversal_page, traversal_values
from szilard.representation.sprites import SpriteGrid

SMALL = "--image-size 16 --architecture small --widths 6,8 --dense 16 --latents 3 --steps 4 --batch-size 8"
FLAGS = [*SMALL.split(), "--log-every", "2", "--save-every", "2", "--limit", "64", "--device", "cpu"]


def test_sprites_come_with_their_factors() -> None:
    pixels, factors = read_pictures("sprites", image_size=16, limit=10, grid=SpriteGrid(2, 2, 2, 2, 2, 2))
    assert pixels.shape == (10, 3, 16, 16) and factors is not None and factors.shape == (10, 6)


def test_a_folder_of_image_files_is_read_in_order_cut_to_squares(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "deep").mkdir()
    image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "a.png")
    image.new("L", (8, 8), 128).save(tmp_path / "deep" / "b.png")
    (tmp_path / "notes.txt").write_text("no picture")
    pixels, factors = read_pictures(tmp_path, image_size=8)
    assert factors is None and pixels.shape == (2, 3, 8, 8)
    assert pixels[0, :, 4, 4].tolist() == [255, 0, 0] and pixels[1].unique().tolist() == [128]
    np.save(tmp_path / "factors.npy", np.array([[0], [1]]))
    assert read_pictures(tmp_path, image_size=8, factors=tmp_path / "factors.npy")[1].tolist() == [[0], [1]]  # type: ignore[union-attr]


def test_an_array_may_have_its_channels_last_and_stays_on_disk(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "last.npy", array)
    pixels, _ = read_pictures(tmp_path / "last.npy", image_size=8, limit=4)
    assert isinstance(pixels, np.memmap) and pixels.shape == (4, 3, 8, 8)
    assert torch.equal(Pictures(pixels)[3], torch.from_numpy(array[3].transpose(2, 0, 1)))


def test_pictures_that_differ_have_other_digests() -> None:
    pixels = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    other = pixels.clone()
    other[9] = 1
    assert Pictures(pixels).digest == Pictures(pixels.clone()).digest != Pictures(other).digest


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((2, 3, 4, 4), dtype=np.uint8))
    np.save(tmp_path / "factors.npy", np.zeros((3, 1)))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "empty").mkdir()
    for data, sentence in (
        ("nowhere", "there is no folder of pictures"),
        (tmp_path / "small.npy", "set image_size"),
        (tmp_path / "torn.npy", "is no array of numpy"),
        (tmp_path / "empty", "holds no pictures"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_pictures(data, image_size=8)
    with pytest.raises(ValueError, match=r"factors must be \[2, n_s\]"):
        read_pictures(tmp_path / "small.npy", image_size=4, factors=tmp_path / "factors.npy")
    with pytest.raises(ValueError, match="factors of their own"):
        read_pictures("sprites", image_size=8, factors=tmp_path / "factors.npy")
    with pytest.raises(TypeError, match="a tensor or an array"):
        Pictures([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not int64"):
        Pictures(torch.zeros(2, 3, 8, 8, dtype=torch.int64))


def test_a_strip_has_pictures_side_by_side_with_white_lines_between() -> None:
    pixels = strip(torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.2)]))
    assert pixels[..., 0].tolist() == [[0, 0, 255, 51, 51]] * 2


@pytest.mark.parametrize("kind", ["qlae", "ae", "vq-vae"])
def test_a_page_has_a_row_per_latent_and_loads_nothing(kind: str) -> None:
    pytest.importorskip("PIL")
    torch.manual_seed(0)
    model = LatentAutoencoder(kind, 16, num_latents=3, architecture="small", widths=[6], dense=[8]).eval()
    page = traversal_page(model, torch.rand(20, 3, 16, 16), count=2, columns=4)
    assert page.count("<img") == 2 * (1 + 3) and "latent 2: " in page
    assert not re.search(r'src="(?!data:image/png)', page) and "<script" not in page


def test_a_page_shows_the_values_that_are_used() -> None:
    torch.manual_seed(0)
    model = QLAE(16, num_latents=2, num_values=10, architecture="small", widths=[6], dense=[8]).eval()
    codes = torch.tensor([[7, 0], [7, 0], [2, 0], [5, 0], [5, 0]])
    assert traversal_values(model, codes, 0, 2).tolist() == [5, 7]
    assert traversal_values(model, codes, 1, 4).tolist() == [0]


def test_the_command_trains_writes_a_page_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    output = tmp_path / "run"
    assert main(["train", "qlae", "--data", "sprites", "-o", str(output), *FLAGS]) == 0
    assert "modularity" in capsys.readouterr().err
    assert {"model.safetensors", "README.md", "training.yaml", "evaluation.yaml"} <= {p.name for p in output.iterdir()}
    assert QLAE.from_pretrained(str(output)).num_latents == 3
    assert main(["train", "qlae", "--data", "sprites", "-o", str(output), *FLAGS, "--weight-decay", "0.3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_commands_train_baselines_and_the_gan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "pictures.npy", np.random.default_rng(0).integers(0, 256, (16, 1, 16, 16), dtype=np.uint8))
    data = ["--data", str(tmp_path / "pictures.npy")]
    assert main(["train", "qlae", *data, "-o", str(tmp_path / "fsq"), *FLAGS, "--bottleneck", "fsq"]) == 0
    assert LatentAutoencoder.from_pretrained(str(tmp_path / "fsq")).kind == "fsq"
    assert main(["train", "infogan", *data, "-o", str(tmp_path / "gan"), *FLAGS]) == 0
    assert "latent error" in capsys.readouterr().err
    assert main(["train", "qlae", *data, "-o", str(tmp_path / "no"), *FLAGS, "--widths", "a,b"]) == 2
    assert "with commas" in capsys.readouterr().err
