"""Which pictures belong together, and so never stand on both sides of a split.

Rules of several kinds (a file, a pattern in the names, identical bytes, an audit) tie pictures;
what is connected by any of them is one group.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.data.names import PictureNames
from bench.data.sources import read_rows
from bench.errors import DataError
from bench.records import CONFLICT_MEANING, Dataset, TiedBy, describe_conflicts
from bench.words import counted, some

OWN_GROUPS = "the data set's groups"
COPIES = "identical files"
PATTERN = "--group-pattern"

UNGROUPED_REMEDY = (
    "give each its group in the file of groups (path,group); a group of its own says that a "
    "picture belongs to no other"
)

_NAMED = 3  # names of joined groups within the joint name

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tie:
    """Two pictures (indices into `Dataset.pictures`) that stay together, and what says so.

    `group` is what the rule calls the set that they belong to; a tie without one says that both
    show the same thing. A picture that is tied to itself gets that name and no companion.
    """

    kind: str
    a: int
    b: int
    group: str | None = None


def load_groups(dataset: Dataset, *, file: Path | None, pattern: str | None) -> Dataset:
    """Join the groups that a data set has with those of a CSV file and of a pattern.

    Raises:
        DataError: the file or the pattern does not fit the pictures.
    """
    ties: list[Tie] = []
    if file is not None:
        ties += ties_of_file(dataset, file.expanduser())
    if pattern is not None:
        ties += ties_of_pattern(dataset, pattern)
    return join(dataset, ties)


def check_groups_file(file: Path) -> None:
    """Refuse a `--groups` that is not there.

    Raises:
        DataError: it is not.
    """
    if not file.is_file():
        raise DataError(f"--groups {file}: no such file; give a CSV with the columns path,group")


def ties_of_file(dataset: Dataset, file: Path) -> tuple[Tie, ...]:
    """Read a CSV file `path,group`; a picture in several rows belongs to each of their groups.

    Paths are relative to the data set's folder; GTZAN's own names (`blues.00029`) do as well.

    Raises:
        DataError: the file is missing or malformed, or names pictures that are not there.
    """
    check_groups_file(file)
    names = PictureNames(dataset)
    members: dict[str, list[int]] = defaultdict(list)
    strangers = []
    for _, row in read_rows(file, ("path", "group")):
        name, group = row["path"] or "", row["group"]
        index = names.find(name)
        if index is None and not names.is_broken(name):
            strangers.append(name)
        elif index is not None and group:
            members[group].append(index)
    if strangers:
        raise DataError(
            f"--groups {file}: {counted(len(strangers), 'of its files is', 'of its files are')} "
            f"not in {dataset.root}: "
            f"{some(strangers)}; mend the paths (relative to that folder) or take the rows out"
        )
    return ties_of(f"--groups {file.name}", members)


def parse_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a `--group-pattern`.

    Raises:
        DataError: it is no regular expression, or captures nothing.
    """
    option = f"{PATTERN} {shlex.quote(pattern)}"  # as one would type it
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{option} is no regular expression: {error}") from error
    if not regex.groups:
        raise DataError(
            f"{option} has no capture group: put parentheses around the part of the path that "
            r"names the group, such as '([^/]+)-\d+\.png'"
        )
    return regex


def ties_of_pattern(dataset: Dataset, pattern: str) -> tuple[Tie, ...]:
    """Take each picture's group from its path: what the first capture group of a regex finds.

    Raises:
        DataError: the regex is malformed, captures nothing, or does not match every path.
    """
    paths = [picture.path for picture in dataset.pictures]
    otherwise = ", or list the groups in a file for --groups"
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups_in_paths(paths, pattern, "picture", otherwise)):
        members[group].append(index)
    return ties_of(PATTERN, members)


def groups_in_paths(
    paths: Sequence[str], pattern: str, noun: str, otherwise: str = ""
) -> tuple[str, ...]:
    """Find the group that each path names; a message calls the paths' owners `noun`.

    Raises:
        DataError: the regex is malformed, captures nothing, or does not match every path; the
            remedy is to widen it, or what `otherwise` adds to that.
    """
    regex = parse_pattern(pattern)
    found = [regex.search(path) for path in paths]
    groups = [match[1] if match else None for match in found]
    unmatched = [path for path, group in zip(paths, groups, strict=True) if not group]
    if unmatched:
        raise DataError(
            f"{PATTERN} {shlex.quote(pattern)} must name a group for every {noun}, and does not "
            f"for {len(unmatched):,} of {len(paths):,}: {some(unmatched)}; widen the pattern"
            f"{otherwise}"
        )
    return tuple(group for group in groups if group)


def ties_of(kind: str, members: Mapping[str, Sequence[int]]) -> tuple[Tie, ...]:
    """Tie the members of each named group to its first."""
    return tuple(
        Tie(kind, indices[0], index, group)
        for group, indices in members.items()
        for index in indices
    )


