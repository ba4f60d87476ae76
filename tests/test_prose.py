"""The prose and the names of the sources: summaries that read alone, standard words, one class a name.

A folder (or file) of `SWEPT` conforms and stays so. To add one: put it there, run this file, and mend what it lists as
`file:line: what is written: the rule`.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages", "cluster")

SWEPT = (
    "cluster",
    "pipeline",
    "stages",
)
"""Folders and files that conform, relative to the repository."""

MAX_SUMMARY_CHARS = 120
MIN_SUMMARY_WORDS = 3

PLURAL_NOUNS = re.compile(
    r"(Accuracies|Activations|Addresses|Archives|Arguments|Arrays|Artifacts|Axes|Bars|Batches|Bounds|Bytes|Cells|"
    r"Channels|Chunks|Classes|Classifiers|Clips|Columns|Commands|Cores|Corners|Decoders|Devices|Differences|Digits|"
    r"Dimensions|Directories|Epochs|Errors|Events|Facts|Features|Files|Folders|Frames|Gates|Gradients|Images|Inputs|"
    r"Intervals|Kernels|Keys|Labels|Layers|Ledgers|Lengths|Lines|Links|Logits|Losses|Members|Metrics|Microseconds|"
    r"Models|Names|Networks|Nodes|Numbers|Operations|Options|Outputs|Pages|Pairs|Parameters|Parts|Patches|Paths|"
    r"Percepts|Pictures|Pixels|Places|Points|Predictions|Probabilities|Reasons|Reconstructions|Records|"
    r"Representations|Residuals|Results|Rows|Samples|Samplings|Scales|Scores|Seconds|Sequences|Series|Settings|"
    r"Shapes|Shards|Sizes|Slots|Sources|Spans|Splits|Stages|States|Statistics|Steps|Suffixes|Takedowns|Targets|Tasks|"
    r"Tensors|Texts|Ticks|Timestamps|Trainings|Units|Values|Variables|Verdicts|Videos|Weights|Windows|Words|Workers|"
    r"Across|Always|As|Besides|Its|Less|Perhaps|Plus|This|Thus|Unless|Yes),?"
)
"""Words in -s that begin a list of things, and not a sentence about what a function does."""

BAD_OPENINGS = re.compile(
    r"(Of|As|In the same|What|Whether|How|That|Whose|See|Where|When|Which|Why|It|They|Them|Those|These|So|And|Who)\b"
)
PEOPLE = re.compile(
    r"\b(who|whom|whoever|somebody|nobody|anybody|everybody|told|tells|asked|asks|mourn\w*|up for lost)\b",
    re.IGNORECASE,
)

VAGUE_NAMES = frozenset({"found", "mine", "theirs", "gone", "held", "told"})
STANDARD_NAMES = frozenset({"patience"})
"""Identifiers that the field spells so: early stopping's, though elsewhere it is a backoff."""

PRIVATE_WORDS = {
    "adopt": "import",
    "apart": "isolated",
    "bottleneck": "timings",
    "consulted": "validation",
    "effort": "timings",
    "judging": "inference",
    "lane": "queue",
    "mailbox": "event queue",
    "mourn": "handle a death",
    "outcome": "video result",
    "outcomes": "video results",
    "patience": "backoff",
    "pulse": "heartbeat",
    "retreat": "step backward",
    "settle": "collect results",
    "sightings": "lineage",
    "spool": "disk list",
    "staff": "worker allocation",
    "staffing": "worker allocation",
    "unjudged": "not evaluable",
    "vary": "augmentation",
}
"""Parts of identifiers that the field spells otherwise."""


class Docstring(NamedTuple):
    """A docstring, what it documents and where it stands."""

    kind: str
    name: str
    line: int
    text: str

    @property
    def summary(self) -> str:
        return self.text.strip().split("\n\n")[0]


def sources(place: str) -> list[Path]:
    """The Python files of a folder or a file, relative to the repository."""
    path = ROOT / place
    assert path.exists(), f"{place} of SWEPT is not there"
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def docstrings(tree: ast.Module) -> Iterator[Docstring]:
    """Every docstring of a module: its own, those of classes, functions and properties, and those below fields."""
    yield from _own(tree, "module", "module", 1)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
            yield from _own(node, "property" if is_property else "function", node.name, node.lineno)
        elif isinstance(node, ast.ClassDef):
            yield from _own(node, "class", node.name, node.lineno)
        if isinstance(node, ast.ClassDef | ast.Module):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign | ast.Assign) and _is_text(text):
                    target = field.target if isinstance(field, ast.AnnAssign) else field.targets[0]
                    yield Docstring("field", ast.unparse(target), text.lineno, ast.literal_eval(text.value))


