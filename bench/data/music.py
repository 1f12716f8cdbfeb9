"""Short invented pieces of music in six styles, synthesised with numpy.

A style is a set of habits: metre, tempo, harmony, patterns and timbres. The habits overlap on
purpose, layers are now and then borrowed from another style, and every piece is mastered with
its own tone, room and noise, so that no single number (loudness, tempo, brightness, presence of
drums) tells the styles apart; rhythm and texture together do.

Pattern language, a character a sixteenth note, one bar long ("." goes on with what sounds):
    bass     r root, t third, f fifth, s seventh, o octave
    chords   x the whole chord, 0-3 one note of it (3: the root an octave up)
    melody, kick, snare, hat   x a note, o a soft one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

from bench.data.spectrograms import SAMPLE_RATE

FloatArray = npt.NDArray[np.float64]
T = TypeVar("T")

MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
DORIAN = (0, 2, 3, 5, 7, 9, 10)
MIXOLYDIAN = (0, 2, 4, 5, 7, 9, 10)

BORROW_CHANCE = 0.06  # that a layer takes its pattern from another style
LAYER_CHANCE = 0.9  # that a layer plays in a section
SECTION_BARS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The habits of one style; pairs are ranges (low, high), tuples are equally likely options."""

    name: str
    steps_per_bar: int  # sixteenths: 16 in four-four time, 12 in three-four
    tempo_bpm: tuple[float, float]
    swing: tuple[float, float]  # delay of off-beat eighths as a part of an eighth
    gate: tuple[float, float]  # sounding part of a note's length
    drums_chance: float
    scales: tuple[tuple[int, ...], ...]
    progressions: tuple[tuple[int, ...], ...]  # scale degree of each bar's chord
    voices: tuple[str, ...]
    bass: tuple[str, ...]
    chords: tuple[str, ...]
    melody: tuple[str, ...]
    drums: tuple[tuple[str, str, str], ...]  # kick, snare, hat


