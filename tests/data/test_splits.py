import pytest

from unrolled.data.splits import hold_out, plain, shuffled
from unrolled.errors import DataError, InputError


def test_an_order_is_of_its_seed_alone():
    assert sorted(shuffled(1000, 3)) == list(range(1000))
    assert shuffled(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert shuffled(1000, 1).tolist() != shuffled(1000, 2).tolist()


def test_parts_are_disjoint_whole_in_order_and_share_no_key():
    keys = [(f"a{i % 400}", f"b{i * 7 % 500}") if i % 5 == 0 else (f"c{i}",) for i in range(2000)]
    train, held = hold_out(range(2000), keys, 300)
    assert len(held) == 300
    assert sorted(train + held) == list(range(2000))
    assert train == sorted(train)
    assert held == sorted(held)
    assert not {key for i in train for key in keys[i]} & {key for i in held for key in keys[i]}
    assert (train, held) == hold_out(range(2000), keys, 300)
    assert held != hold_out(range(2000), keys, 300, seed=1)[1]
    assert any(i % 5 == 0 for i in held)


def test_chains_of_shared_keys_stay_together():
    """a-b, c-d, b-c: 0 and 1 share nothing, and yet both stand beside 2."""
    for seed in range(20):
        train, held = hold_out(range(5), ["ab", "cd", "bc", "x", "y"], 2, seed)
        assert (train, held) == ([0, 1, 2], [3, 4])


def test_fewer_are_held_out_where_groups_are_large():
    assert hold_out(range(6), ["ab", "b", "c", "cd", "e", "e"], 3)[1] in ([0, 1], [2, 3], [4, 5])


@pytest.mark.parametrize(("keys", "count"), [("aaaa", 2), ("abcd", 4), ("abcd", 9), ("", 1), ("a", 1)])
def test_a_part_is_never_empty(keys, count):
    with pytest.raises(DataError, match=f"^{count} of {len(keys)} records cannot be held out"):
        hold_out(range(len(keys)), keys, count)


def test_a_count_is_a_number():
    with pytest.raises(InputError, match="count must be a whole number"):
        hold_out(range(3), "abc", 0)


def test_texts_are_alike_but_for_case_blanks_and_punctuation():
    assert plain("Straße, bitte – 3!") == plain("STRASSE bitte 3") == "strassebitte3"
    assert plain("?!") == "?!"
