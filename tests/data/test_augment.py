"""Augmentation is a pure function of (seed, picture, view), and keeps to its stated limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats

from bench.data import augment as module
from bench.data.augment import SpectrogramStrength, augment, uniforms
from bench.records import Family, Policy

FAMILIES: tuple[Family, ...] = get_args(Family)
ALTERING: tuple[Policy, ...] = ("light", "medium", "strong")
PICTURES = np.array([3, 0, 250, 17, 9])

each_family = pytest.mark.parametrize("family", FAMILIES)
each_policy = pytest.mark.parametrize("policy", ALTERING)


def noise(count: int = len(PICTURES), height: int = 33, width: int = 41) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def repeated(image: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(np.broadcast_to(image, (count, *image.shape)).copy())


@pytest.fixture
def threads() -> Iterator[None]:
    """Give the number of torch's threads back as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_family_has_every_policy():
    assert set(get_args(Policy)) == {"none", *ALTERING}
    for strengths in (module._SPECTROGRAM, module._PHOTO):
        assert set(strengths) == set(ALTERING)


# --- a pure function ------------------------------------------------------------------------


@each_family
@each_policy
# 192 x 192 pixels are enough for torch to share the sum of one picture among threads.
@pytest.mark.parametrize(("height", "width"), [(33, 41), (192, 192)])
def test_a_picture_is_the_same_to_the_last_bit_in_any_batch_order_and_number_of_threads(
    family, policy, height, width, threads
):
    images = noise(height=height, width=width)
    how = {"family": family, "policy": policy, "view": 4, "seed": 11}
    torch.set_num_threads(1)
    whole = augment(images, PICTURES, **how)
    for count in (1, 2):
        torch.set_num_threads(count)
        for batch in ([0], [1], [2], [3], [4], [2, 2], [3, 1, 4, 0, 2]):
            alone = augment(images[batch], PICTURES[batch], **how)
            assert torch.equal(alone, whole[batch]), (count, batch)


@each_family
@each_policy
@pytest.mark.parametrize("change", ["view", "seed", "picture"])
def test_another_view_seed_or_picture_gives_another_tensor(family, policy, change):
    images = noise()
    how = {"family": family, "policy": policy, "view": 4, "seed": 11}
    before = augment(images, PICTURES, **how)
    if change == "picture":
        after = augment(images, PICTURES + 1, **how)
    else:
        after = augment(images, PICTURES, **{**how, change: how[change] + 1})
    for first, second in zip(before, after, strict=True):
        assert not torch.equal(first, second)


@each_family
@each_policy
def test_pictures_are_altered_and_the_given_ones_left_alone(family, policy):
    images = noise()
    given = images.clone()
    altered = augment(images, PICTURES, family=family, policy=policy, view=0, seed=0)
    assert altered.shape == (5, 3, 33, 41)
    assert altered.dtype == torch.float32
    assert torch.equal(images, given)
    for before, after in zip(images.permute(0, 3, 1, 2).float(), altered, strict=True):
        assert not torch.equal(before, after)


@each_family
def test_the_policy_none_only_changes_the_layout(family):
    images = noise()
    altered = augment(images, PICTURES, family=family, policy="none", view=7, seed=1)
    assert torch.equal(altered, images.permute(0, 3, 1, 2).float())
    assert altered.dtype == torch.float32


@each_family
@each_policy
def test_values_stay_within_0_and_255(family, policy):
    images = noise(64) // 128 * 255
    for view in range(4):
        altered = augment(images, np.arange(64), family=family, policy=policy, view=view, seed=2)
        assert altered.min() >= 0
        assert altered.max() <= 255
        assert altered.isfinite().all()


# --- spectrograms ---------------------------------------------------------------------------

HEIGHT, WIDTH = 60, 80
# Even levels, so that no row is as bright as the picture's mean, which is odd.
ROWS = (2 * np.arange(HEIGHT)).astype(np.uint8)
MEAN = float(ROWS.mean())


def striped(count: int) -> torch.Tensor:
    """Pictures whose rows (frequencies) are each of one level."""
    return repeated(np.broadcast_to(ROWS[:, None, None], (HEIGHT, WIDTH, 3)), count)


def longest_run(flags: torch.Tensor) -> int:
    run = longest = 0
    for flag in flags.tolist():
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


@each_policy
def test_spectrograms_are_moved_in_time_alone_and_masked_no_more_than_stated(policy):
    count = 100
    strength = module._SPECTROGRAM[policy]
    altered = augment(
        striped(count), np.arange(count), family="spectrogram", policy=policy, view=0, seed=5
    )
    levels = torch.from_numpy(ROWS).float()[:, None].expand(HEIGHT, WIDTH)
    most_columns = int(np.ceil(strength.time_mask * WIDTH))
    most_rows = int(np.ceil(strength.frequency_mask * HEIGHT))
    widest_columns = widest_rows = 0
    for picture in altered:
        assert torch.equal(picture[0], picture[1])
        assert torch.equal(picture[0], picture[2])
        masked = picture[0] == MEAN
        # Outside the masks a row keeps its level, so frequencies were not mixed.
        assert torch.equal(picture[0][~masked], levels[~masked])
        columns, rows = masked.all(dim=0), masked.all(dim=1)
        assert torch.equal(masked, columns[None, :] | rows[:, None])
        assert columns.sum() <= strength.masks * most_columns
        assert rows.sum() <= strength.masks * most_rows
        if strength.masks == 1:
            assert longest_run(columns) == columns.sum()
            assert longest_run(rows) == rows.sum()
        widest_columns = max(widest_columns, int(columns.sum()))
        widest_rows = max(widest_rows, int(rows.sum()))
    assert widest_columns >= most_columns - 1
    assert widest_rows >= most_rows - 1