STYLES = (
    Style(
        name="ambient",
        steps_per_bar=16,
        tempo_bpm=(66, 120),
        swing=(0.0, 0.1),
        gate=(0.95, 1.3),
        drums_chance=0.35,
        scales=(MAJOR, MINOR, DORIAN),
        progressions=((0, 5, 3, 4), (0, 0, 3, 3), (0, 2, 5, 3), (5, 3, 0, 4)),
        voices=("pad", "pad", "pad", "bell", "organ"),
        bass=("r...............", "r.......f.......", "r...........o..."),
        chords=("x...............", "x.......x.......", "0...1...2...3...", "x.....1...2....."),
        melody=("x.......x.......", "x...........x...", "....x.......x.x.", "x.....x........."),
        drums=(
            ("x...............", "........o.......", "o...o...o...o..."),
            ("x.......x.......", "................", "..o...o...o...o."),
        ),
    ),
    Style(
        name="blues",
        steps_per_bar=16,
        tempo_bpm=(76, 140),
        swing=(0.2, 0.36),
        gate=(0.6, 1.0),
        drums_chance=0.75,
        scales=(MIXOLYDIAN, MIXOLYDIAN, DORIAN),
        progressions=(
            (0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4),
            (0, 3, 0, 0, 3, 3, 0, 0, 4, 3, 0, 0),
            (0, 0, 3, 0, 4, 3, 0, 4),
        ),
        voices=("pluck", "pluck", "pluck", "organ"),
        bass=("r...t...f...s...", "r.r.f.f.s.s.f.f.", "r...f...o...f...", "r...t...f...t..."),
        chords=("....x.......x...", "x.....x.....x...", "x.x...x.x.......", "..x...x...x...x."),
        melody=("x.x...x.x.x.....", "..x.x.x.........", "x...x.x...x.x...", "....x.x.x.x...x."),
        drums=(
            ("x.......x.......", "....x.......x...", "x...x.x.x...x.x."),
            ("x.....x.x.......", "....x.......x.o.", "x.x.x.x.x.x.x.x."),
            ("x...o...x...o...", "....o.......o...", "x...x.x.x...x.x."),
        ),
    ),
    Style(
        name="chiptune",
        steps_per_bar=16,
        tempo_bpm=(96, 165),
        swing=(0.0, 0.15),
        gate=(0.45, 0.9),
        drums_chance=0.7,
        scales=(MAJOR, MINOR, MIXOLYDIAN),
        progressions=((0, 4, 5, 3), (0, 3, 4, 0), (5, 3, 0, 4), (0, 6, 5, 4)),
        voices=("reed", "reed", "reed", "reed", "bell"),
        bass=("r.o.r.o.r.o.r.o.", "r.r.o.r.r.r.o.r.", "r...r.o.f...f.o."),
        chords=("0123012301230123", "0120120120120123", "0.1.2.3.2.1.0.1.", "0213021302130213"),
        melody=("x.x.x.xxx.x.x...", "x..x..x.x..x..x.", "xxx.x.x.xxx.x.x.", "x...x.x.x.xxx.x."),
        drums=(
            ("x...x...x...x...", "....x.......x...", "x.x.x.x.x.x.x.x."),
            ("x.....x.x.......", "....x.......x.xx", "..x...x...x...x."),
        ),
    ),
    Style(
        name="march",
        steps_per_bar=16,
        tempo_bpm=(88, 136),
        swing=(0.0, 0.12),
        gate=(0.3, 0.65),
        drums_chance=0.8,
        scales=(MAJOR, MAJOR, MINOR),
        progressions=((0, 0, 4, 4, 0, 3, 4, 0), (0, 3, 4, 0), (0, 4, 0, 4, 3, 0, 4, 0)),
        voices=("organ", "organ", "organ", "reed"),
        bass=("r...f...r...f...", "r...f...o...f...", "r...r...f...f..."),
        chords=("..x...x...x...x.", "..x...x...x.x.x.", "..x...x.x.x...x."),
        melody=("x..xx...x..xx...", "x...x..xx...x...", "x..xx..xx..xx...", "x..xx.x.x......."),
        drums=(
            ("x.......x.......", "..x...x...x.xxx.", "x.......x......."),
            ("x...x...x...x...", "x.ooxooox.ooxxxx", "................"),
            ("x.......x.......", "....x..xx...x.xx", "....x.......x..."),
        ),
    ),
    Style(
        name="techno",
        steps_per_bar=16,
        tempo_bpm=(108, 150),
        swing=(0.0, 0.1),
        gate=(0.3, 0.9),
        drums_chance=0.95,
        scales=(MINOR, MINOR, DORIAN),
        progressions=((0,), (0, 0, 0, 6), (0, 0, 5, 5), (0, 0, 3, 3)),
        voices=("reed", "bell", "bell", "pad"),
        bass=("..r...r...r...r.", "r.rr..r.r.rr..o.", "..rr..rr..rr..ro", "rrrrrrrrrrrrrrrr"),
        chords=("x..x..x...x..x..", "..x.....x..x....", "x...............", "0.0.2.0.0.3.0.1."),
        melody=("x..x..x.........", "..x...x...x...x.", "x...............", "x..x..x..x..x.x."),
        drums=(
            ("x...x...x...x...", "....x.......x...", "..x...x...x...x."),
            ("x...x...x...x...", "................", "x.x.x.x.x.x.x.x."),
            ("x...x...x...x.x.", "....x..o....x...", "xoxoxoxoxoxoxoxo"),
        ),
    ),
    Style(
        name="waltz",
        steps_per_bar=12,
        tempo_bpm=(86, 160),
        swing=(0.0, 0.15),
        gate=(0.7, 1.1),
        drums_chance=0.55,
        scales=(MAJOR, MAJOR, MINOR),
        progressions=((0, 0, 4, 4, 4, 4, 0, 0), (0, 3, 4, 0), (0, 5, 3, 4), (0, 5, 1, 4)),
        voices=("organ", "pluck", "pluck", "pad"),
        bass=("r...........", "r.......f...", "r...f...f..."),
        chords=("....x...x...", "....x...x.x.", "..0.1.2.1.2."),
        melody=("x.......x...", "x...x...x...", "x.....x.x.x.", "x..........."),
        drums=(
            ("x...........", "....o...o...", "....x...x..."),
            ("x...........", "....x...x...", "x...x...x..."),
            ("x.......o...", "............", "....x...x.x."),
        ),
    ),
)


