"""Images as stimuli: every kind of file, whitening by its own eigenfunctions, patches and moving windows."""

import numpy as np
import pytest
from PIL import Image

from catallax.cortex import panned, patches, photographs, read_image, whiten
from catallax.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)


def noise(rows=40, columns=50, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def save(path, array, mode=None, **options):
    Image.fromarray(array).convert(mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def test_the_photographs_come_with_names_and_attribution():
    found = photographs()
    assert [p.name for p in found] == ["china", "flower"]
    for photograph in found:
        assert photograph.pixels.shape == (427, 640) and photograph.pixels.dtype == np.float32
        assert 0 <= photograph.pixels.min() < photograph.pixels.max() <= 1
        assert "CC BY 2.0" in photograph.attribution


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_a_picture_is_the_same_in_every_mode(tmp_path, mode):
    black_white = np.where(GREY > 127, 255, 0).astype(np.uint8)
    pixels = black_white if mode == "1" else GREY
    found = read_image(save(tmp_path / "a.png", pixels, mode))
    assert found.dtype == np.float32 and found.shape == pixels.shape
    np.testing.assert_allclose(found, pixels / 255, atol=0.003)


def test_sixteen_bits_keep_their_depth(tmp_path):
    deep = GREY.astype(np.uint16) * 257 - (GREY > 0)
    np.testing.assert_allclose(read_image(save(tmp_path / "a.png", deep)), deep / 65535, rtol=1e-6)


def test_colours_become_luminance_and_what_is_transparent_is_white(tmp_path):
    red = np.zeros((16, 16, 4), np.uint8)
    red[..., 0], red[:8, :, 3] = 255, 255
    found = read_image(save(tmp_path / "a.png", red))
    np.testing.assert_allclose(found[:8], 0.299, atol=0.003)
    np.testing.assert_allclose(found[8:], 1.0)


def test_a_jpeg_on_its_side_is_turned_upright(tmp_path):
    bright = np.full((16, 32), 20, np.uint8)
    bright[:, :16] = 220
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: turn it a quarter clockwise
    found = read_image(save(tmp_path / "a.jpg", bright, exif=turned))
    assert found.shape == (32, 16)
    assert found[:14].min() > 0.8 and found[18:].max() < 0.2


def test_files_that_are_no_sound_images_are_named(tmp_path):
    whole = save(tmp_path / "whole.png", GREY).read_bytes()
    camera = save(tmp_path / "whole.jpg", GREY).read_bytes()
    for name, content, what in [
        ("cut.png", whole[: len(whole) // 2], "damaged or cut off"),
        ("cut.jpg", camera[: len(camera) // 2], "damaged or cut off"),
        ("text.png", b"this is text", "no PNG or JPEG"),
        ("empty.jpg", b"", "no PNG or JPEG"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=what) as caught:
            read_image(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="20 × 24 pixels; give one of at least 21 × 21"):
        read_image(tmp_path / "whole.png", least=21)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.png")


def test_an_image_too_large_to_be_safe_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", GREY)
    for most in (300, 200):  # Pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(InputError, match="too large to be read safely"):
            read_image(path)


def test_whitening_scales_each_cosine_by_its_frequency():
    rows, columns = 32, 40
    y, x = np.indices((rows, columns)) + 0.5
    waves = [np.cos(np.pi * k * y / rows) * np.cos(np.pi * j * x / columns) for k, j in ((2, 3), (5, 0), (0, 30))]
    frequency = np.array([np.hypot(k / (2 * rows), j / (2 * columns)) for k, j in ((2, 3), (5, 0), (0, 30))])
    white = whiten(0.3 + np.sum(waves, axis=0))
    found = np.array([np.vdot(white, wave) / np.vdot(wave, wave) for wave in waves])
    gains = frequency * np.exp(-((frequency / 0.4) ** 4))
    np.testing.assert_allclose(found / found[0], gains / gains[0], rtol=1e-5)
    np.testing.assert_allclose([white.mean(), white.std()], [0, 1], atol=1e-5)
    assert white.dtype == np.float32


def test_whitening_flattens_a_photograph():
    def slope(image):
        power = np.abs(np.fft.rfft(image - image.mean(), axis=1)).mean(axis=0)
        return np.log(power[60] / power[6]) / np.log(10)

    pixels = photographs()[0].pixels
    assert slope(pixels) < -0.5
    assert abs(slope(whiten(pixels))) < 0.2


def test_patches_are_pieces_of_their_image_at_unit_norm_and_none_comes_twice():
    images = [noise(seed=1), noise(30, 30, seed=2)]
    found, source = patches(images, 8, seed=3)
    assert found.dtype == np.float32 and len(found) == 33 * 43 + 23 * 23
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert len(np.unique(found, axis=0)) == len(found)
    for index, image in enumerate(images):
        windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 64)
        expected = windows / np.linalg.norm(windows, axis=1, keepdims=True)
        mine = found[source == index]
        np.testing.assert_allclose(np.sort(mine @ expected[0]), np.sort(expected @ expected[0]), atol=1e-5)
    some, from_where = patches(images, 8, 100, seed=3)
    np.testing.assert_array_equal(some, found[:100])
    np.testing.assert_array_equal(from_where, source[:100])
    assert not np.array_equal(some, patches(images, 8, 100, seed=4)[0])


def test_flat_patches_are_left_out():
    image = noise()
    image[:, :25] = 7 + 1e-3 * image[:, :25]
    found, _ = patches([image], 8)
    assert len(found) == 33 * (43 - 18)
    with pytest.raises(InputError, match="there are 825 patches of 8 × 8 pixels that are not flat, not 826"):
        patches([image], 8, 826)
    with pytest.raises(InputError, match="there are 0 patches"):
        patches([np.full((20, 20), 0.1)], 8)


def test_panning_moves_a_window_by_its_step():
    image = noise()
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(33, 43, 64)
    windows = windows / np.linalg.norm(windows, axis=-1, keepdims=True)
    for step in ((0, 1), (2, -1)):
        found = panned(image, 8, 5, step=step, windows=20, seed=2)
        assert found.shape == (5, 20, 64) and found.dtype == np.float32
        for way in range(20):
            at = [np.argwhere(np.abs(windows - found[frame, way]).max(axis=-1) < 1e-6)[0] for frame in range(5)]
            np.testing.assert_array_equal(np.diff(at, axis=0), np.tile(step, (4, 1)))
    assert len(np.unique(panned(image, 8, 1, windows=500)[0], axis=0)) == 500


def test_a_window_never_moves_into_a_flat_part():
    image = noise()
    image[:, 30:] = 0  # a window that starts at column 29 still sees one column
    found = panned(image, 8, 10, windows=33 * 21)
    assert np.abs(found).max(axis=-1).min() > 0
    with pytest.raises(InputError, match="room for 693 ways"):
        panned(image, 8, 10, windows=33 * 21 + 1)
    with pytest.raises(InputError, match="room for 0 ways"):
        panned(image, 8, 100)


def test_unfit_images_are_refused():
    bad = noise()
    bad[3, 4] = np.nan
    with pytest.raises(InputError, match="image 1 has a NaN or an infinity at row 3, column 4"):
        patches([noise(), bad], 8)
    with pytest.raises(InputError, match="constant"):
        whiten(np.full((20, 20), 0.3))
    with pytest.raises(InputError, match="20 × 5 pixels: no room for 8 × 8"):
        patches([noise(20, 5)], 8)
    with pytest.raises(ValueError, match=r"not of shape \(20, 20, 3\)"):
        whiten(np.zeros((20, 20, 3)))
