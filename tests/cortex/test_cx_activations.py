"""Files of activations: what is in the file comes back, whatever its format, and what is wrong is named."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from catallax.cortex import activations
from catallax.cortex.activations import check_activations, read_activations
from catallax.errors import InputError

MATRIX = np.random.default_rng(0).normal(size=(40, 6))


@pytest.fixture
def write(tmp_path):
    """Write arrays to a file of either format, and return its path."""

    def written(name: str, **tensors: np.ndarray):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, *tensors.values())
        else:
            save_file(tensors, path)
        return path

    return written


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_what_was_written_is_read_and_not_loaded(write, name, kind):
    if name.endswith("npy") and kind is ml_dtypes.bfloat16:
        pytest.skip("NumPy's format has no name for bfloat16")
    matrix = MATRIX.astype(kind)
    data = read_activations(write(name, x=matrix), units=40)
    assert isinstance(data, np.memmap) and not data.flags.writeable
    assert data.dtype == matrix.dtype and (np.asarray(data) == matrix).all()


def test_columns_first_and_offsets_are_read_as_they_are(write):
    assert (read_activations(write("f.npy", x=np.asfortranarray(MATRIX))) == MATRIX).all()
    path = write("two.safetensors", a=np.ones((3, 2), np.float32), b=MATRIX, c=np.ones(7, np.float32))
    assert (read_activations(path, tensor="b") == MATRIX).all()


def test_the_only_matrix_need_not_be_named(write):
    assert (read_activations(write("one.safetensors", x=MATRIX, labels=np.arange(40.0))) == MATRIX).all()


def wrong(value: float, sample: int, column: int) -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[sample, column] = value
    return matrix


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (wrong(np.nan, 17, 4), "x.*nan in sample 18, input 5"),
        (wrong(-np.inf, 39, 0), "x.*-inf in sample 40, input 1"),
        (wrong(1e300, 2, 3), "x.*1e[+]300 in sample 3, input 4"),
        (np.ones((40, 6)), "x.*constant"),
        (MATRIX[0], "shape \\(6,\\)|holds 0 matrices"),
        (np.zeros((0, 6)), "shape \\(0, 6\\)"),
        (np.arange(240).reshape(40, 6), "int64|I64"),
        (MATRIX[:39], "39 samples, fewer than the 40 units"),
    ],
)
def test_bad_data_is_named(write, name, matrix, said, monkeypatch):
    monkeypatch.setattr(activations, "BATCH_BYTES", 6 * 8 * 16)
    with pytest.raises(InputError, match=said) as raised:
        read_activations(write(name, x=matrix), units=40)
    assert "\n" not in str(raised.value) and name in str(raised.value)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 60, -8])
def test_a_truncated_file_is_refused(write, name, kept):
    path = write(name, x=MATRIX)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a whole"):
        read_activations(path)


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a whole"):
        read_activations(path)


def test_the_tensor_is_asked_for_by_name(write, tmp_path):
    path = write("two.safetensors", layer_4=MATRIX, layer_5=MATRIX)
    with pytest.raises(InputError, match=r"holds 2 matrices; name the tensor to use: layer_4 \[40, 6\]"):
        read_activations(path)
    with pytest.raises(InputError, match="no tensor 'layer4'; did you mean 'layer_4'"):
        read_activations(path, tensor="layer4")
    with pytest.raises(InputError, match="single array"):
        read_activations(write("x.npy", x=MATRIX), tensor="x")
    with pytest.raises(InputError, match="cannot be read"):
        read_activations(tmp_path / "none.npy")
    with pytest.raises(InputError, match="not '.csv'"):
        read_activations(tmp_path / "x.csv")


def test_only_the_rows_asked_for_are_read(tmp_path):
    path = tmp_path / "sparse.npy"  # 8 GB on paper, a few kilobytes on the disk
    data = np.lib.format.open_memmap(path, "w+", np.float32, (2_000_000, 1000))
    data[1_234_567, 3] = 1.0
    del data
    assert np.load(path, mmap_mode="r")[1_234_567, 3] == 1.0
    check_activations(np.load(path, mmap_mode="r")[1_234_000:1_235_000])