def compose(style: Style, duration_s: float, rng: np.random.Generator) -> FloatArray:
    """Return one piece in `style` as mono sound (T,) at 22,050 Hz; `rng` draws everything."""
    plan = _draw_plan(style, duration_s, rng)
    buffer = np.zeros(round((plan.duration_s + 4.0) * SAMPLE_RATE))
    mixed = np.zeros_like(buffer)
    for layer in (_bass, _chords, _melody, _drums):
        buffer[:] = 0.0
        layer(plan, buffer, rng)
        loudness = float(np.sqrt(np.mean(buffer**2)))
        if loudness > 0.0:
            mixed += buffer * (10.0 ** (rng.uniform(-9.0, 0.0) / 20.0) / loudness)
    start = rng.integers(round(plan.bar_s * SAMPLE_RATE))
    return _master(mixed[start : start + round(duration_s * SAMPLE_RATE)], rng)


# --- what is played -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A piece's choices; `playing` (4, sections) says which layers sound in which section."""

    style: Style
    sources: tuple[Style, Style, Style, Style]  # where bass, chords, melody and drums come from
    step_s: float
    bars: int
    swing: float
    gate: float
    jitter_s: float
    tonic: int  # MIDI note
    scale: tuple[int, ...]
    progression: tuple[int, ...]
    playing: npt.NDArray[np.bool_]

    @property
    def bar_s(self) -> float:
        return self.step_s * self.style.steps_per_bar

    @property
    def duration_s(self) -> float:
        return self.bar_s * self.bars

    def degree(self, bar: int) -> int:
        return self.progression[bar % len(self.progression)]

    def note(self, degree: int) -> int:
        """MIDI note of a scale degree, counted through the octaves from the tonic."""
        octave, index = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[index]

    def pattern(self, text: str) -> str:
        """Fit a pattern of another metre into this one's bar."""
        steps = self.style.steps_per_bar
        return (text * 2)[:steps]

    def onset_s(self, bar: int, step: int) -> float:
        late = self.swing if step % 4 == 2 else 0.0
        return (bar * self.style.steps_per_bar + step + 2.0 * late) * self.step_s