def _own(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: str, name: str, line: int
) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        yield Docstring(kind, name, line, text)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def broken_rules(docstring: Docstring) -> Iterator[str]:
    """The rules that a docstring breaks."""
    summary = docstring.summary
    first, *rest = summary.split()
    is_long = "\n" in summary or len(summary) > MAX_SUMMARY_CHARS
    if is_long and docstring.kind != "field":
        yield f"the summary is one line of at most {MAX_SUMMARY_CHARS} characters; a blank line follows it"
    if not summary.endswith("."):
        yield "the summary is a sentence that ends with a full stop"
    if len(rest) + 1 < MIN_SUMMARY_WORDS:
        yield f"the summary can be read alone, in {MIN_SUMMARY_WORDS} words at least"
    if docstring.kind == "function":
        verb = re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)*s,?", first)
        is_noun = PLURAL_NOUNS.fullmatch(first) or rest[:1] == ["of"]
        if verb is None or is_noun:
            yield "the summary of a function starts with a verb in the third person (Returns, Writes, Raises)"
    elif BAD_OPENINGS.match(summary):
        yield f"the summary of a {docstring.kind} starts with an article or a noun"
    prose = re.sub(r"`[^`]*`|--[\w.-]+", "", docstring.text)
    if (word := PEOPLE.search(prose)) is not None:
        yield f"{word[0]!r} is for people, not for processes"


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every class, function, argument, variable and attribute that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def parts(name: str) -> list[str]:
    """The lower-case words of an identifier: `_DecodeLane` -> decode, lane."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def private_word(name: str) -> str | None:
    """Says what is wrong with an identifier, None where nothing is."""
    if name in VAGUE_NAMES:
        return f"`{name}` says nothing; name what it is"
    if name in STANDARD_NAMES:
        return None
    for word in parts(name):
        if word in PRIVATE_WORDS:
            return f"`{name}`: the field's word for `{word}` is {PRIVATE_WORDS[word]}"
    return None


def lines_of(place: str, kind: str) -> list[str]:
    lines = []
    for path in sources(place):
        tree = ast.parse(path.read_text())
        where = path.relative_to(ROOT)
        if kind == "prose":
            for text in docstrings(tree):
                lines += [f'{where}:{text.line}: {text.name}: "{text.summary}": {rule}' for rule in broken_rules(text)]
        else:
            names = {*defined_names(tree), (1, path.stem)}
            lines += [f"{where}:{line}: {rule}" for line, name in sorted(names) if (rule := private_word(name))]
    return lines


@pytest.mark.parametrize("place", SWEPT)
def test_the_docstrings_of_swept_folders_keep_the_rules(place: str) -> None:
    lines = lines_of(place, "prose")
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize("place", SWEPT)
def test_the_names_in_swept_folders_are_the_words_of_the_field(place: str) -> None:
    lines = lines_of(place, "names")
    assert not lines, "\n" + "\n".join(lines)


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    lines = [f"{name}: {', '.join(where)}: rename the one further up" for name, where in places.items() if where[1:]]
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f():\n    'Mean of the rows.'", "verb"),
        ("def f():\n    'Bytes that will be read.'", "verb"),
        ("def f():\n    'Return the mean of the rows.'", "third person"),
        ("def f():\n    'Returns the mean of the rows'", "full stop"),
        ("def f():\n    'Returns it.'", "read alone"),
        ("def f():\n    '''Returns the mean\n    of the rows.'''", "one line"),
        ("class C:\n    'As of a Score.'", "article or a noun"),
        ("class C:\n    n: int\n    'In the same unit.'", "article or a noun"),
        ("class C:\n    @property\n    def n(self):\n        'How many there are.'", "article or a noun"),
        ("'''What a run says of itself.'''", "article or a noun"),
        ("def f():\n    'Stops the worker that is told to stop.'", "people"),
    ],
)
def test_a_docstring_that_breaks_a_rule_is_reported(source: str, rule: str) -> None:
    (text,) = docstrings(ast.parse(source))
    assert any(rule in line for line in broken_rules(text))


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    'Returns the mean of the rows.'",
        "def f():\n    'Re-raises an error of a worker.'",
        "class C:\n    'A mean of rows.'",
        "class C:\n    n: int\n    'Price of one CPU core for an hour, in the currency of --who-pays.'",
    ],
)
def test_a_docstring_that_keeps_the_rules_is_not(source: str) -> None:
    (text,) = docstrings(ast.parse(source))
    assert not list(broken_rules(text))


@pytest.mark.parametrize("name", ["found", "_mourn", "DecodeLane", "video_outcomes", "staffing"])
def test_a_private_word_is_reported(name: str) -> None:
    assert private_word(name) is not None


@pytest.mark.parametrize("name", ["not_found", "planed", "results", "video_result", "held_out", "patience"])
def test_a_standard_word_is_not(name: str) -> None:
    assert private_word(name) is None