def join(dataset: Dataset, ties: Iterable[Tie]) -> Dataset:
    """Give pictures that are connected by `ties`, groups or identical bytes one common group.

    The data set that comes back also says how many pictures each rule tied (`Dataset.tied`), and
    which of those that show the same thing carry different labels (`Dataset.conflicts`). Copies
    that nothing else ties keep no group, because their bytes say it.
    """
    ties, own, copies = tuple(ties), _own_ties(dataset), _copy_ties(dataset)
    before = dataset.tied or _count([*own, *copies])
    conflicts = {*dataset.conflicts, *_conflicts(dataset, [*copies, *ties])}
    numbers = _components(len(dataset.pictures), [*own, *copies, *ties])
    names = _names_of_sets(dataset, numbers, ties)
    return replace(
        dataset,
        pictures=tuple(
            replace(picture, group=names.get(int(number)))
            for picture, number in zip(dataset.pictures, numbers, strict=True)
        ),
        tied=(*before, *_count(ties)),
        conflicts=tuple(sorted(conflicts)),
    )


def group_numbers(dataset: Dataset) -> Indices:
    """Number the sets of pictures that stay together, by group and identical bytes: (N,)."""
    return _components(len(dataset.pictures), [*_own_ties(dataset), *_copy_ties(dataset)])


def is_tied(dataset: Dataset) -> bool:
    """Whether any picture stays together with another one."""
    numbers = group_numbers(dataset)
    return len(np.unique(numbers)) < len(numbers)


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """What a person should know of a joined data set's groups, a line each."""
    said = [str(tied) for tied in dataset.tied]
    labels: dict[str, set[str]] = defaultdict(set)
    for picture in dataset.pictures:
        if picture.group is not None:
            labels[picture.group].add(dataset.classes[picture.label])
    contradicting = {dataset.pictures[index].group for pair in dataset.conflicts for index in pair}
    mixed = sorted(
        group for group, names in labels.items() if len(names) > 1 and group not in contradicting
    )
    if mixed:
        said.append(
            f"{counted(len(mixed), 'group holds', 'groups hold')} pictures of several classes, "
            f"such as {mixed[0]!r} ({', '.join(sorted(labels[mixed[0]]))}): right where a source "
            "has several, otherwise a wrong label"
        )
    return tuple(said)


def conflict_remark(dataset: Dataset) -> tuple[str, ...]:
    """What a person should know of found duplicates whose labels differ: a line, or nothing."""
    if not dataset.conflicts:
        return ()
    return (
        f"{describe_conflicts(dataset, 'different labels')}: {CONFLICT_MEANING}; "
        "`bench data check` shows them",
    )


def _own_ties(dataset: Dataset) -> tuple[Tie, ...]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(dataset.pictures):
        if picture.group is not None:
            members[picture.group].append(index)
    return ties_of(OWN_GROUPS, members)


def _copy_ties(dataset: Dataset) -> tuple[Tie, ...]:
    first: dict[str, int] = {}
    ties = []
    for index, picture in enumerate(dataset.pictures):
        original = first.setdefault(picture.sha256, index)
        if original != index:
            ties.append(Tie(COPIES, original, index))
    return tuple(ties)


def _conflicts(dataset: Dataset, ties: Iterable[Tie]) -> set[tuple[int, int]]:
    """The pairs that show the same thing and carry different labels."""
    labels = dataset.labels
    return {
        (min(tie.a, tie.b), max(tie.a, tie.b))
        for tie in ties
        if tie.group is None and labels[tie.a] != labels[tie.b]
    }


def _components(count: int, ties: Sequence[Tie]) -> Indices:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = [tie.a for tie in ties], [tie.b for tie in ties]
    graph = coo_array((np.ones(len(ties)), (rows, columns)), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers, dtype=np.int64)


def _count(ties: Sequence[Tie]) -> tuple[TiedBy, ...]:
    """Count the pictures that each rule ties to another one, and the sets that they make."""
    by_kind: dict[str, list[Tie]] = defaultdict(list)
    for tie in ties:
        if tie.a != tie.b:
            by_kind[tie.kind].append(tie)
    counts = []
    for kind, of_kind in by_kind.items():
        tied = sorted({index for tie in of_kind for index in (tie.a, tie.b)})
        numbers = _components(tied[-1] + 1, of_kind)
        sets = len(np.unique(numbers[tied]))
        found = all(tie.group is None for tie in of_kind)
        counts.append(TiedBy(rule=kind, pictures=len(tied), groups=sets, found=found))
    return tuple(counts)


def _names_of_sets(dataset: Dataset, numbers: Indices, ties: Sequence[Tie]) -> dict[int, str]:
    """Name each set after its groups, or its first picture; no two sets get one name."""
    parts: dict[int, set[str]] = defaultdict(set)
    for index, picture in enumerate(dataset.pictures):
        if picture.group is not None:
            parts[int(numbers[index])].add(picture.group)
    for tie in ties:
        parts[int(numbers[tie.a])] |= {tie.group} if tie.group else set()
    names: dict[int, str] = {}
    taken: set[str] = set()
    for index, number in enumerate(numbers.tolist()):
        if number not in parts or number in names:
            continue
        path = dataset.pictures[index].path
        name = _joint_name(sorted(parts[number])) or path
        # Two rules may use one word for different things.
        names[number] = f"{name} ({path})" if name in taken else name
        taken.add(names[number])
    return names


def _joint_name(names: Sequence[str]) -> str:
    # Not `words.some`: a group's name is a part of the data set's fingerprint, not of a message.
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " + ".join(names[:_NAMED]) + more