def _draw_plan(style: Style, duration_s: float, rng: np.random.Generator) -> _Plan:
    step_s = 15.0 / rng.uniform(*style.tempo_bpm)
    bars = 1 + int(np.ceil(duration_s / (step_s * style.steps_per_bar)))
    sections = -(-bars // SECTION_BARS)
    playing = rng.random((4, sections)) < LAYER_CHANCE
    # Somebody always plays: the chords stand in where every pitched layer is silent.
    playing[1] |= ~playing[:3].any(axis=0)
    playing[3] &= rng.random() < style.drums_chance
    bass, chords, melody, drums = (
        _pick(rng, STYLES) if rng.random() < BORROW_CHANCE else style for _ in range(4)
    )
    return _Plan(
        style=style,
        sources=(bass, chords, melody, drums),
        step_s=step_s,
        bars=bars,
        swing=rng.uniform(*style.swing),
        gate=rng.uniform(*style.gate),
        jitter_s=rng.uniform(0.0, 0.01),
        tonic=int(rng.integers(54, 66)),
        scale=_pick(rng, style.scales),
        progression=_pick(rng, style.progressions),
        playing=playing,
    )


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _notes(pattern: str) -> list[tuple[int, int, str]]:
    """Return (step, steps until the next note, character) of each note of a bar."""
    steps = [step for step, mark in enumerate(pattern) if mark != "."]
    return [(step, end - step, pattern[step]) for step, end in pairwise([*steps, len(pattern)])]


def _bass(plan: _Plan, buffer: FloatArray, rng: np.random.Generator) -> None:
    source = plan.sources[0]
    player = _Player(plan, _draw_voice(source, rng), rng)
    pattern = plan.pattern(_pick(rng, source.bass))
    octave = -12 * int(rng.integers(1, 3))
    for bar in _bars_playing(plan, 0):
        degree = plan.degree(bar)
        for step, length, mark in _notes(pattern):
            rise = {"r": 0, "t": 2, "f": 4, "s": 6, "o": len(plan.scale)}[mark]
            player.play(buffer, bar, step, length, plan.note(degree + rise) + octave)


def _chords(plan: _Plan, buffer: FloatArray, rng: np.random.Generator) -> None:
    source = plan.sources[1]
    player = _Player(plan, _draw_voice(source, rng), rng)
    pattern = plan.pattern(_pick(rng, source.chords))
    octave = 12 * int(rng.integers(-1, 2))
    for bar in _bars_playing(plan, 1):
        chord = [plan.note(plan.degree(bar) + rise) + octave for rise in (0, 2, 4)]
        for step, length, mark in _notes(pattern):
            sounding = chord if mark == "x" else [[*chord, chord[0] + 12][int(mark)]]
            for note in sounding:
                player.play(buffer, bar, step, length, note)


def _melody(plan: _Plan, buffer: FloatArray, rng: np.random.Generator) -> None:
    source = plan.sources[2]
    player = _Player(plan, _draw_voice(source, rng), rng)
    patterns = [plan.pattern(_pick(rng, source.melody)) for _ in range(SECTION_BARS)]
    motif = np.clip(np.cumsum(rng.integers(-2, 3, size=64)), -4, 9)
    octave = 12 * int(rng.integers(0, 2))
    for bar in _bars_playing(plan, 2):
        within = bar % SECTION_BARS
        for index, (step, length, _) in enumerate(_notes(patterns[within])):
            degree = plan.degree(bar) + int(motif[32 * within + index])
            player.play(buffer, bar, step, length, plan.note(degree) + octave)


def _drums(plan: _Plan, buffer: FloatArray, rng: np.random.Generator) -> None:
    patterns = _pick(rng, plan.sources[3].drums)
    for pattern, strike in zip(patterns, (_kick, _snare, _hat), strict=True):
        sound = strike(rng) * rng.uniform(0.4, 1.0)
        for bar in _bars_playing(plan, 3):
            for step, _, mark in _notes(plan.pattern(pattern)):
                velocity = (0.4 if mark == "o" else 1.0) * rng.uniform(0.7, 1.0)
                start_s = plan.onset_s(bar, step) + abs(rng.normal(0.0, plan.jitter_s))
                _add(buffer, start_s, sound * velocity)


def _bars_playing(plan: _Plan, layer: int) -> list[int]:
    return [bar for bar in range(plan.bars) if plan.playing[layer, bar // SECTION_BARS]]


def _add(buffer: FloatArray, start_s: float, sound: FloatArray) -> None:
    start = round(start_s * SAMPLE_RATE)
    end = min(buffer.size, start + sound.size)
    buffer[start:end] += sound[: end - start]


# --- how it sounds --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Voice:
    """A timbre; `colour` in [0, 1] is what varies within a kind, from mellow to bright."""

    tone: Callable[[float, int, float], FloatArray]  # frequency in hertz, samples, colour
    colour: float
    attack_s: float
    decay_per_s: float


class _Player:
    """One instrument of a piece; a note that comes again is not synthesised again."""

    def __init__(self, plan: _Plan, voice: _Voice, rng: np.random.Generator) -> None:
        self._plan = plan
        self._voice = voice
        self._rng = rng
        self._notes: dict[tuple[int, int], FloatArray] = {}

    def play(self, buffer: FloatArray, bar: int, step: int, length: int, note: int) -> None:
        """Add a note of `length` steps at a step of a bar, a little late and uneven."""
        plan = self._plan
        key = (note, length)
        if key not in self._notes:
            samples = round(length * plan.step_s * plan.gate * SAMPLE_RATE)
            self._notes[key] = _synthesise(self._voice, note, samples)
        start_s = plan.onset_s(bar, step) + abs(self._rng.normal(0.0, plan.jitter_s))
        _add(buffer, start_s, self._notes[key] * self._rng.uniform(0.6, 1.0))


def _draw_voice(style: Style, rng: np.random.Generator) -> _Voice:
    kind = _pick(rng, style.voices)
    tone, attack_s, decay_per_s = _VOICES[kind]
    return _Voice(
        tone=tone,
        colour=rng.uniform(),
        attack_s=rng.uniform(*attack_s),
        decay_per_s=rng.uniform(*decay_per_s),
    )


def _synthesise(voice: _Voice, note: int, samples: int) -> FloatArray:
    frequency_hz = 440.0 * 2.0 ** ((note - 69) / 12.0)
    time_s = np.arange(samples) / SAMPLE_RATE
    attack = np.minimum(1.0, time_s / voice.attack_s)
    release = np.minimum(1.0, time_s[::-1] / 0.02)
    envelope = attack * release * np.exp(-voice.decay_per_s * time_s)
    return np.asarray(voice.tone(frequency_hz, samples, voice.colour) * envelope)


def _cycle(amplitudes: FloatArray, frequency_hz: float, samples: int) -> FloatArray:
    """Play a wave table of the given harmonics, leaving out those above 10 kHz."""
    heard = amplitudes[: max(1, int(10_000.0 / frequency_hz))]
    spectrum = np.zeros(1025, dtype=np.complex128)
    spectrum[1 : heard.size + 1] = -0.5j * 2048 * heard
    table = fft.irfft(spectrum)
    phase = np.arange(samples) * (frequency_hz * 2048 / SAMPLE_RATE)
    return np.asarray(table[phase.astype(np.int64) & 2047])


def _organ(frequency_hz: float, samples: int, colour: float) -> FloatArray:
    harmonics = np.arange(1.0, 41.0)
    return _cycle(harmonics ** (colour - 1.8) * 0.88**harmonics, frequency_hz, samples)


def _reed(frequency_hz: float, samples: int, colour: float) -> FloatArray:
    """A pulse wave, the duty cycle of which the colour sets (a half: a square wave)."""
    harmonics = np.arange(1.0, 41.0)
    duty = 0.5 - 0.35 * colour
    return _cycle(np.sin(np.pi * harmonics * duty) / harmonics, frequency_hz, samples)


def _pad(frequency_hz: float, samples: int, colour: float) -> FloatArray:
    harmonics = np.arange(1.0, 61.0)
    amplitudes = harmonics ** (0.8 * colour - 1.8) * 0.93**harmonics
    cents = (-9.0, 0.0, 7.0)
    detuned = [_cycle(amplitudes, frequency_hz * 2.0 ** (cent / 1200.0), samples) for cent in cents]
    return np.asarray(sum(detuned))


def _bell(frequency_hz: float, samples: int, colour: float) -> FloatArray:
    """Two-operator frequency modulation (Chowning, 1973), its index dying away."""
    time_s = np.arange(samples) / SAMPLE_RATE
    ratio = (1.0, 2.0, 3.5, 1.4)[int(colour * 3.999)]
    index = (0.8 + 2.0 * colour) * np.exp(-3.0 * time_s)
    modulator = np.sin(2.0 * np.pi * ratio * frequency_hz * time_s)
    return np.asarray(np.sin(2.0 * np.pi * frequency_hz * time_s + index * modulator))


def _pluck(frequency_hz: float, samples: int, colour: float) -> FloatArray:
    """A plucked string (Karplus and Strong, 1983) as a recursive filter over a burst of noise."""
    period = max(2, round(SAMPLE_RATE / frequency_hz - 0.5))
    burst = np.random.default_rng(period).uniform(-1.0, 1.0, period)
    softness = 0.85 * (1.0 - colour)
    excitation = np.zeros(samples)
    shaped = signal.lfilter([1.0 - softness], [1.0, -softness], burst)
    excitation[:period] = shaped[:samples]
    feedback = np.zeros(period + 2)
    feedback[0], feedback[period:] = 1.0, -0.498
    return np.asarray(signal.lfilter([1.0], feedback, excitation)) * 3.0


# Tone, range of the attack in seconds, range of the decay per second.
_VOICES: dict[
    str,
    tuple[Callable[[float, int, float], FloatArray], tuple[float, float], tuple[float, float]],
] = {
    "organ": (_organ, (0.005, 0.06), (0.0, 4.0)),
    "reed": (_reed, (0.002, 0.03), (0.0, 5.0)),
    "pad": (_pad, (0.05, 0.5), (0.0, 0.8)),
    "bell": (_bell, (0.002, 0.02), (1.0, 5.0)),
    "pluck": (_pluck, (0.001, 0.005), (0.0, 2.0)),
}


def _kick(rng: np.random.Generator) -> FloatArray:
    time_s = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    drop_hz = rng.uniform(60.0, 250.0)
    end_hz = rng.uniform(42.0, 70.0)
    rate = rng.uniform(20.0, 45.0)
    cycles = end_hz * time_s + drop_hz / rate * (1.0 - np.exp(-rate * time_s))
    return np.asarray(np.sin(2.0 * np.pi * cycles) * np.exp(-rng.uniform(9.0, 22.0) * time_s))


def _snare(rng: np.random.Generator) -> FloatArray:
    time_s = np.arange(round(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    body = np.sin(2.0 * np.pi * rng.uniform(150.0, 260.0) * time_s)
    noise = rng.normal(0.0, 0.6, time_s.size)
    mix = rng.uniform(0.2, 0.7)
    shape = np.exp(-rng.uniform(14.0, 40.0) * time_s)
    return np.asarray((mix * body + (1.0 - mix) * noise) * shape)


def _hat(rng: np.random.Generator) -> FloatArray:
    time_s = np.arange(round(0.15 * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.normal(0.0, 0.25, time_s.size)
    bright = signal.lfilter([1.0, -rng.uniform(0.6, 1.0)], [1.0], noise)
    return np.asarray(bright * np.exp(-rng.uniform(30.0, 90.0) * time_s))


def _master(dry: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Give a piece its own room, tone, upper limit and background noise, and peak at 0.9."""
    size = fft.next_fast_len(dry.size + SAMPLE_RATE, real=True)
    frequencies_hz = np.maximum(fft.rfftfreq(size, 1.0 / SAMPLE_RATE), 20.0)
    tilt_db = rng.uniform(-3.5, 2.0) * np.log2(frequencies_hz / 1000.0)
    limit_hz = np.exp(rng.uniform(np.log(4500.0), np.log(11_000.0)))
    gain = 10.0 ** (tilt_db / 20.0) / np.sqrt(1.0 + (frequencies_hz / limit_hz) ** 8)
    room_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    room = rng.normal(size=room_s.size) * np.exp(-room_s * rng.uniform(4.0, 30.0))
    room *= rng.uniform(0.0, 0.7) / np.sqrt(np.sum(room**2))
    room[0] += 1.0
    wet = fft.irfft(fft.rfft(dry, size) * fft.rfft(room, size) * gain, size)[: dry.size]
    wet *= 0.9 / max(float(np.abs(wet).max()), 1e-9)
    hiss = signal.lfilter([1.0], [1.0, -rng.uniform(0.0, 0.97)], rng.normal(size=dry.size))
    level = 10.0 ** (rng.uniform(-70.0, -42.0) / 20.0)
    return np.asarray(wet + hiss * (level / float(hiss.std())))
