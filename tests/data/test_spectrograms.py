"""The rules of the spectrogram pictures: the mel scale, the decibels, GTZAN's layout."""

import numpy as np
import pytest
from matplotlib import colormaps

from bench.data.spectrograms import (
    BANDS,
    HOP,
    N_FFT,
    SAMPLE_RATE,
    SPECTROGRAM_BOX,
    hz_to_mel,
    mel_filters,
    mel_spectrogram,
    mel_to_hz,
    render_gtzan_picture,
    staged_folder,
)
from bench.errors import DataError


def tone(frequency_hz: float, seconds: float = 1.0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return 0.5 * np.sin(2 * np.pi * frequency_hz * time_s)


@pytest.mark.parametrize(
    ("hz", "mel"),
    [(0.0, 0.0), (200 / 3, 1.0), (500.0, 7.5), (1000.0, 15.0), (6400.0, 42.0), (40_960.0, 69.0)],
)
def test_the_mel_scale_is_slaneys(hz, mel):
    assert hz_to_mel(np.array(hz)) == pytest.approx(mel)
    assert mel_to_hz(np.array(mel)) == pytest.approx(hz)


def test_every_mel_filter_has_area_one():
    assert mel_filters().shape == (BANDS, N_FFT // 2 + 1)
    areas = mel_filters().sum(axis=1) * SAMPLE_RATE / N_FFT
    np.testing.assert_allclose(areas, 1.0, atol=0.2)
    np.testing.assert_allclose(areas[BANDS // 2 :], 1.0, atol=0.01)


@pytest.mark.parametrize("sample_rate", [SAMPLE_RATE, 44_100, 48_000, 8_000])
@pytest.mark.parametrize("frequency_hz", [220.0, 1000.0, 3520.0])
def test_a_tone_peaks_in_the_band_around_it_at_any_sample_rate(frequency_hz, sample_rate):
    spectrogram_db = mel_spectrogram(tone(frequency_hz, sample_rate=sample_rate), sample_rate)
    centres_hz = mel_to_hz(np.linspace(0, hz_to_mel(np.array(SAMPLE_RATE / 2)), BANDS + 2))[1:-1]
    loudest = int(spectrogram_db.mean(axis=1).argmax())
    assert abs(loudest - np.abs(centres_hz - frequency_hz).argmin()) <= 1
    assert spectrogram_db.shape == (BANDS, 1 + SAMPLE_RATE // HOP)


@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e4])
def test_decibels_are_relative_to_the_loudest_cell_and_span_80(gain):
    spectrogram_db = mel_spectrogram(gain * tone(440.0), SAMPLE_RATE)
    assert spectrogram_db.max() == 0.0
    assert spectrogram_db.min() == pytest.approx(-80.0)
    np.testing.assert_allclose(spectrogram_db, mel_spectrogram(tone(440.0), SAMPLE_RATE), atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 700, N_FFT, 5000])
def test_silence_of_any_length_is_the_bottom_of_the_range(samples):
    spectrogram_db = mel_spectrogram(np.zeros(samples), SAMPLE_RATE)
    assert spectrogram_db.shape == (BANDS, 1 + samples // HOP)
    assert (spectrogram_db == -80.0).all()


def test_sound_that_is_not_finite_or_not_mono_is_refused():
    with pytest.raises(DataError, match="NaN or infinity"):
        mel_spectrogram(np.array([0.0, np.nan]), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"\(T,\)"):
        mel_spectrogram(np.zeros((2, 100)), SAMPLE_RATE)


def test_a_picture_has_gtzans_size_and_white_frame():
    picture = render_gtzan_picture(np.full((BANDS, 50), -80.0))
    assert (picture.mode, picture.size) == ("RGB", (432, 288))
    pixels = np.asarray(picture).copy()
    left, top, right, bottom = SPECTROGRAM_BOX
    assert (pixels[top:bottom, left:right] == pixels[top, left]).all()
    assert pixels[top, left].max() < 10
    pixels[top:bottom, left:right] = 255
    assert (pixels == 255).all()


def test_time_runs_to_the_right_and_frequency_upwards():
    spectrogram_db = np.full((BANDS, 100), -80.0)
    spectrogram_db[-32:, :25] = 0.0  # a high sound at the beginning
    inside = np.asarray(render_gtzan_picture(spectrogram_db).convert("L").crop(SPECTROGRAM_BOX))
    bright_rows, bright_columns = np.nonzero(inside > 128)
    height, width = inside.shape
    assert bright_rows.max() < height * 0.27
    assert bright_columns.max() < width * 0.27


def test_every_colour_is_one_of_magma():
    spectrogram_db = np.random.default_rng(0).uniform(-80.0, 0.0, (BANDS, 400))
    inside = np.asarray(render_gtzan_picture(spectrogram_db).crop(SPECTROGRAM_BOX))
    magma = {tuple(row[:3]) for row in colormaps["magma"](np.arange(256), bytes=True).tolist()}
    assert {tuple(pixel) for pixel in inside.reshape(-1, 3).tolist()} <= magma


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), staged_folder(target) as staging:
        (staging / "half").touch()
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    target.mkdir()
    with staged_folder(target) as staging:
        (staging / "whole").touch()
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_folder_that_holds_something_is_never_replaced(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(DataError, match="choose another folder"), staged_folder(tmp_path):
        pytest.fail("the block must not run")
    assert (tmp_path / "precious").exists()