@each_policy
def test_no_mask_is_wider_than_15_percent_of_a_side(policy):
    strength = module._SPECTROGRAM[policy]
    assert strength.time_mask <= 0.15
    assert strength.frequency_mask <= 0.15


def only(**shares: float) -> SpectrogramStrength:
    nothing = {"roll": 0.0, "crop": 0.0, "time_mask": 0.0, "frequency_mask": 0.0}
    return SpectrogramStrength(**{**nothing, **shares}, masks=0)


def test_a_roll_wraps_round_so_that_nothing_of_a_row_is_lost(monkeypatch):
    monkeypatch.setitem(module._SPECTROGRAM, "light", only(roll=0.5))
    images = noise(20)
    rolled = augment(images, np.arange(20), family="spectrogram", policy="light", view=0, seed=0)
    before = images.permute(0, 3, 1, 2).double().sum(dim=3)
    torch.testing.assert_close(rolled.double().sum(dim=3), before, atol=0.01, rtol=0)
    step = torch.zeros(1, 4, 80, 3, dtype=torch.uint8)
    step[:, :, :10] = 200
    seen = set()
    for view in range(40):
        rolled = augment(
            step, np.array([0]), family="spectrogram", policy="light", view=view, seed=0
        )
        seen.add(int(rolled[0, 0, 0].argmax()) // 20)
    assert seen == {0, 1, 2, 3}


def test_a_crop_stretches_time_by_no_more_than_stated(monkeypatch):
    monkeypatch.setitem(module._SPECTROGRAM, "light", only(crop=0.3))
    ramp = np.broadcast_to((3 * np.arange(WIDTH)).astype(np.uint8)[None, :, None], (4, WIDTH, 3))
    altered = augment(
        repeated(ramp, 200), np.arange(200), family="spectrogram", policy="light", view=0, seed=0
    )
    slopes = altered[:, 0, 0, 1 : WIDTH // 2].diff(dim=1)
    kept = slopes.mean(dim=1) / 3
    torch.testing.assert_close(slopes / 3, kept[:, None].expand_as(slopes), atol=1e-4, rtol=0)
    assert 0.7 <= kept.min() < 0.71
    assert 0.99 < kept.max() <= 1.0


# --- photographs ----------------------------------------------------------------------------


def test_half_of_the_photographs_are_flipped():
    ramp = np.broadcast_to((2 * np.arange(64)).astype(np.uint8)[None, :, None], (64, 64, 3))
    altered = augment(
        repeated(ramp, 400), np.arange(400), family="photo", policy="light", view=0, seed=0
    )
    flipped = altered[:, 0, 32, 5] > altered[:, 0, 32, 58]
    assert 170 <= int(flipped.sum()) <= 230


@each_policy
def test_a_grey_photograph_stays_grey_and_within_the_stated_brightness(policy):
    colour = module._PHOTO[policy].colour
    grey = torch.full((200, 8, 8, 3), 100, dtype=torch.uint8)
    altered = augment(grey, np.arange(200), family="photo", policy=policy, view=0, seed=0)
    torch.testing.assert_close(altered, altered[:, :1, :1, :1].expand_as(altered))
    assert altered.min() >= 100 * (1 - colour) - 0.01
    assert altered.max() <= 100 * (1 + colour) + 0.01
    assert altered.max() - altered.min() > 180 * colour


# --- random numbers -------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "view"), [(0, 0), (0, 1), (1, 0), (2**40, 299)])
def test_the_random_numbers_are_uniform_and_uncorrelated(seed, view):
    u = uniforms(seed, np.arange(20_000), view, 11)
    assert u.shape == (20_000, 11)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    following = np.concatenate([u[:-1], u[1:]], axis=1)
    correlation = np.corrcoef(following, rowvar=False) - np.eye(22)
    assert np.abs(correlation).max() < 0.035  # five standard errors


@pytest.mark.parametrize("change", [{"seed": 1}, {"view": 1}])
def test_the_random_numbers_of_other_seeds_and_views_are_uncorrelated(change):
    how = {"seed": 0, "view": 0, "pictures": np.arange(20_000), "count": 1}
    first, second = uniforms(**how)[:, 0], uniforms(**{**how, **change})[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.035


def test_the_random_numbers_depend_on_neither_the_batch_nor_how_many_are_drawn():
    whole = uniforms(7, PICTURES, 3, 11)
    for row, picture in enumerate(PICTURES):
        assert np.array_equal(uniforms(7, np.array([picture]), 3, 11)[0], whole[row])
    assert np.array_equal(uniforms(7, PICTURES[::-1], 3, 8), whole[::-1, :8])


def test_the_random_numbers_stay_what_they_were():
    """Stored activations are found again by these numbers, on any machine and version."""
    assert uniforms(7, np.array([5]), 3, 2)[0].tolist() == [0.8748850085321721, 0.35224772890669265]
