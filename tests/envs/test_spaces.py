"""spaces -> Spec -> rows -> samples."""
import doctest
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvec.spaces
from fastvec.spaces import Spec, as_spec, describe_difference, read_sample, write_sample

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def boxes(draw):
    dtype = np.dtype(draw(st.sampled_from(["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"])))
    low, high = (0, 1) if dtype.kind in "bu" else (-7, 9)
    return spaces.Box(low, high, draw(shapes), dtype)


@st.composite
def multi_discretes(draw):
    nvec = np.array(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    start = np.array(draw(st.lists(st.integers(-9, 9), min_size=len(nvec), max_size=len(nvec))))
    return spaces.MultiDiscrete(nvec, dtype=draw(st.sampled_from([np.int64, np.int32, np.int8])), start=start)


leaves = st.one_of(
    boxes(),
    multi_discretes(),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-9, 9)),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 9), st.lists(st.integers(1, 3), min_size=1, max_size=2))),
)
keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
any_space = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(keys, parts, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=6,
)


def assert_same(a, b):
    """The same values in the same types, which `==` alone does not say."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=200)
@given(any_space, seeds)
def test_samples_survive_their_row(space, seed):
    space.seed(seed)
    spec = as_spec(space, "space")
    rows = np.zeros((3, *spec.shape), spec.dtype)
    samples = [space.sample() for _ in range(3)]
    for i, sample in enumerate(samples):
        write_sample(rows[i, ...], sample, space)
    batched = concatenate(space, samples, create_empty_array(space, 3))
    handed_over = list(iterate(batch_space(space, 3), batched))
    for i in range(3):
        assert_same(read_sample(rows[i, ...], space), handed_over[i])
    assert spec.nbytes == rows.nbytes // 3


@settings(deadline=None)
@given(any_space, seeds)
def test_what_is_read_does_not_alias_the_row(space, seed):
    space.seed(seed)
    spec = as_spec(space, "space")
    row = np.zeros((1, *spec.shape), spec.dtype)[0, ...]
    write_sample(row, space.sample(), space)
    sample = read_sample(row, space)
    before = pickle.dumps(sample)
    row.view()[...] = np.zeros(spec.shape, spec.dtype)
    assert pickle.dumps(sample) == before


@settings(deadline=None)
@given(any_space)
def test_specs_survive_pickling(space):
    spec = as_spec(space, "space")
    other = pickle.loads(pickle.dumps(spec))
    assert spec == other and hash(spec) == hash(other)


@settings(deadline=None)
@given(any_space, any_space)
def test_equal_specs_are_those_without_a_difference(a, b):
    a, b = as_spec(a, "a"), as_spec(b, "b")
    assert (a == b) == (describe_difference(a, b) is None)
    assert describe_difference(a, a) is None
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        assert a != b


@pytest.mark.parametrize(
    "space, shape, dtype, low, high",
    [
        (spaces.Box(-1, 2, (3, 2)), (3, 2), "float32", -1, 2),
        (spaces.Box(np.array([0.0, 1.0]), np.array([2.0, 2.0])), (2,), "float32", [0, 1], 2),
        (spaces.Box(-np.inf, np.inf, (2,)), (2,), "float32", -np.inf, np.inf),
        (spaces.Box(0, 255, (4, 4), np.uint8), (4, 4), "uint8", 0, 255),
        (spaces.Box(-1, 1, ()), (), "float32", -1, 1),
        (spaces.Discrete(5), (), "int64", 0, 4),
        (spaces.Discrete(5, start=-2), (), "int64", -2, 2),
        (spaces.MultiDiscrete([3, 4]), (2,), "int64", [0, 0], [2, 3]),
        (spaces.MultiDiscrete([[3], [4]], start=[[-1], [2]]), (2, 1), "int64", [[-1], [2]], [[1], [5]]),
        # start + nvec is 128, which int8 does not hold
        (spaces.MultiDiscrete([100, 3], dtype=np.int8, start=[28, 0]), (2,), "int8", [28, 0], [127, 2]),
        (spaces.MultiBinary(6), (6,), "int8", 0, 1),
        (spaces.MultiBinary((2, 3)), (2, 3), "int8", 0, 1),
    ],
)
def test_specs_of_plain_spaces(space, shape, dtype, low, high):
    spec = as_spec(space, "space")
    assert (spec.shape, spec.dtype) == (shape, np.dtype(dtype))
    np.testing.assert_array_equal(spec.low, low)
    np.testing.assert_array_equal(spec.high, high)


def test_uniform_bounds_are_one_number():
    assert type(as_spec(spaces.Box(-1, 2, (2984,)), "space").low) is float


def test_dict_fields_are_in_the_spaces_order_and_aligned():
    space = spaces.Dict(
        [("z", spaces.Discrete(3)), ("a", spaces.Box(0, 1, (3,), np.uint8)), ("t", spaces.Tuple([spaces.Discrete(2)] * 2))]
    )
    spec = as_spec(space, "space")
    assert spec.shape == ()
    assert spec.dtype.names == ("z", "a", "t")
    assert spec.dtype["t"].names == ("f0", "f1")
    assert spec.dtype.isalignedstruct
    assert spec.nbytes == 8 + 8 + 16


def test_a_part_without_elements_takes_no_bytes():
    space = spaces.Dict({"a": spaces.Box(0, 1, (0, 2)), "b": spaces.Box(0, 1, (2,))})
    spec = as_spec(space, "space")
    row = np.zeros((1,), spec.dtype)[0, ...]
    sample = space.sample()
    write_sample(row, sample, space)
    assert spec.nbytes == 8
    assert_same(read_sample(row, space), sample)


def test_a_spec_is_itself():
    spec = Spec((2,), "float64")
    assert as_spec(spec, "space") is spec


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
        spaces.Dict({"inner": spaces.Text(5)}),
        spaces.Tuple([spaces.Sequence(spaces.Discrete(3))]),
    ],
)
def test_spaces_of_no_fixed_size_are_refused(space):
    with pytest.raises(TypeError, match=r"^observation_space.*no fixed size.*wrap the env"):
        as_spec(space, "observation_space")


@pytest.mark.parametrize("space", [None, (4,), "Box", np.float32, object()])
def test_what_is_no_space_is_refused(space):
    with pytest.raises(TypeError, match="^action_space is .*expected a fastvec.Spec or a gymnasium space"):
        as_spec(space, "action_space")


def test_the_error_names_the_nested_part():
    with pytest.raises(TypeError, match=r"^observation_space\['a'\]\['b'\] is Text"):
        as_spec(spaces.Dict({"a": spaces.Dict({"b": spaces.Text(3)})}), "observation_space")


@pytest.mark.parametrize("key", [3, ("a", "b"), ""])
def test_keys_that_name_no_field_are_refused(key):
    with pytest.raises(TypeError, match="keys must be non-empty strings"):
        as_spec(spaces.Dict({key: spaces.Discrete(2)}), "observation_space")


@pytest.mark.parametrize(
    "space",
    [spaces.Dict({}), spaces.Tuple([]), spaces.Box(0, 1, (0,)), Spec((3, 0)), spaces.Dict({"a": spaces.Box(0, 1, (0,))})],
)
def test_empty_rows_are_refused(space):
    with pytest.raises(ValueError, match="^observation_space is .*give it at least one"):
        as_spec(space, "observation_space")


@pytest.mark.parametrize(
    "a, b, difference",
    [
        (Spec((4,)), Spec((5,)), "shape (4,) against (5,)"),
        (Spec((4,)), Spec((4,), "float64"), "dtype float32 against float64"),
        (Spec((), "int64", 0, 3), Spec((), "int64", 0, 4), "high 3 against 4"),
        (Spec((2,), low=np.array([0, 1])), Spec((2,), low=np.array([0, 2])), "low 1 against 2 at (1,)"),
        (Spec((2,), low=0), Spec((2,)), "low 0 against None"),
        (Spec((2,), low=0), Spec((2,), low=np.zeros(2)), None),
    ],
)
def test_differences_in_words(a, b, difference):
    assert describe_difference(a, b) == difference
    assert (a == b) == (difference is None)


def test_samples_are_cast_as_copyto_casts():
    box = spaces.Box(0, 1, (2,), np.float32)
    row = np.zeros(2, np.float32)
    for sample in ([0.25, 0.5], np.array([0.25, 0.5]), np.array([9, 0.25, 9, 0.5], np.float32)[1::2]):
        row[:] = 0
        write_sample(row, sample, box)
        np.testing.assert_array_equal(row, [0.25, 0.5])
    with pytest.raises(TypeError, match=r"dtype float64, which does not cast safely; expected shape \(2,\) and dtype uint8"):
        write_sample(np.zeros(2, np.uint8), np.array([0.0, 1.0]), spaces.Box(0, 255, (2,), np.uint8))


@pytest.mark.parametrize("sample", [5, np.int64(5), np.array(5), np.int32(5), np.uint8(5), True])
def test_integers_of_any_kind_fit_a_discrete_row(sample):
    row = np.zeros((), np.int64)
    write_sample(row, sample, spaces.Discrete(9))
    assert row == int(sample)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u2", "i4", "i8", "u8", ">f4", ">i8", "g", "?"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "u4", "?"])
def test_scalars_are_stored_where_they_cast(dtype, kind):
    space = spaces.Box(0, 1, (), np.dtype(dtype))
    row = np.zeros((), dtype)
    for sample in (np.dtype(dtype).type(1), np.dtype(kind).type(1), np.ones((), kind)):
        row[...] = 0
        if np.can_cast(sample.dtype, dtype, "same_kind"):
            write_sample(row, sample, space)
            assert row == 1
        else:
            with pytest.raises(TypeError, match="does not cast safely"):
                write_sample(row, sample, space)


def test_python_numbers_take_the_rows_dtype():
    row = np.zeros((), np.uint8)
    write_sample(row, 200, spaces.Box(0, 255, (), np.uint8))
    assert row == 200
    with pytest.raises(TypeError, match="uint8"):
        write_sample(row, 300, spaces.Box(0, 255, (), np.uint8))


@pytest.mark.parametrize("sample", [np.zeros(3, np.float32), np.float32(0), np.zeros((1, 2), np.float32), [[0.0], [0.0]]])
def test_samples_are_not_broadcast(sample):
    with pytest.raises(ValueError, match=r"sample has shape .*expected shape \(2,\) and dtype float32"):
        write_sample(np.zeros(2, np.float32), sample, spaces.Box(0, 1, (2,)))


@pytest.mark.parametrize("sample, message", [
    ({"a": 1}, "'b' is missing"),
    ((1, 2), "expected a dict"),
    ({"a": 1, "b": np.zeros(3)}, r"sample\['b'\] has shape \(3,\)"),
    ({"a": None, "b": np.zeros(2)}, r"sample\['a'\] is None"),
])
def test_dict_samples_that_do_not_fit(sample, message):
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (2,))})
    row = np.zeros((1,), as_spec(space, "space").dtype)[0, ...]
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        write_sample(row, sample, space)


@pytest.mark.parametrize("sample", [(1,), (1, 1, 1), 3, {0: 1, 1: 1}, "ab"])
def test_tuple_samples_that_do_not_fit(sample):
    space = spaces.Tuple([spaces.Discrete(2)] * 2)
    row = np.zeros((1,), as_spec(space, "space").dtype)[0, ...]
    with pytest.raises(TypeError, match="expected a tuple of 2 parts"):
        write_sample(row, sample, space)


def test_rows_of_another_layout_are_refused():
    box = spaces.Box(0, 1, (2,))
    sample = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="row has shape"):
        write_sample(np.zeros(3, np.float32), sample, box)
    with pytest.raises(ValueError, match="row has shape"):
        write_sample(np.zeros(2, np.float64), sample, box)
    with pytest.raises(ValueError, match="not C-contiguous"):
        write_sample(np.zeros(4, np.float32)[::2], sample, box)
    with pytest.raises(TypeError, match=r"rows\[i, \.\.\.\]"):
        write_sample(np.zeros(3, as_spec(spaces.Tuple([box]), "space").dtype)[0], (sample,), spaces.Tuple([box]))
    with pytest.raises(ValueError, match="row has shape"):
        read_sample(np.zeros(3, np.float32), box)


def test_specs_do_without_gymnasium():
    code = "import sys; sys.modules['gymnasium'] = None; from fastvec.spaces import *; as_spec(Spec((2,)), 'x')\n"
    code += "try: as_spec(3, 'x')\nexcept TypeError: print('refused')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "refused\n"


def test_the_docstrings_examples():
    assert doctest.testmod(fastvec.spaces).failed == 0
